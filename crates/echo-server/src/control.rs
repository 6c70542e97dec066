//! The control socket: what `ctl` asks a running server, and its answers. One question is one ECHO
//! frame, and so is its answer, so that the library's own bounds and deadlines hold here too.

use std::convert::Infallible;
use std::env;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use echo_core::{
    Address, Connection, Drain, Endpoint, Error, HEADER_LEN, Handler, Header, Kind, Limits,
    Listener, Report, ServeError, Service, SocketOptions, UnixName, serve,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::bind;
use crate::exit::{Failure, REFUSED, USAGE, reason};

/// The socket's name in systemd's `RuntimeDirectory=`.
const FILE_NAME: &str = "control.sock";
/// Who asks at once; more wait in the kernel's queue.
const AT_ONCE: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// How long somebody who asks may take for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the other end may take to close after ours.
const LINGER: Duration = Duration::from_secs(1);
/// The longest question or answer.
const MAX_LEN: u32 = 4096;
/// How long an answer may take: names to listen on may have to be resolved.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// The question there is.
const RELOAD: &[u8] = b"reload";
/// What an answer begins with.
const DONE: u8 = 0;
const FAILED: u8 = 1;

/// Where the socket is: where `wanted`, or else in its usual place.
pub(crate) fn path(wanted: Option<&Path>) -> Option<PathBuf> {
    let usual = || {
        // systemd joins several by colons.
        let folders = env::var_os("RUNTIME_DIRECTORY").filter(|it| !it.is_empty())?;
        Some(env::split_paths(&folders).next()?.join(FILE_NAME))
    };
    wanted.map(Path::to_owned).or_else(usual)
}

/// What the socket at a path is called.
pub(crate) fn name(path: &Path) -> String {
    format!("--control {}", path.display())
}

/// The socket at a path, as an address: for this user alone.
pub(crate) fn endpoint(path: PathBuf) -> Endpoint {
    let address = Address::Unix(UnixName::Path(path));
    Endpoint { address, tls: false, mode: None, perm: Some(0o600), rate: None, options: Vec::new() }
}

/// A wish to read the settings anew, and who waits for what becomes of it.
pub(crate) type Reload = oneshot::Sender<Result<String, String>>;

/// The server's side. Dropped, it closes and unlinks the socket.
pub(crate) struct Control {
    reloads: mpsc::Receiver<Reload>,
    /// Aborted with this.
    serving: JoinSet<Result<Report, ServeError>>,
}

impl Control {
    /// Listens at `path`, for this user alone; nowhere without one.
    pub(crate) fn listen(path: Option<&Path>) -> Result<Self, Failure> {
        let (sender, reloads) = mpsc::channel(AT_ONCE.get());
        let mut serving = JoinSet::new();
        if let Some(path) = path {
            let name = UnixName::Path(path.to_owned());
            let listener = Listener::bind_unix(&name, Some(0o600), &SocketOptions::default());
            let listener = listener
                .map_err(|error| bind::failure(&self::name(path), &Address::Unix(name), &error))?;
            let limits = Limits {
                max_connections: AT_ONCE,
                max_frame: MAX_LEN,
                idle_timeout: PATIENCE,
                frame_timeout: PATIENCE,
                write_timeout: PATIENCE,
                linger: LINGER,
                ..Limits::default()
            };
            let service = Service::new(limits, Drain::new());
            serving.spawn(serve(listener, service, Arc::new(Answers(sender))));
        }
        Ok(Self { reloads, serving })
    }

    /// Tells everybody who wants a reload that there is none, and `why`.
    pub(crate) async fn refuse(&mut self, why: &str) -> Infallible {
        loop {
            let asked = self.next().await;
            tracing::error!("not reloaded: {why}");
            // Who asked may have gone.
            let _ = asked.send(Err(format!("not reloaded: {why}")));
        }
    }

    /// Closes and unlinks the socket.
    pub(crate) async fn close(&mut self) {
        self.serving.shutdown().await;
    }

    /// Waits for somebody who wants a reload. Cancel safe.
    pub(crate) async fn next(&mut self) -> Reload {
        match self.reloads.recv().await {
            Some(reload) => reload,
            // There is no socket.
            None => std::future::pending().await,
        }
    }
}

struct Answers(mpsc::Sender<Reload>);

impl Handler for Answers {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        while let Some(question) = connection.recv().await? {
            let answer = match &question[..] {
                RELOAD => self.reload().await,
                _ => Err("this server does not know the question".to_owned()),
            };
            let (first, words) = match &answer {
                Ok(words) => (DONE, words),
                Err(words) => (FAILED, words),
            };
            let mut answer = [&[first], words.as_bytes()].concat();
            answer.truncate(MAX_LEN as usize);
            connection.send(&answer).await?;
        }
        Ok(())
    }
}

impl Answers {
    async fn reload(&self) -> Result<String, String> {
        let (sender, answer) = oneshot::channel();
        let stopping = || "the server stops".to_owned();
        self.0.send(sender).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// `ctl reload`: asks the server whose socket is at `path`, and gives its words, of success or not.
pub(crate) fn ask_for_reload(path: Option<&Path>) -> Result<Result<String, String>, Failure> {
    let Some(path) = path else {
        let advice = "no server to ask: --control PATH says where its socket is";
        return Err(Failure::new(USAGE, advice));
    };
    let failed = |error: &io::Error| {
        let (path, reason) = (path.display(), reason(error));
        Failure::new(REFUSED, format!("no answer from the server at {path}: {reason}"))
    };
    ask(path, RELOAD).map_err(|error| failed(&error))
}

fn ask(path: &Path, question: &[u8]) -> io::Result<Result<String, String>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    let header = Header { kind: Kind::ECHO, len: question.len() as u32 };
    stream.write_all(&[&header.to_bytes(), question].concat())?;
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).map_err(no_answer)?;
    let header = Header::parse(header);
    if header.kind != Kind::ECHO || header.len > MAX_LEN {
        return Err(no_control_socket());
    }
    let mut answer = vec![0; header.len as usize];
    stream.read_exact(&mut answer).map_err(no_answer)?;
    match answer.split_first() {
        Some((&DONE, words)) => Ok(Ok(String::from_utf8_lossy(words).into_owned())),
        Some((&FAILED, words)) => Ok(Err(String::from_utf8_lossy(words).into_owned())),
        _ => Err(no_control_socket()),
    }
}

fn no_answer(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other(
            "it closed without one: the server has stopped, or this is no control socket",
        ),
        _ => error,
    }
}

fn no_control_socket() -> io::Error {
    io::Error::other("this is no control socket; --control PATH says where it is")
}

//! `put`, `get`, `ls` and `rm`: files, over connections that may be lost at any time.

mod get;
mod list;
mod local;
mod progress;
mod put;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use echo_core::client::{Dialogue, Error, Fault, Options};
use echo_core::{Digest, Endpoint, ErrorFrame, Features, Header, Kind};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::args::Connecting;
use crate::escape::escape;
use crate::failure::Failure;
use crate::notice;
use crate::stdio::{self, Output};
use progress::Progress;

pub(crate) use get::run as get;
pub(crate) use list::{ls, rm};
pub(crate) use put::run as put;

/// How long to keep trying where the user says nothing: a restart of the server takes less.
const RETRY: Duration = Duration::from_secs(30);

/// How long to wait before a lost connection is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes of one DATA frame, where the server takes as many: more gained nothing.
const FRAME: usize = 256 << 10;

/// Frames under way: enough that neither side waits for the other's answer.
const WINDOW: usize = 8;

/// A file that is sent, or asked for, in one go, with others behind it.
const SMALL: u64 = 64 << 10;

/// So many small files are under way at once on a connection.
const SMALL_WINDOW: usize = 16;

/// Why something did not work out.
#[derive(Debug)]
enum Trouble {
    /// The connection is of no use any more. What had no answer may be tried again on another.
    Lost(Error),
    /// That one file cannot be transferred; others can.
    File(String),
    /// Nothing can go on.
    All(Failure),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Lost(error)
    }
}

/// What an ERROR frame says of a file.
fn refused(payload: &[u8]) -> Trouble {
    let Ok(ErrorFrame { code, text, .. }) = ErrorFrame::parse(payload) else {
        return unreadable(Kind::ERROR);
    };
    Trouble::File(format!("refused: the server says: {} (error {})", escape(&text), code.code()))
}

/// The server wrote what is no such frame.
fn unreadable(kind: Kind) -> Trouble {
    Trouble::Lost(Error::Different { at: 0, what: format!("the server's {kind:?} cannot be read") })
}

/// The payload of an answer that is not ERROR.
fn accepted((header, payload): (Header, Bytes)) -> Result<Bytes, Trouble> {
    if header.kind == Kind::ERROR { Err(refused(&payload)) } else { Ok(payload) }
}

/// What several connections work on together.
struct Work<T> {
    target: Endpoint,
    options: Options,
    quiet: bool,
    items: Mutex<VecDeque<T>>,
    progress: Progress,
    failed: AtomicU64,
    of: AtomicU64,
    output: Output,
}

impl<T: Send + 'static> Work<T> {
    fn next(&self) -> Option<T> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn is_empty(&self) -> bool {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn add(&self, items: impl IntoIterator<Item = T>) {
        let mut queue = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let before = queue.len();
        queue.extend(items);
        self.of.fetch_add((queue.len() - before) as u64, Relaxed);
    }

    /// Says that a file is not transferred.
    fn fail(&self, name: &[u8], why: &str) {
        self.failed.fetch_add(1, Relaxed);
        self.progress.say(&format!("{}: {why}", String::from_utf8_lossy(name)));
    }

    fn notice(&self, text: &str) {
        if !self.quiet {
            self.progress.say(text);
        }
    }

    /// A line on stdout. If its reader has gone, the transfers are still wanted.
    async fn print(&self, line: String) {
        self.progress.beside(stdio::write_line(&self.output, line.as_bytes())).await;
    }
}

/// What one connection is to be used for, again and again until all is done.
trait Worker<T>: Send + 'static {
    /// Works on items until none is left. What has no answer when the connection is lost is kept, for the
    /// next call.
    fn work(
        &mut self,
        dialogue: &mut Dialogue,
        work: &Work<T>,
        alive: &mut Instant,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Whether it has something to do already.
    fn is_busy(&self) -> bool;
}

/// Runs one worker over as many connections as it takes.
async fn endure<T: Send + 'static>(
    work: Arc<Work<T>>,
    mut worker: impl Worker<T>,
) -> Result<(), Failure> {
    let mut alive = Instant::now();
    while worker.is_busy() || !work.is_empty() {
        let left = work.options.retry.saturating_sub(alive.elapsed());
        let options = Options { retry: left, ..work.options.clone() };
        let mut dialogue = connect(&work.target, &options).await?;
        match worker.work(&mut dialogue, &work, &mut alive).await {
            Ok(()) => return Ok(()),
            Err(Trouble::All(failure)) => return Err(failure),
            Err(Trouble::File(why)) => return Err(Failure::Local(why)),
            Err(Trouble::Lost(error)) => {
                let left = work.options.retry.saturating_sub(alive.elapsed());
                if left.is_zero() || error.fault() != Fault::Path {
                    return Err(error.into());
                }
                work.notice(&format!("{}; going on", notice::lost(&error, true)));
                sleep(PAUSE.min(left)).await;
            }
        }
    }
    Ok(())
}

/// Runs as many workers as are worth it, and brings all of their results together.
async fn together<T: Send + 'static, W: Worker<T>>(
    work: Work<T>,
    connections: u8,
    worker: impl Fn() -> W,
) -> Result<(), Failure> {
    let work = Arc::new(work);
    let items = work.items.lock().unwrap_or_else(PoisonError::into_inner).len();
    let mut workers = JoinSet::new();
    for _ in 0..items.clamp(1, connections.into()) {
        workers.spawn(endure(Arc::clone(&work), worker()));
    }
    let mut ended = Ok(());
    while let Some(worker) = workers.join_next().await {
        let worker = worker.unwrap_or_else(|error| Err(Failure::Local(error.to_string())));
        // The first failure is the one that counts.
        ended = ended.and(worker);
        if ended.is_err() {
            workers.abort_all();
        }
    }
    work.progress.finish();
    ended?;
    match (work.failed.load(Relaxed), work.of.load(Relaxed)) {
        (0, _) => Ok(()),
        (failed, of) => Err(Failure::Local(format!("{failed} of {of} files not transferred"))),
    }
}

/// Prepares what is common to all commands, runs one, and lets its output end.
async fn with_output<F: Future<Output = Result<(), Failure>>>(
    run: impl FnOnce(Output) -> F,
) -> Result<(), Failure> {
    let start = |error: std::io::Error| Failure::local("cannot start", &error);
    let (output, written) = stdio::write_stdout().map_err(start)?;
    let done = run(output).await;
    // What was printed is written whatever happened.
    let written = written.await;
    stdio::finished(done, written).map(drop)
}

fn options(connecting: &Connecting, target: &Endpoint) -> Result<Options, Failure> {
    connecting.options(target, RETRY).map_err(Failure::Local)
}

/// A connection to a server that stores files.
async fn connect(target: &Endpoint, options: &Options) -> Result<Dialogue, Failure> {
    let dialogue = Dialogue::connect(target, options).await?;
    if !dialogue.session().features.contains(Features::FILES) {
        let text = "the server stores no files: it needs --files";
        return Err(Error::Rejected(text.to_owned()).into());
    }
    Ok(dialogue)
}

/// Passes over the answers to what was sent for a file that cannot be transferred: each frame has one.
async fn skip_answers(dialogue: &mut Dialogue) -> Result<(), Trouble> {
    while dialogue.unanswered() > 0 {
        dialogue.recv().await?;
    }
    Ok(())
}

/// Sends a frame with a small payload.
async fn send(
    dialogue: &mut Dialogue,
    kind: Kind,
    put: impl FnOnce(&mut Vec<u8>),
) -> Result<(), Trouble> {
    let mut payload = Vec::with_capacity(64);
    put(&mut payload);
    Ok(dialogue.send(kind, &[&payload]).await?)
}

/// The result of work on another thread.
async fn joined<T>(work: JoinHandle<T>) -> Result<T, Trouble> {
    work.await.map_err(|error| Trouble::All(Failure::Local(error.to_string())))
}

/// A digest and a name, as sha256sum(1) prints them.
fn sum_line(digest: Digest, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match name.contains(['\\', '\n', '\r']) {
        true => {
            let name = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
            format!("\\{digest}  {name}\n")
        }
        false => format!("{digest}  {name}\n"),
    }
}

//! `put`, `get`, `ls` and `rm`: files, over connections that may be lost at any time.

mod get;
mod list;
mod local;
mod patience;
mod progress;
mod put;
mod remove;
mod report;
mod source;
mod work;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use echo_core::client::{Dialogue, Error, Fault, Options};
use echo_core::{Endpoint, ErrorCode, ErrorFrame, Features, Header, Kind};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::args::Connecting;
use crate::escape::escape;
use crate::failure::Failure;
use crate::stdio::{self, Output};
use crate::{login, notice};

pub(crate) use get::run as get;
pub(crate) use list::ls;
use patience::PAUSE;
pub(crate) use put::run as put;
pub(crate) use remove::run as rm;
use report::Report;

/// How long to keep trying where the user says nothing: a restart of the server takes less.
const RETRY: Duration = Duration::from_secs(30);

/// Bytes of one DATA frame, where the server takes as many: a block of the server's. Half of it took a tenth longer, more
/// gained nothing.
const FRAME: usize = 512 << 10;

/// One frame of each connection together: a few of them are in memory, of which 64 MiB shall be enough for however many
/// connections.
const FRAMES: usize = 8 << 20;

/// Frames under way: enough that neither side waits for the other's answer.
const WINDOW: usize = 8;

/// A file that is sent, or asked for, in one go, with others behind it.
const SMALL: u64 = 64 << 10;

/// Why something did not work out.
#[derive(Debug)]
enum Trouble {
    /// The connection is of no use any more. What had no answer may be tried again on another.
    Lost(Error),
    /// The server has no place for it now, in its own words: others may leave theirs.
    Busy(String),
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

/// Where nothing else can be done.
impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Lost(error) => error.into(),
            Trouble::Busy(why) => Error::Rejected(why).into(),
            Trouble::File(why) => Self::Local(why),
            Trouble::All(failure) => failure,
        }
    }
}

/// Bytes of a DATA frame over each of so many connections.
fn frame(connections: u8) -> usize {
    FRAME.min(FRAMES / usize::from(connections.max(1)))
}

/// What an ERROR frame says of a file.
fn refused(payload: &[u8]) -> Trouble {
    let Ok(ErrorFrame { code, text, .. }) = ErrorFrame::parse(payload) else {
        return unreadable(Kind::ERROR);
    };
    let text = format!("the server says: {} (error {})", escape(&text), code.code());
    match code {
        ErrorCode::Busy => Trouble::Busy(text),
        ErrorCode::Denied => Trouble::File(format!("refused: {text}{}", login::advice())),
        _ => Trouble::File(format!("refused: {text}")),
    }
}

/// The server wrote what is no such frame.
fn unreadable(kind: Kind) -> Trouble {
    Trouble::Lost(Error::Different { at: 0, what: format!("the server's {kind:?} cannot be read") })
}

/// The payload of an answer that is not ERROR.
fn accepted((header, payload): (Header, Bytes)) -> Result<Bytes, Trouble> {
    if header.kind == Kind::ERROR { Err(refused(&payload)) } else { Ok(payload) }
}

/// Prepares what is common to all commands, runs one, and lets its output end.
async fn with_output<F: Future<Output = Result<(), Failure>>>(
    json: bool,
    run: impl FnOnce(Output) -> F,
) -> Result<(), Failure> {
    let start = |error: std::io::Error| Failure::local("cannot start", &error);
    let (output, written) = stdio::write_stdout().map_err(start)?;
    let done = run(output.clone()).await;
    if let Err(failure) = &done
        && json
    {
        let fields = json!({ "error": failure.to_string() });
        stdio::write_line(&output, report::object("error", None, fields).as_bytes()).await;
    }
    drop(output);
    // What was printed is written whatever happened.
    let written = written.await;
    stdio::finished(done, written).map(drop)
}

fn options(connecting: &Connecting, target: &Endpoint) -> Result<Options, Failure> {
    connecting.options(target, RETRY).map_err(Failure::Local)
}

/// A connection to a server that stores files, tried for `left`. Whoever has to wait is told why.
async fn connect(
    target: &Endpoint,
    options: &Options,
    left: Duration,
    report: &Report,
) -> Result<Dialogue, Failure> {
    let began = Instant::now();
    let within = |retry| Options { retry, ..options.clone() };
    let dialogue = match Dialogue::connect(target, &within(Duration::ZERO)).await {
        Err(error) if error.fault() == Fault::Path && began.elapsed() < left => {
            // To the second, and never more than the user gave.
            let second = Duration::from_secs(1);
            let rounded = Duration::from_secs((left + second / 2).as_secs());
            let told = rounded.max(second).min(options.retry);
            report.retrying(&notice::retrying(&error, told)).await;
            sleep(PAUSE.min(left)).await;
            Dialogue::connect(target, &within(left.saturating_sub(began.elapsed()))).await?
        }
        connected => connected?,
    };
    report.connected();
    if !dialogue.session().features.contains(Features::FILES) {
        let text = "the server stores no files: it needs --files";
        return Err(Error::Rejected(text.to_owned()).into());
    }
    Ok(dialogue)
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

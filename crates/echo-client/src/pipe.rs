//! The pipe: stdin through the server to stdout.
//!
//! ```text
//! stdin ──▶ channel ──▶ push ──▶ ┌────────┐ ──▶ socket        one loop, which does whatever can be
//!                                │ Client │                   done: no direction waits for the other
//! stdout ◀── channel ◀── next ◀─ └────────┘ ◀── socket
//! ```
//!
//! It cannot deadlock: the client reads whenever there is room in the stdout channel; and while the
//! consumer leaves no room, the socket fills, the server stops reading, our writes stop, the client's
//! window fills and stdin is left alone: back-pressure all the way, in bounded memory.

mod datagrams;
mod progress;

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes};
use echo_core::client::{Client, Dialect, Error, Event, Options};
use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use crate::args::Args;
use crate::failure::Failure;
use crate::notice;
use crate::stdio::{self, CHUNK, Input, Output};
use progress::Progress;

/// What the path and the server may have under way, which on a long fat path is megabytes; what is
/// beyond it waits in stdin.
const WINDOW: usize = 8 << 20;

/// Copies stdin through the server, to stdout or to a digest.
pub(crate) async fn copy(args: &Args) -> Result<(), Failure> {
    let options = args.connecting.options(&args.target, Duration::ZERO);
    let options = options.map_err(Failure::Local)?;
    let progress = Progress::new(args.connecting.quiet, !args.verify);
    let mut way = if args.target.address.is_datagram() {
        Way::Datagrams(Box::new(datagrams::Pipe::open(args, options, progress).await?))
    } else {
        Way::Stream(Box::new(Pipe::open(args, options, progress).await?))
    };
    // Not before: what nobody can answer stays in the producer's hands.
    let start = |error: io::Error| Failure::local("cannot start", &error);
    let mut stdin = stdio::read_stdin().map_err(start)?;
    if args.verify {
        let began = Instant::now();
        let (output, digest) = stdio::digest().map_err(start)?;
        let copied = way.run(&mut stdin, &output).await;
        drop(output);
        let digest = stdio::finished(copied, digest.await)?;
        report(args.json, &mut way, began.elapsed(), digest)?;
    } else {
        let (stdout, written) = stdio::write_stdout().map_err(start)?;
        let copied = way.run(&mut stdin, &stdout).await;
        // What was verified is written whatever happened, and before anything is said about it.
        drop(stdout);
        if stdio::finished(copied, written.await)?.is_none() {
            // Whoever reads has seen enough: what is missing from the rest is nobody's loss.
            return Ok(());
        }
    }
    match way {
        Way::Stream(_) => Ok(()),
        Way::Datagrams(mut pipe) => pipe.verdict(),
    }
}

/// What the copy goes through.
enum Way {
    Stream(Box<Pipe>),
    Datagrams(Box<datagrams::Pipe>),
}

impl Way {
    async fn run(&mut self, stdin: &mut Input, stdout: &Output) -> Result<(), Failure> {
        match self {
            Self::Stream(pipe) => pipe.run(stdin, stdout).await,
            Self::Datagrams(pipe) => pipe.run(stdin, stdout).await,
        }
    }
}

/// Says what was verified.
fn report(
    json: bool,
    way: &mut Way,
    took: Duration,
    sha256: Option<String>,
) -> Result<(), Failure> {
    let (bytes, counts) = match way {
        Way::Stream(pipe) => {
            pipe.voice.progress.erase();
            (pipe.client.bytes_answered(), None)
        }
        Way::Datagrams(pipe) => {
            pipe.progress.erase();
            (pipe.bytes_answered(), Some(pipe.counts()))
        }
    };
    let sha256 = sha256.unwrap_or_default();
    let seconds = took.as_secs_f64();
    let rate = bytes as f64 / seconds.max(f64::MIN_POSITIVE);
    let line = if json {
        let mut report = serde_json::json!({
            "bytes": bytes,
            "seconds": seconds,
            "bytes_per_second": rate.round() as u64,
            "sha256": sha256,
        });
        if let Some(counts) = counts {
            report["datagrams"] = counts.json();
        }
        format!("{report}\n")
    } else {
        let size = progress::size(bytes as f64);
        let rate = progress::size(rate);
        format!("{bytes} bytes ({size}) in {seconds:.3} s, {rate}/s, sha256 {sha256}\n")
    };
    crate::print(line.as_bytes())
}

/// The state that both directions share.
struct Pipe {
    client: Client,
    /// What stdin brought and the client has not taken yet.
    pending: Bytes,
    /// Stdin has ended.
    ended: bool,
    /// What came back and waits for room in the output.
    verified: Vec<u8>,
    voice: Voice,
}

impl Pipe {
    fn new(client: Client, voice: Voice) -> Self {
        Self { client, pending: Bytes::new(), ended: false, verified: Vec::new(), voice }
    }

    /// A pipe with a connection.
    async fn open(args: &Args, options: Options, progress: Progress) -> Result<Self, Failure> {
        let options = Options { window: WINDOW, parts: true, ..options };
        let voice =
            Voice { progress, retry: options.retry, due: false, told: false, connected: false };
        let mut pipe = Self::new(Client::new(&args.target, options), voice);
        while pipe.client.session().is_none() {
            if let Some(event) = pipe.client.next().await? {
                pipe.voice.tell(&event);
            }
        }
        Ok(pipe)
    }

    /// Copies until the server has ended the stream with every byte answered and equal, or the
    /// consumer has closed `stdout`.
    async fn run(&mut self, stdin: &mut Input, stdout: &Output) -> Result<(), Failure> {
        // Room for one chunk of answers. Only with it is the client driven.
        let mut room: Option<Permit<'_, _>> = None;
        loop {
            self.ask()?;
            self.voice.due = self.client.unanswered() > 0;
            room = room.or_else(|| stdout.try_reserve().ok());
            let takes = self.pending.is_empty() && !self.ended;
            // In random order, so that neither direction starves.
            tokio::select! {
                event = self.client.next(), if room.is_some() => {
                    let over = match event {
                        Ok(Some(event)) => self.voice.take(event, &mut self.verified).map(|()| false),
                        Ok(None) => Ok(true),
                        Err(error) => self.over(error, stdin).map(|()| true),
                    };
                    let over = over.and_then(|over| self.gather().map(|()| over));
                    if !self.verified.is_empty() && let Some(room) = room.take() {
                        room.send(std::mem::take(&mut self.verified).into());
                    }
                    if over? {
                        return Ok(());
                    }
                }
                chunk = stdin.recv(), if takes => match chunk {
                    Some(chunk) => {
                        self.pending =
                            chunk.map_err(|error| Failure::local("cannot read stdin", &error))?;
                    }
                    None => {
                        self.ended = true;
                        self.client.finish();
                    }
                },
                permit = stdout.reserve(), if room.is_none() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    room = Some(permit);
                }
                () = stdout.closed() => return Ok(()),
                () = self.voice.progress.due() => {
                    self.voice.progress.show(self.client.bytes_answered());
                }
            }
        }
    }

    /// Gives the client what stdin brought, as much as the socket has use for.
    fn ask(&mut self) -> Result<(), Failure> {
        while !self.pending.is_empty() && self.client.unsent() < CHUNK {
            let max = match self.client.session() {
                Some(session) if session.dialect == Dialect::Framed => session.max_frame as usize,
                _ => CHUNK,
            };
            let len = self.pending.len().min(max);
            if len == 0 {
                let what = "the server takes empty frames only".to_owned();
                return Err(Error::Rejected(what).into());
            }
            if self.client.room() < len {
                break;
            }
            self.client.push(&self.pending[..len]).map_err(Error::from)?;
            self.pending.advance(len);
        }
        Ok(())
    }

    /// Takes what else the last read brought, up to a chunk.
    fn gather(&mut self) -> Result<(), Failure> {
        while self.verified.len() < CHUNK {
            let Some(event) = self.client.ready() else { break };
            self.voice.take(event, &mut self.verified)?;
        }
        Ok(())
    }

    /// The client is at its end. If all was answered and stdin has ended as well, unseen until now,
    /// that is no failure of a server that left in order.
    fn over(&mut self, error: Error, stdin: &mut Input) -> Result<(), Failure> {
        let Error::ClosedEarly(mut early) = error else { return Err(error.into()) };
        if self.ended || early.bytes_unanswered > 0 || early.inside_frame {
            return Err(Error::ClosedEarly(early).into());
        }
        if self.pending.is_empty() {
            match stdin.try_recv() {
                Ok(chunk) => {
                    self.pending =
                        chunk.map_err(|error| Failure::local("cannot read stdin", &error))?;
                }
                Err(TryRecvError::Disconnected) if early.orderly => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Error::ClosedEarly(early).into()),
                Err(TryRecvError::Empty) => return Err(Failure::StillOpen(early)),
            }
        }
        early.asked += 1;
        early.bytes_unanswered = self.pending.len() as u64;
        Err(Error::ClosedEarly(early).into())
    }
}

/// What the user is told while it runs.
struct Voice {
    progress: Progress,
    retry: Duration,
    /// An answer is due.
    due: bool,
    /// That the server cannot be reached has been told.
    told: bool,
    /// There has been a connection.
    connected: bool,
}

impl Voice {
    /// Takes what happened: verified bytes for the output, the rest for the user.
    fn take(&mut self, event: Event<'_>, verified: &mut Vec<u8>) -> Result<(), Failure> {
        match event {
            Event::Part(bytes) => verified.extend_from_slice(bytes),
            Event::Reply(reply) => verified.extend_from_slice(reply.fresh),
            Event::Refused(refusal) => return Err(Error::from(refusal).into()),
            Event::Unexpected(unexpected) => return Err(Error::from(unexpected).into()),
            other => self.tell(&other),
        }
        Ok(())
    }

    fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Connected { session, resent } => {
                if session.fell_back {
                    let text = "the server echoes HELLO itself (RFC 862): going on raw";
                    self.progress.say(text);
                }
                if self.connected {
                    self.progress
                        .say(&format!("connected again{}", notice::resent(*resent, "frame")));
                }
                (self.told, self.connected) = (false, true);
            }
            Event::Lost(why) => {
                let then = match self.due {
                    true => "connecting again",
                    false => "more of stdin connects again",
                };
                self.progress.say(&format!("{}; {then}", notice::lost(why, self.due)));
            }
            Event::Retrying { why, .. } if !self.told => {
                self.told = true;
                self.progress.say(&notice::retrying(why, self.retry));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;

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
mod stream;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use echo_core::client::{Error, Options};
use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Instant, sleep_until};

use crate::args::Args;
use crate::failure::Failure;
use crate::stdio::{self, Input, Output};
use datagrams::{Counts, Datagrams};
use progress::Progress;
use stream::Stream;

/// Copies stdin through the server, to stdout or to a digest.
pub(crate) async fn copy(args: &Args) -> Result<(), Failure> {
    let options = args.connecting.options(&args.target, Duration::ZERO);
    let options: Options = options.map_err(Failure::Local)?;
    let mut progress = Progress::new(args.connecting.quiet, !args.verify);
    if args.target.address.is_datagram() {
        let datagrams = Datagrams::open(args, options).await?;
        copy_through(args, Pipe::new(datagrams, progress)).await
    } else {
        let stream = Stream::open(&args.target, options, &mut progress).await?;
        copy_through(args, Pipe::new(stream, progress)).await
    }
}

async fn copy_through<W: Way>(args: &Args, mut pipe: Pipe<W>) -> Result<(), Failure> {
    // Not before: what nobody can answer stays in the producer's hands.
    let start = |error: io::Error| Failure::local("cannot start", &error);
    let mut stdin = stdio::read_stdin().map_err(start)?;
    if args.verify {
        let began = Instant::now();
        let (output, digest) = stdio::digest().map_err(start)?;
        let copied = pipe.run(&mut stdin, &output).await;
        drop(output);
        let digest = stdio::finished(copied, digest.await)?;
        pipe.report(args.json, began.elapsed(), &digest.unwrap_or_default())?;
    } else {
        let (stdout, written) = stdio::write_stdout().map_err(start)?;
        let copied = pipe.run(&mut stdin, &stdout).await;
        // What was verified is written whatever happened, and before anything is said about it.
        drop(stdout);
        if stdio::finished(copied, written.await)?.is_none() {
            // Whoever reads has seen enough: what is missing from the rest is nobody's loss.
            return Ok(());
        }
    }
    pipe.way.verdict(&mut pipe.progress)
}

/// What the copy goes through: a client of one kind.
trait Way {
    /// Asks what stdin brought, as much as may be under way. Until when it waits with more, if nothing
    /// but its pace hinders it.
    fn ask(&mut self, pending: &mut Bytes) -> Result<Option<Instant>, Error>;

    /// Asks nothing more.
    fn finish(&mut self);

    /// Waits for what happens, and takes it. Whether it goes on.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it has taken nothing.
    async fn next(&mut self, heard: &mut Heard) -> Result<bool, Error>;

    /// Bytes that came back.
    fn bytes_answered(&self) -> u64;

    /// What became of datagrams.
    fn counts(&self) -> Option<&Counts> {
        None
    }

    /// What is left to be said when all has been copied.
    fn verdict(&self, _progress: &mut Progress) -> Result<(), Failure> {
        Ok(())
    }
}

/// What has happened.
#[derive(Default)]
struct Heard {
    /// What came back and waits for room in the output.
    verified: Vec<u8>,
    /// What is to be said.
    notices: Vec<String>,
}

/// The state that both directions share.
struct Pipe<W> {
    way: W,
    /// What stdin brought and the client has not taken yet.
    pending: Bytes,
    /// Stdin has ended.
    ended: bool,
    heard: Heard,
    progress: Progress,
}

impl<W: Way> Pipe<W> {
    fn new(way: W, progress: Progress) -> Self {
        Self { way, pending: Bytes::new(), ended: false, heard: Heard::default(), progress }
    }

    /// Copies until the end that the server or, of datagrams, the last reply makes, or until the
    /// consumer has closed `stdout`.
    async fn run(&mut self, stdin: &mut Input, stdout: &Output) -> Result<(), Failure> {
        // Room for one chunk of answers. Only with it is the client driven.
        let mut room: Option<Permit<'_, _>> = None;
        loop {
            let paced = self.way.ask(&mut self.pending)?;
            room = room.or_else(|| stdout.try_reserve().ok());
            let takes = self.pending.is_empty() && !self.ended;
            // In random order, so that neither direction starves.
            tokio::select! {
                goes_on = self.way.next(&mut self.heard), if room.is_some() => {
                    let Heard { verified, notices } = &mut self.heard;
                    notices.drain(..).for_each(|notice| self.progress.say(&notice));
                    if !verified.is_empty() && let Some(room) = room.take() {
                        room.send(std::mem::take(verified).into());
                    }
                    match goes_on {
                        Ok(true) => {}
                        Ok(false) => return Ok(()),
                        Err(error) => return self.over(error, stdin),
                    }
                }
                chunk = stdin.recv(), if takes => match chunk {
                    Some(chunk) => self.take(chunk)?,
                    None => {
                        self.ended = true;
                        self.way.finish();
                    }
                },
                permit = stdout.reserve(), if room.is_none() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    room = Some(permit);
                }
                () = stdout.closed() => return Ok(()),
                () = sleep_until(paced.unwrap_or_else(Instant::now)), if paced.is_some() => {}
                () = self.progress.due() => self.progress.show(self.way.bytes_answered()),
            }
        }
    }

    fn take(&mut self, chunk: io::Result<Bytes>) -> Result<(), Failure> {
        self.pending = chunk.map_err(|error| Failure::local("cannot read stdin", &error))?;
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
                Ok(chunk) => self.take(chunk)?,
                Err(TryRecvError::Disconnected) if early.orderly => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Error::ClosedEarly(early).into()),
                Err(TryRecvError::Empty) => return Err(Failure::StillOpen(early)),
            }
        }
        early.asked += 1;
        early.bytes_unanswered = self.pending.len() as u64;
        Err(Error::ClosedEarly(early).into())
    }

    /// Says what was verified.
    fn report(&mut self, json: bool, took: Duration, sha256: &str) -> Result<(), Failure> {
        self.progress.erase();
        let bytes = self.way.bytes_answered();
        let seconds = took.as_secs_f64();
        let rate = bytes as f64 / seconds.max(f64::MIN_POSITIVE);
        let line = if json {
            let mut report = serde_json::json!({
                "bytes": bytes,
                "seconds": seconds,
                "bytes_per_second": rate.round() as u64,
                "sha256": sha256,
            });
            if let Some(counts) = self.way.counts() {
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
}

#[cfg(test)]
mod tests;

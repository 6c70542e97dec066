//! The pipe: stdin through the server to stdout.
//!
//! ```text
//! stdin ──▶ channel ──▶ Answers ──▶ socket          one loop, which does whatever can be done:
//!                          │                        no direction ever waits for the other
//! stdout ◀── channel ◀── check ◀─── socket
//! ```
//!
//! It cannot deadlock: reading from the server depends on room in the stdout channel alone, never on
//! a write; and while the consumer leaves no room, the socket fills, the server stops reading, our
//! writes stop, [`Answers`] fills and stdin is left alone: back-pressure all the way, in bounded
//! memory (8 MiB of answers, 512 KiB in each channel, one read buffer).

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Instant, Sleep, sleep};

use crate::answers::{Answers, Dialect};
use crate::failure::{Failure, reason};
use crate::stdio::{CHUNK, Input, Output};

/// Copies `stdin` through the server to `stdout`, and returns once the server has ended the stream
/// with every byte answered and equal, or the consumer has closed `stdout`.
///
/// `silence` bounds how long nothing may come while something is due. A consumer that is slow to
/// take the answers is no silence of the server's.
pub(crate) async fn run(
    connection: (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    dialect: Dialect,
    stdin: &mut Input,
    stdout: &Output,
    silence: Duration,
) -> Result<(), Failure> {
    let (reader, writer) = connection;
    let mut pipe = Pipe { answers: Answers::new(dialect), sending: Sending::Open };
    let mut silence = Silence::new(silence);
    let mut buffer = vec![0; CHUNK];
    // Room for one chunk of answers. Only with it is the socket read.
    let mut room: Option<Permit<'_, _>> = None;
    loop {
        room = room.or_else(|| stdout.try_reserve().ok());
        silence.watch(room.is_some() && pipe.expects());
        // In random order, so that neither direction starves. A single `write` takes bytes only
        // when it completes, so it may be dropped while it waits, as the reads may.
        tokio::select! {
            read = reader.read(&mut buffer), if room.is_some() => {
                silence.broken();
                let mut verified = Vec::new();
                let over = pipe.receive(read.map(|len| &buffer[..len]), &mut verified, stdin);
                if !verified.is_empty() && let Some(room) = room.take() {
                    room.send(verified.into());
                }
                if over? {
                    return Ok(());
                }
            }
            sent = send(writer, &pipe.answers), if pipe.sends() => pipe.sent(sent),
            chunk = stdin.recv(), if pipe.asks() => pipe.ask(chunk)?,
            permit = stdout.reserve(), if room.is_none() => {
                let Ok(permit) = permit else { return Ok(()) };
                room = Some(permit);
            }
            () = stdout.closed() => return Ok(()),
            () = silence.expired() => return Err(pipe.silent(silence.limit)),
        }
    }
}

/// Writes some of what waits for the socket; when nothing waits, FIN, which is 0.
async fn send(writer: &mut (impl AsyncWrite + Unpin), answers: &Answers) -> io::Result<usize> {
    if answers.unsent() == 0 {
        return writer.shutdown().await.map(|()| 0);
    }
    match writer.write_vectored(&answers.to_send()).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        len => Ok(len),
    }
}

/// The state that both directions share.
struct Pipe {
    answers: Answers,
    sending: Sending,
}

/// How far the sending direction is.
enum Sending {
    /// Stdin may bring more.
    Open,
    /// Stdin has ended: FIN follows the last byte.
    Ending,
    /// FIN is sent; the server's is due.
    Finished,
    /// The socket takes no more. What the server sent before it closed can still be read, and may
    /// say why.
    Broken(io::Error),
}

impl Pipe {
    fn expects(&self) -> bool {
        !self.answers.is_complete() || !matches!(self.sending, Sending::Open)
    }

    fn sends(&self) -> bool {
        match self.sending {
            Sending::Open => self.answers.unsent() > 0,
            Sending::Ending => true,
            Sending::Finished | Sending::Broken(_) => false,
        }
    }

    fn asks(&self) -> bool {
        self.answers.has_room() && matches!(self.sending, Sending::Open)
    }

    /// Takes what stdin brought; `None` is its end.
    fn ask(&mut self, chunk: Option<io::Result<Bytes>>) -> Result<(), Failure> {
        match chunk {
            Some(Ok(chunk)) => self.answers.ask(&chunk),
            Some(Err(error)) => {
                return Err(Failure::Local(format!("cannot read stdin: {}", reason(&error))));
            }
            None => self.sending = Sending::Ending,
        }
        Ok(())
    }

    /// Takes note of what [`send`] did.
    fn sent(&mut self, sent: io::Result<usize>) {
        match sent {
            Ok(0) => self.sending = Sending::Finished,
            Ok(len) => self.answers.mark_sent(len),
            Err(error) => self.sending = Sending::Broken(error),
        }
    }

    /// Judges what the socket brought; `true` when the server has ended the stream and all is well.
    fn receive(
        &mut self,
        read: io::Result<&[u8]>,
        verified: &mut Vec<u8>,
        stdin: &mut Input,
    ) -> Result<bool, Failure> {
        let bytes = read.map_err(|error| self.lost(&error))?;
        self.answers.check(bytes, verified)?;
        let left = self.answers.goaway();
        if bytes.is_empty() || left.is_some() {
            self.look_for_the_end(stdin)?;
            let complete = self.answers.is_complete() && !self.answers.is_inside_frame();
            if !complete || matches!(self.sending, Sending::Open) {
                return Err(match (left, &self.sending) {
                    (Some(left), _) if complete => {
                        Failure::ClosedEarly(format!("{left}, stdin was still open"))
                    }
                    (Some(left), _) => Failure::ClosedEarly(left),
                    (None, Sending::Broken(error)) => self.lost(error),
                    (None, _) => self.early("the server ended the stream"),
                });
            }
        }
        Ok(bytes.is_empty())
    }

    /// The server ended the stream; if stdin has ended as well and this has not been seen yet, it
    /// must not count as open.
    fn look_for_the_end(&mut self, stdin: &mut Input) -> Result<(), Failure> {
        if matches!(self.sending, Sending::Open) {
            match stdin.try_recv() {
                Ok(chunk) => self.ask(Some(chunk))?,
                Err(TryRecvError::Disconnected) => self.ask(None)?,
                Err(TryRecvError::Empty) => {}
            }
        }
        Ok(())
    }

    fn lost(&self, error: &io::Error) -> Failure {
        match self.early(&reason(error)) {
            Failure::ClosedEarly(what) if error.kind() == io::ErrorKind::TimedOut => {
                Failure::TimedOut(what)
            }
            failure => failure,
        }
    }

    fn early(&self, how: &str) -> Failure {
        let place = if self.answers.is_inside_frame() { " inside a frame" } else { "" };
        Failure::ClosedEarly(match (self.answers.unanswered(), &self.sending) {
            (0, Sending::Open) => format!("{how}{place} while stdin was open, {}", self.all()),
            (0, _) => format!("{how}{place}, {}", self.all()),
            (unanswered, _) => format!("{how}{place}: {} unanswered", bytes(unanswered)),
        })
    }

    fn silent(&self, limit: Duration) -> Failure {
        Failure::TimedOut(match self.answers.unanswered() {
            0 => format!("the server did not end the stream for {limit:?}, {}", self.all()),
            unanswered => format!("nothing came for {limit:?}: {} unanswered", bytes(unanswered)),
        })
    }

    fn all(&self) -> String {
        format!("all {} answered", bytes(self.answers.answered()))
    }
}

fn bytes(count: u64) -> String {
    if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") }
}

/// How long nothing has come while something was due. One timer that runs on and is only compared
/// when it fires: moving it with each read would go through the runtime's timer lock.
struct Silence {
    limit: Duration,
    since: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, since: None, alarm: Box::pin(sleep(limit)) }
    }

    /// Runs the clock while `due`, from the first call on.
    fn watch(&mut self, due: bool) {
        self.since = if due { self.since.or_else(|| Some(Instant::now())) } else { None };
    }

    /// Something came.
    fn broken(&mut self) {
        self.since = None;
    }

    /// Waits until the silence has lasted for the limit.
    ///
    /// # Cancel safety
    /// Nothing is lost: all state is in `self`.
    async fn expired(&mut self) {
        loop {
            self.alarm.as_mut().await;
            let now = Instant::now();
            let end = self.since.unwrap_or(now) + self.limit;
            if end <= now {
                return;
            }
            self.alarm.as_mut().reset(end);
        }
    }
}

#[cfg(test)]
mod tests;

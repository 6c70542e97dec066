//! A conversation in frames that its caller leads: for what is no echo, as files are.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::sleep;

use super::error::{Words, leaving};
use super::establish::{Up, establish};
use super::retry::Retry;
use super::silence::Silence;
use super::{ClosedEarly, Dialect, Error, Options, Session, Target};
use crate::connection::with_scratch;
use crate::frame::{Goaway, HEADER_LEN, Header, Kind, ListReply, MAX_PAYLOAD_LEN, Read};
use crate::stream::Stream;
use crate::waiting::poll_budget;

/// What of a part goes out together with what was queued before it: no header is a packet of its own,
/// and the rest is not copied.
const COPIED: usize = 16 << 10;

/// What is queued at most before it is written.
const QUEUED: usize = 64 << 10;

/// What is read ahead while a write has to wait, so that two sides that both write do not wait for each
/// other.
const READ_AHEAD: usize = 1 << 20;

/// Bytes that any answer may have: a list is longer than all that is control.
const ANY: u32 = ListReply::MAX_LEN;

/// A connection on which the caller sends frames and receives their answers, one for each, in order. It
/// does not connect again by itself.
#[derive(Debug)]
pub struct Dialogue {
    stream: Stream,
    session: Session,
    /// Read, and not received yet.
    input: BytesMut,
    /// Queued, and not written yet.
    output: BytesMut,
    silence: Silence,
    timeout: Duration,
    /// The frames without an answer.
    due: VecDeque<Due>,
    asked: u64,
    /// The socket takes no more. What the server sent before can still be read, and may say why.
    broken: Option<io::Error>,
}

/// A frame without an answer.
#[derive(Clone, Copy, Debug)]
struct Due {
    kind: Kind,
    /// Bytes of its answer at most: whatever the server does, no more are kept.
    most: u32,
}

impl Due {
    /// What comes back of ECHO and PROBE has a length of its own, and READ asks for one; `max` is the server's longest
    /// frame.
    fn of(kind: Kind, parts: &[&[u8]], max: u32) -> Self {
        let most = match kind {
            Kind::READ => Read::parse(&parts.concat()).map_or(max, |read| read.len.min(max)),
            Kind::ECHO | Kind::PROBE => max,
            _ => 0,
        };
        Self { kind, most: most.max(ANY) }
    }
}

impl Dialogue {
    /// Connects, trying for [`Options::retry`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it leaves nothing behind.
    ///
    /// # Errors
    /// What hinders the last attempt, and [`Error::Rejected`] where the server speaks no frames.
    pub async fn connect(target: impl Into<Target>, options: &Options) -> Result<Self, Error> {
        let (target, options) = (target.into(), options.clone().bounded());
        let mut retry = Retry::new(options.retry);
        loop {
            retry.begin();
            let error = match establish(&target, &options).await {
                Ok(up) if up.session.dialect == Dialect::Framed => {
                    return Ok(Self::new(up, &options));
                }
                Ok(_) => {
                    let text = "the server speaks no frames: it can only echo";
                    return Err(Error::Rejected(text.to_owned()));
                }
                Err(error) => error,
            };
            if !retry.is_allowed() || !error.may_pass() {
                return Err(error);
            }
            match retry.pause() {
                Some(pause) => sleep(pause).await,
                None => return Err(retry.give_up(Some(error))),
            }
        }
    }

    fn new(up: Up, options: &Options) -> Self {
        Self {
            stream: up.stream,
            session: up.session,
            input: BytesMut::from(&up.input[..]),
            output: BytesMut::new(),
            silence: Silence::new(options.timeout),
            timeout: options.timeout,
            due: VecDeque::new(),
            asked: 0,
            broken: None,
        }
    }

    /// What the first exchange said.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// How many frames have had no answer yet.
    pub fn unanswered(&self) -> usize {
        self.due.len()
    }

    /// Sends a frame, whose payload is in `parts`. A small one waits for others, at the latest for
    /// [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped before it is ready, it may have sent a part of the frame, and the
    /// connection is of no use any more.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if the server reads nothing for [`Options::timeout`]. That the connection is
    /// broken is told by [`recv`](Self::recv), behind what came before.
    ///
    /// # Panics
    /// When the payload is over [`MAX_PAYLOAD_LEN`].
    pub async fn send(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<(), Error> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        assert!(len <= MAX_PAYLOAD_LEN, "a payload length has 24 bits");
        self.output.extend_from_slice(&Header { kind, len }.to_bytes());
        self.due.push_back(Due::of(kind, parts, self.session.max_frame));
        self.asked += 1;
        for part in parts {
            let (copied, rest) = part.split_at(part.len().min(COPIED));
            self.output.extend_from_slice(copied);
            if !rest.is_empty() || self.output.len() >= QUEUED {
                self.flush().await?;
                self.write(rest).await?;
            }
        }
        Ok(())
    }

    /// Sends what is queued.
    ///
    /// # Cancel safety
    /// As of [`send`](Self::send).
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    pub async fn flush(&mut self) -> Result<(), Error> {
        let output = std::mem::take(&mut self.output);
        self.write(&output).await?;
        self.output = output;
        self.output.clear();
        Ok(())
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.silence.end();
        while !bytes.is_empty() && self.broken.is_none() {
            let written = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        loop {
            match self.stream.poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => self.broken = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.silence.end();
                    return Poll::Ready(Ok(written));
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Poll::Ready(Err(error)) => self.broken = Some(error),
                Poll::Pending if self.input.len() < READ_AHEAD => {
                    match ready!(self.poll_fill(cx))? {
                        true => continue,
                        false => self.broken = Some(io::ErrorKind::BrokenPipe.into()),
                    }
                }
                Poll::Pending => {
                    let limit = ready!(self.silence.poll(cx));
                    let text = format!("the server read nothing for {limit:?}");
                    return Poll::Ready(Err(Error::TimedOut(text)));
                }
            }
            return Poll::Ready(Ok(0));
        }
    }

    /// Receives the next answer: its header and its payload. That is no longer than what READ asked for, or 64 KiB; that
    /// of ECHO and PROBE may be as long as the server's longest frame. Sends what is queued first.
    ///
    /// # Cancel safety
    /// Cancel safe once all is sent ([`flush`](Self::flush)): what has come in part stays.
    ///
    /// # Errors
    /// [`Error::ClosedEarly`] after GOAWAY and at the end of the stream, [`Error::TimedOut`] if nothing
    /// comes for [`Options::timeout`], [`Error::Different`] if what comes is no answer.
    pub async fn recv(&mut self) -> Result<(Header, Bytes), Error> {
        self.recv_late(Duration::ZERO).await
    }

    /// Does the same, but for an answer that may take so much longer than [`Options::timeout`].
    ///
    /// # Cancel safety
    /// As of [`recv`](Self::recv).
    ///
    /// # Errors
    /// As of [`recv`](Self::recv).
    pub async fn recv_late(&mut self, longer: Duration) -> Result<(Header, Bytes), Error> {
        // What is no answer stays, as does the end of a stream under TLS.
        poll_fn(poll_budget).await;
        self.flush().await?;
        self.silence.allow(self.timeout.saturating_add(longer));
        self.silence.end();
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            if !poll_fn(|cx| self.poll_fill(cx)).await? {
                let how = match self.broken.take() {
                    Some(error) => Words(&error).to_string(),
                    None => "the server ended the stream".to_owned(),
                };
                return Err(self.closed_early(how, None));
            }
        }
    }

    /// Takes the next frame, if all of it is here.
    fn take(&mut self) -> Result<Option<(Header, Bytes)>, Error> {
        let Some(head) = self.input.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::parse(*head);
        let most = self.due.front().map_or(ANY, |due| due.most);
        if header.len > most {
            let len = header.len;
            let what =
                format!("the server answers with {len} bytes, and {most} at most were to come");
            return Err(Error::Different { at: 0, what });
        }
        let whole = HEADER_LEN + header.len as usize;
        if self.input.len() < whole {
            return Ok(None);
        }
        let payload = self.input.split_to(whole).freeze().slice(HEADER_LEN..);
        if header.kind == Kind::GOAWAY {
            let goaway = Goaway::parse(&payload).map_err(|_| Error::Different {
                at: 0,
                what: "the server's GOAWAY cannot be read".to_owned(),
            })?;
            return Err(self.closed_early(leaving(goaway.reason), Some(goaway)));
        }
        let Some(Due { kind: asked, .. }) = self.due.pop_front() else {
            let what = format!("the server sent {:?} unasked", header.kind);
            return Err(Error::Different { at: 0, what });
        };
        let expected = if asked == Kind::READ { Kind::DATA } else { asked };
        if header.kind != expected && header.kind != Kind::ERROR {
            let what = format!("the server answered {asked:?} with {:?}", header.kind);
            return Err(Error::Different { at: 0, what });
        }
        Ok(Some((header, payload)))
    }

    /// Reads once; `false` is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        let read = with_scratch(|scratch| {
            self.stream.poll_read(cx, scratch).map_ok(|len| {
                self.input.extend_from_slice(&scratch[..len]);
                len
            })
        });
        match read {
            Poll::Ready(Ok(len)) => {
                self.silence.end();
                Poll::Ready(Ok(len > 0))
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => {
                self.broken.get_or_insert(error);
                Poll::Ready(Ok(false))
            }
            Poll::Pending => {
                let limit = ready!(self.silence.poll(cx));
                let due =
                    self.due.front().map_or_else(String::new, |it| format!(" to {:?}", it.kind));
                Poll::Ready(Err(Error::TimedOut(format!("no answer{due} for {limit:?}"))))
            }
        }
    }

    fn closed_early(&self, how: String, goaway: Option<Goaway>) -> Error {
        Error::ClosedEarly(Box::new(ClosedEarly {
            how,
            goaway,
            orderly: goaway.is_some() || self.broken.is_none(),
            inside_frame: !self.input.is_empty(),
            asked: self.asked,
            answered: self.asked - self.due.len() as u64,
            ..ClosedEarly::default()
        }))
    }
}

#[cfg(test)]
mod tests;

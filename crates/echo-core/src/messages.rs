//! Messages for handlers: whole frames with [`recv`](Connection::recv) and
//! [`send`](Connection::send), and the seam under them, a header and then its payload in chunks.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::Error;
use crate::connection::{Connection, Under, WRITE_BUFFER};
use crate::conversation::Offer;
use crate::frame::{HEADER_LEN, Header, Kind, MAX_PAYLOAD_LEN};
use crate::waiting::{MESSAGE_COST, TURN, poll_budget};

/// From so many bytes on, what is to come of a payload is read where it is to be. Below, a read takes along
/// what comes behind it, which saves the next read.
const DIRECT: usize = 16 << 10;

/// What [`Connection::poll_message`] found.
enum Message {
    /// A whole ECHO frame's payload.
    Whole(Bytes),
    /// Another frame's header was read; its payload comes next.
    Other,
}

impl Connection {
    /// Receives the payload of the next ECHO frame; `None` when the peer has sent its last, or when
    /// the drain has come and everything that had arrived was received. Control frames are answered
    /// on the way.
    ///
    /// Flushes before it waits, so that a burst of requests is answered with one write. The payload
    /// shares a block with its neighbours: copy what is to be kept for long. A frame is kept as it arrives, so that
    /// each connection may hold one of [`max_frame`](crate::Limits::max_frame).
    ///
    /// # Cancel safety
    /// Cancel safe: what has begun to arrive stays with the connection, and the next call goes on
    /// with it.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, Error> {
        self.check_finished().await?;
        self.enter_framed();
        loop {
            match self.under {
                Under::Nothing => match poll_fn(|cx| self.poll_message(cx)).await? {
                    Some(Message::Whole(payload)) => return Ok(Some(payload)),
                    Some(Message::Other) => {}
                    None => return Ok(None),
                },
                Under::Taken => {
                    // It may be refused, and as often as it is asked for.
                    poll_fn(poll_budget).await;
                    Box::pin(self.answer(Offer::default())).await?;
                }
                Under::Passing => self.pass_rest().await?,
                Under::Discarded => self.discard().await?,
            }
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, Error>> {
        self.unstash_head();
        if self.has_had_its_turn() {
            return self.yield_now(cx);
        }
        loop {
            let mut rest = 0;
            if let Some(head) = self.input.first_chunk() {
                let header = Header::parse(*head);
                if header.kind != Kind::ECHO || header.len > self.max_frame() {
                    self.input.advance(HEADER_LEN);
                    self.begin(header);
                    return Poll::Ready(Ok(Some(Message::Other)));
                }
                let whole = HEADER_LEN + header.len as usize;
                if self.input.len() >= whole {
                    self.input.advance(HEADER_LEN);
                    let payload = self.input.take(header.len as usize);
                    self.moved += MESSAGE_COST;
                    self.count_answered(1);
                    self.frame_done();
                    return Poll::Ready(Ok(Some(Message::Whole(payload))));
                }
                self.passage.declared = header.len;
                rest = whole - self.input.len();
            }
            ready!(self.poll_flush(cx))?;
            if !ready!(self.poll_fill(cx, rest))? {
                return Poll::Ready(if rest > 0 { Err(Error::Truncated) } else { Ok(None) });
            }
        }
    }

    /// Takes the next chunk of the frame under way, as it arrives; `None` when its payload is
    /// complete. An [`Extension`](crate::Extension) reads its frames with this.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is taken before it is returned.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        if self.rest() == 0 {
            ready!(poll_budget(cx));
            return Poll::Ready(Ok(None));
        }
        while self.input.is_empty() {
            ready!(self.poll_flush(cx))?;
            if !ready!(self.poll_fill(cx, self.rest()))? {
                return Poll::Ready(Err(Error::Truncated));
            }
        }
        let len = self.rest().min(self.input.len());
        self.passage.remaining -= len as u32;
        Poll::Ready(Ok(Some(self.input.take(len))))
    }

    /// Reads some of the payload under way into `buf`: how many bytes, 0 when it is complete. For what is
    /// kept: unlike [`chunk`](Self::chunk) it holds nothing of its neighbours, and long payloads are read
    /// where they are to be.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is taken before it is returned.
    pub async fn read_payload(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        poll_fn(|cx| self.poll_payload(cx, buf)).await
    }

    fn poll_payload(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, Error>> {
        let rest = self.rest();
        // A read is no longer than a turn, after which others are due.
        let wanted = rest.min(buf.len()).min(TURN);
        if wanted == 0 {
            ready!(poll_budget(cx));
        }
        while wanted > 0 && self.input.is_empty() {
            ready!(self.poll_flush(cx))?;
            if wanted < DIRECT {
                if !ready!(self.poll_fill(cx, rest))? {
                    return Poll::Ready(Err(Error::Truncated));
                }
                continue;
            }
            if self.has_had_its_turn() {
                return self.yield_now(cx);
            }
            return match self.poll_read(cx, &mut buf[..wanted], rest) {
                Poll::Pending => self.park(cx).map(Err),
                Poll::Ready(Ok(0)) => Poll::Ready(Err(Error::Truncated)),
                Poll::Ready(read) => {
                    let read = read?;
                    self.passage.remaining -= read as u32;
                    Poll::Ready(Ok(read))
                }
            };
        }
        let len = wanted.min(self.input.len());
        buf[..len].copy_from_slice(&self.input[..len]);
        self.input.advance(len);
        self.input.release();
        self.passage.remaining -= len as u32;
        Poll::Ready(Ok(len))
    }

    /// Collects `len` bytes of the payload under way, at most
    /// [`MAX_CONTROL_LEN`](crate::MAX_CONTROL_LEN).
    pub(crate) async fn collect(&mut self, len: u32) -> Result<Bytes, Error> {
        debug_assert!(len <= crate::frame::MAX_CONTROL_LEN && len <= self.passage.remaining);
        let len = len as usize;
        while self.input.len() < len {
            self.flush().await?;
            let rest = self.rest() - self.input.len();
            if !poll_fn(|cx| self.poll_fill(cx, rest)).await? {
                return Err(Error::Truncated);
            }
        }
        self.passage.remaining -= len as u32;
        Ok(self.input.take(len))
    }

    /// Discards what is left of the frame under way.
    pub(crate) async fn discard(&mut self) -> Result<(), Error> {
        self.under = Under::Discarded;
        while self.chunk().await?.is_some() {}
        self.frame_done();
        Ok(())
    }

    /// Sends an ECHO frame. Queues it, and waits only while more than 64 KiB are unwritten. What is queued goes out
    /// with the next [`recv`](Self::recv) or [`flush`](Self::flush), or when the handler returns: one that waits for
    /// anything else flushes first.
    ///
    /// # Errors
    /// [`Error::FrameTooLong`] when the payload is over
    /// [`MAX_PAYLOAD_LEN`].
    ///
    /// # Cancel safety
    /// The frame is queued whole before the first wait: cancelling never tears or drops it. So
    /// sends that are cancelled add up.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.send_frame(Kind::ECHO, payload).await
    }

    /// Sends a frame of any kind, as [`send`](Self::send) does.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_frame(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Error> {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if len > MAX_PAYLOAD_LEN {
            return refuse(Error::FrameTooLong { len, max: MAX_PAYLOAD_LEN }).await;
        }
        self.check_finished().await?;
        self.output.reserve(HEADER_LEN + payload.len());
        self.output.put(&Header { kind, len }.to_bytes());
        self.output.put(payload);
        if self.output.len() >= WRITE_BUFFER { self.flush().await } else { Ok(()) }
    }

    /// Queues a header; its payload must follow with [`send_chunk`](Self::send_chunk).
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    ///
    /// # Cancel safety
    /// Cancelled, it has queued nothing.
    pub async fn send_header(&mut self, header: Header) -> Result<(), Error> {
        if header.len > MAX_PAYLOAD_LEN {
            return refuse(Error::FrameTooLong { len: header.len, max: MAX_PAYLOAD_LEN }).await;
        }
        self.check_finished().await?;
        if self.output.len() >= WRITE_BUFFER {
            self.flush().await?;
        }
        self.output.reserve(HEADER_LEN + (header.len as usize).min(WRITE_BUFFER));
        self.output.put(&header.to_bytes());
        self.owed = header.len;
        Ok(())
    }

    /// Queues a part of a payload, and waits while more than 64 KiB are unwritten.
    ///
    /// # Cancel safety
    /// The part is queued whole before the first wait.
    pub async fn send_chunk(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let owed = u32::try_from(chunk.len()).ok().and_then(|len| self.owed.checked_sub(len));
        let Some(owed) = owed else { return refuse(Error::Unfinished).await };
        self.owed = owed;
        self.output.put(chunk);
        if self.output.len() >= WRITE_BUFFER { self.flush().await } else { Ok(()) }
    }

    /// Nothing may be said inside a frame that was begun with [`send_header`](Self::send_header).
    pub(crate) async fn check_finished(&self) -> Result<(), Error> {
        if self.owed > 0 { refuse(Error::Unfinished).await } else { Ok(()) }
    }

    /// Writes what is queued. [`recv`](Self::recv) does so before it waits, and the end of a handler
    /// does so as well.
    ///
    /// # Cancel safety
    /// Cancel safe: what is unwritten stays queued.
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }
}

/// Refuses what nothing will come of, however often it is asked for.
async fn refuse(error: Error) -> Result<(), Error> {
    poll_fn(poll_budget).await;
    Err(error)
}

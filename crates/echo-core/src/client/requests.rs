//! What has been asked and not yet answered.
//!
//! A reply is its request's bytes again, header included, so one run of wire bytes is the send
//! buffer, the reference to compare with, and what a reply lends to the caller:
//!
//! ```text
//!   delivered │ verified │ sent, reply due │ not sent yet │
//!             └ front    └ verified        └ sent
//! ```

mod counts;
mod judge;

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Dialect, Error, Stamps, Unexpected};
use crate::frame::{ErrorCode, Goaway, HEADER_LEN, Header, Kind, PROBE_MIN_LEN};

pub(super) use judge::common_prefix;

/// What a request costs beside its bytes on the wire: its entry in the queue, rounded up.
pub(super) const ENTRY: usize = 64;

/// The smallest block, and the largest that a queue keeps when it is empty.
const LEAST: usize = 1 << 10;
const KEPT: usize = 256 << 10;

/// Where the server's stamps and its mark stand in a PROBE frame, and the mark.
pub(super) const STAMPS: std::ops::Range<usize> = HEADER_LEN + 8..HEADER_LEN + 24;
pub(super) const MARK: usize = HEADER_LEN + 24;
pub(super) const MARKED: u8 = 0b1;

/// The requests under way. Places on the wire are absolute: bytes since the client's first.
#[derive(Debug)]
pub(super) struct Requests {
    dialect: Dialect,
    /// How many frames of this connection the server counts beside these: our HELLO.
    hellos: u64,
    /// The run of wire bytes, from the place `base` on.
    wire: Vec<u8>,
    base: u64,
    sent: u64,
    verified: u64,
    /// From the first that was not delivered on, which begins at `front`.
    due: VecDeque<Request>,
    front: u64,
    /// How many of `due` have begun to be sent.
    begun: usize,
    /// How much of the first one's payload went out in parts.
    shown: usize,
    /// The number of the next request.
    next_seq: u64,
    /// Requests of this connection that were delivered.
    delivered: u64,
    /// Payload bytes: asked, of requests that were delivered, and back when a connection was lost.
    asked_bytes: u64,
    delivered_bytes: u64,
    came_bytes: u64,
    place: Place,
    /// Bytes that nobody asked for, of the last read.
    unexpected: Vec<u8>,
    goaway: Option<Goaway>,
}

#[derive(Debug)]
struct Request {
    /// Where its wire bytes end.
    end: u64,
    sent: Option<Instant>,
    resent: bool,
    refused: Option<Box<Refused>>,
}

/// What an ERROR frame said in place of a reply.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: ErrorCode,
    pub(super) text: String,
    pub(super) closes: bool,
}

/// A request that has its answer; its payload lies in [`Requests::bytes`].
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) seq: u64,
    /// Where its payload lies, and how much of that went out in parts.
    pub(super) payload: (u64, u64),
    pub(super) shown: usize,
    pub(super) sent: Option<Instant>,
    pub(super) resent: bool,
    pub(super) stamps: Option<Stamps>,
    pub(super) refused: Option<Box<Refused>>,
}

/// Where the stream of replies stands.
#[derive(Debug)]
enum Place {
    /// At `verified`.
    Replies,
    /// In a header that is not the one due, with so many bytes of it.
    Header { bytes: [u8; HEADER_LEN], len: usize },
    /// In the payload of a control frame.
    Control { header: Header, payload: Vec<u8> },
    /// In the payload of a frame that nobody asked for.
    Unexpected { left: usize },
    /// In the payload of a reply of `len` bytes, which are not as many as were sent. So many of them
    /// were as sent.
    Resized { len: u32, equal: usize },
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            dialect: Dialect::Framed,
            hellos: 0,
            wire: Vec::new(),
            base: 0,
            sent: 0,
            verified: 0,
            due: VecDeque::new(),
            front: 0,
            begun: 0,
            shown: 0,
            next_seq: 0,
            delivered: 0,
            asked_bytes: 0,
            delivered_bytes: 0,
            came_bytes: 0,
            place: Place::Replies,
            unexpected: Vec::new(),
            goaway: None,
        }
    }

    /// Starts on another connection: what is due goes out again from the start of its first request.
    /// How many requests those are that had gone out before.
    pub(super) fn start_over(&mut self, dialect: Dialect, hellos: u64) -> usize {
        self.came_bytes = self.came_bytes();
        (self.dialect, self.hellos) = (dialect, hellos);
        (self.sent, self.verified, self.begun, self.delivered) = (self.front, self.front, 0, 0);
        (self.place, self.goaway) = (Place::Replies, None);
        self.unexpected.clear();
        if self.due.front().is_some_and(|first| first.end - self.front > STAMPS.end as u64)
            && self.kind(self.front) == Kind::PROBE
        {
            // The lost connection may have brought the stamps.
            let at = (self.front - self.base) as usize;
            self.wire[at + STAMPS.start..at + STAMPS.end].fill(0);
            self.wire[at + MARK] &= !MARKED;
        }
        let mut again = 0;
        for request in &mut self.due {
            request.resent |= request.sent.is_some();
            again += usize::from(request.sent.is_some());
        }
        again
    }

    /// Payload bytes of one request that fit into `window`.
    pub(super) fn room(&self, window: usize) -> usize {
        let used = (self.end() - self.front) as usize + self.due.len() * ENTRY;
        window.saturating_sub(used + HEADER_LEN + ENTRY)
    }

    /// Queues a request; `head` is what stands before the payload that the caller gave.
    pub(super) fn push(&mut self, kind: Kind, head: &[u8], payload: &[u8]) -> u64 {
        let len = head.len() + payload.len();
        self.make_room(HEADER_LEN + len);
        if self.dialect == Dialect::Framed {
            self.wire.extend_from_slice(&Header { kind, len: len as u32 }.to_bytes());
        }
        self.wire.extend_from_slice(head);
        self.wire.extend_from_slice(payload);
        let end = self.end();
        self.due.push_back(Request { end, sent: None, resent: false, refused: None });
        self.asked_bytes += len as u64;
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// Sees that `len` more bytes fit: by moving what is under way to the front if that is no more
    /// than what was freed there, else into a block of twice its size. So moving costs at most a byte
    /// a byte, and memory is at most twice what was ever under way.
    fn make_room(&mut self, len: usize) {
        if self.wire.len() + len <= self.wire.capacity() {
            return;
        }
        let freed = (self.front.min(self.sent) - self.base) as usize;
        let kept = self.wire.len() - freed;
        self.base += freed as u64;
        if kept <= freed && kept + len <= self.wire.capacity() {
            self.wire.copy_within(freed.., 0);
            self.wire.truncate(kept);
        } else {
            let mut wire = Vec::with_capacity(LEAST.max(2 * kept + len));
            wire.extend_from_slice(&self.wire[freed..]);
            self.wire = wire;
        }
    }

    /// Gives a burst's memory back, if nothing is under way. What was refused may still have to go out.
    pub(super) fn release(&mut self) {
        if self.due.is_empty() && self.unsent().is_empty() && self.wire.capacity() > KEPT {
            self.base = self.end();
            self.wire = Vec::new();
            self.due = VecDeque::new();
        }
    }

    /// What waits for the socket.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.wire[(self.sent - self.base) as usize..]
    }

    /// The socket took `len` bytes, of a write that began at `now`.
    pub(super) fn mark_sent(&mut self, len: usize, now: Instant) {
        self.sent += len as u64;
        let mut start = self.start_of(self.begun);
        while start < self.sent {
            let Some(request) = self.due.get_mut(self.begun) else { break };
            request.sent.get_or_insert(now);
            start = request.end;
            self.begun += 1;
        }
    }

    /// Gives up: nothing is due any longer.
    pub(super) fn forget(&mut self) {
        self.due.clear();
        self.unexpected.clear();
        self.goaway = None;
    }

    /// How many requests have no answer that was delivered.
    pub(super) fn unanswered(&self) -> usize {
        self.due.len()
    }

    /// Whether an answer is due, be it to a request that is not sent yet.
    pub(super) fn is_due(&self) -> bool {
        self.due.back().is_some_and(|last| last.end > self.verified)
    }

    /// The first request, once it has its answer.
    #[inline]
    pub(super) fn take(&mut self) -> Result<Option<Answered>, Error> {
        match self.due.front() {
            Some(first) if first.end <= self.verified => {}
            _ => return Ok(None),
        }
        let (kind, start) = (self.kind(self.front), self.front);
        let Some(Request { end, sent, resent, refused }) = self.due.pop_front() else {
            return Ok(None);
        };
        let stamps = match kind {
            Kind::PROBE if refused.is_none() => Some(self.stamps()?),
            _ => None,
        };
        let payload = start + if self.dialect == Dialect::Raw { 0 } else { HEADER_LEN as u64 };
        self.delivered_bytes += end - payload;
        self.delivered += 1;
        self.front = end;
        self.begun = self.begun.saturating_sub(1);
        let shown = std::mem::take(&mut self.shown);
        let payload = payload + if kind == Kind::PROBE { u64::from(PROBE_MIN_LEN) } else { 0 };
        let seq = self.next_seq - 1 - self.due.len() as u64;
        Ok(Some(Answered { seq, payload: (payload, end), shown, sent, resent, stamps, refused }))
    }

    /// The stamps of the first request, a PROBE that has come back.
    fn stamps(&self) -> Result<Stamps, Error> {
        let frame = &self.wire[(self.front - self.base) as usize..];
        if frame[MARK] & MARKED == 0 {
            return Err(self.wrong_at(MARK, "a PROBE came back without the mark of a reply"));
        }
        let (received, sent) = frame[STAMPS].split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let stamps = Stamps { received: number(received), sent: number(sent) };
        match stamps.backwards() {
            Some(what) => Err(self.wrong_at(STAMPS.start, what)),
            None => Ok(stamps),
        }
    }

    fn wrong_at(&self, offset: usize, what: &str) -> Error {
        let at = self.delivered_bytes + (offset - HEADER_LEN) as u64;
        Error::Different { at, what: what.to_owned() }
    }

    /// What has come of the first request's reply since this was asked last.
    pub(super) fn take_part(&mut self) -> Option<(u64, u64)> {
        let first = self.due.front()?;
        if first.end <= self.verified || self.verified <= self.front {
            return None;
        }
        let framed = self.dialect == Dialect::Framed;
        if framed && self.kind(self.front) == Kind::PROBE {
            return None;
        }
        let payload = self.front + if framed { HEADER_LEN as u64 } else { 0 };
        let shown = payload + self.shown as u64;
        if self.verified <= shown {
            return None;
        }
        self.shown = (self.verified - payload) as usize;
        Some((shown, self.verified))
    }

    /// The bytes between two places.
    pub(super) fn bytes(&self, (from, to): (u64, u64)) -> &[u8] {
        &self.wire[(from - self.base) as usize..(to - self.base) as usize]
    }

    /// Bytes of the last read that nobody asked for.
    pub(super) fn unexpected(&self) -> Unexpected<'_> {
        let (bytes, dialect) = (&self.unexpected[..], self.dialect);
        Unexpected { bytes, at: self.answered_bytes(), dialect }
    }

    pub(super) fn has_unexpected(&self) -> bool {
        !self.unexpected.is_empty()
    }

    pub(super) fn forget_unexpected(&mut self) {
        self.unexpected.clear();
    }

    /// The server's last frame, once it has come.
    pub(super) fn goaway(&self) -> Option<Goaway> {
        self.goaway
    }

    /// Whether a frame has come in part.
    pub(super) fn is_inside_frame(&self) -> bool {
        match self.place {
            Place::Replies => {
                self.dialect == Dialect::Framed
                    && self.verified > self.start_of(self.first_unanswered())
            }
            _ => true,
        }
    }

    /// Where the request `index` of those due begins.
    fn start_of(&self, index: usize) -> u64 {
        index.checked_sub(1).and_then(|before| self.due.get(before)).map_or(self.front, |it| it.end)
    }

    /// The index of the first request without an answer, perhaps one behind the last.
    fn first_unanswered(&self) -> usize {
        self.due.partition_point(|request| request.end <= self.verified)
    }

    fn header(&self, start: u64) -> Header {
        let bytes = self.wire[(start - self.base) as usize..].first_chunk::<HEADER_LEN>();
        Header::parse(bytes.copied().unwrap_or_default())
    }

    /// The kind of the request that begins at `start`; in the raw dialect they are all alike.
    fn kind(&self, start: u64) -> Kind {
        match self.dialect {
            Dialect::Raw => Kind::ECHO,
            Dialect::Framed => self.header(start).kind,
        }
    }

    fn end(&self) -> u64 {
        self.base + self.wire.len() as u64
    }
}

#[cfg(test)]
mod tests;

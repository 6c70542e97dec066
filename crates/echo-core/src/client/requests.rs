//! What has been asked and not yet answered, and the judge of what comes back.
//!
//! A reply is its request's bytes again, header included, so one run of wire bytes is the send
//! buffer, the reference to compare with, and what a reply lends to the caller:
//!
//! ```text
//!   delivered │ verified │ sent, reply due │ not sent yet │
//!             └ front    └ verified        └ sent
//! ```
//!
//! What a read brings is compared with that run at one go, however many replies it is. Only where
//! they part is it looked at what stands there: a control frame, a PROBE's stamps, or a defect.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::error::{Bytes, leaving};
use super::{Dialect, Error, Stamps, Unexpected};
use crate::frame::{
    ErrorCode, ErrorFrame, Goaway, HEADER_LEN, Header, Kind, MAX_CONTROL_LEN, PROBE_MIN_LEN,
};

/// What a request costs beside its bytes on the wire: its entry in the queue, rounded up.
const ENTRY: usize = 64;

/// A queue that is empty gives more memory than this back.
const KEPT: usize = 256 << 10;

/// Where the server's stamps and its mark stand in a PROBE frame, and the mark.
const STAMPS: std::ops::Range<usize> = HEADER_LEN + 8..HEADER_LEN + 24;
const MARK: usize = HEADER_LEN + 24;
const MARKED: u8 = 0b1;

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
    /// Payload bytes asked, and those of requests that were delivered.
    asked_bytes: u64,
    delivered_bytes: u64,
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
            place: Place::Replies,
            unexpected: Vec::new(),
            goaway: None,
        }
    }

    /// Starts on another connection: what is due goes out again from the start of its first request.
    /// How many requests those are that had gone out before.
    pub(super) fn start_over(&mut self, dialect: Dialect, hellos: u64) -> usize {
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

    /// Sees that `len` more bytes fit: by moving what is under way to the front, if that is at most
    /// twice what was freed, else by growing. So moving costs no more than two bytes a byte.
    fn make_room(&mut self, len: usize) {
        if self.wire.len() + len <= self.wire.capacity() {
            return;
        }
        let freed = (self.front.min(self.sent) - self.base) as usize;
        let kept = self.wire.len() - freed;
        if kept <= 2 * freed {
            self.wire.copy_within(freed.., 0);
            self.wire.truncate(kept);
            self.base += freed as u64;
        }
    }

    /// Gives a burst's memory back, if nothing is under way.
    pub(super) fn release(&mut self) {
        if self.due.is_empty() && self.wire.capacity() > KEPT {
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
        if stamps.sent < stamps.received {
            let what = "a PROBE was sent back before it was received, its stamps say";
            return Err(self.wrong_at(STAMPS.start, what));
        }
        Ok(stamps)
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

    /// Requests of this connection: asked, and answered.
    pub(super) fn counts(&self) -> (u64, u64) {
        let answered = self.first_unanswered() as u64;
        (self.delivered + self.due.len() as u64, self.delivered + answered)
    }

    /// Payload bytes: without an answer, and answered.
    pub(super) fn byte_counts(&self) -> (u64, u64) {
        let answered = self.answered_bytes();
        (self.asked_bytes - answered, answered)
    }

    /// Judges what a read brought. What was before a defect stands.
    pub(super) fn receive(&mut self, mut input: &[u8]) -> Result<(), Error> {
        while !input.is_empty() {
            if self.goaway.is_some() {
                return Err(self.different("the server goes on after its GOAWAY"));
            }
            let used = match &mut self.place {
                Place::Replies => self.compare(input)?,
                Place::Header { bytes, len } => {
                    let used = input.len().min(HEADER_LEN - *len);
                    bytes[*len..*len + used].copy_from_slice(&input[..used]);
                    *len += used;
                    if *len == HEADER_LEN {
                        let bytes = *bytes;
                        self.judge(Header::parse(bytes))?;
                    }
                    used
                }
                Place::Control { header, payload } => {
                    let used = input.len().min(header.len as usize - payload.len());
                    payload.extend_from_slice(&input[..used]);
                    used
                }
                Place::Unexpected { left } => {
                    let used = input.len().min(*left);
                    *left -= used;
                    if *left == 0 {
                        self.place = Place::Replies;
                    }
                    self.unexpected.extend_from_slice(&input[..used]);
                    used
                }
            };
            input = &input[used..];
            self.finish_control()?;
        }
        Ok(())
    }

    /// Compares with what is due; how many bytes of `input` are done with. Where they part, it is
    /// decided what stands there.
    #[inline]
    fn compare(&mut self, input: &[u8]) -> Result<usize, Error> {
        let due = self.sent.saturating_sub(self.verified) as usize;
        let equal = if due == 0 {
            0
        } else {
            let at = (self.verified - self.base) as usize;
            common_prefix(&self.wire[at..at + due], input)
        };
        self.verified += equal as u64;
        if equal == input.len() { Ok(equal) } else { self.part(equal, &input[equal..]) }
    }

    /// `rest`, which is not empty, is not what is due after `equal` bytes that were.
    fn part(&mut self, equal: usize, rest: &[u8]) -> Result<usize, Error> {
        let all_came = self.verified >= self.sent;
        if self.dialect == Dialect::Raw {
            if all_came {
                self.unexpected.extend_from_slice(rest);
                return Ok(equal + rest.len());
            }
            return Err(self.other_byte(rest[0]));
        }
        let start = self.start_of(self.first_unanswered());
        let offset = (self.verified - start) as usize;
        if offset < HEADER_LEN {
            let mut bytes = [0; HEADER_LEN];
            bytes[..offset].copy_from_slice(self.bytes((start, self.verified)));
            self.place = Place::Header { bytes, len: offset };
            return Ok(equal);
        }
        if all_came {
            return Err(self.different("the server sent bytes that nobody asked for"));
        }
        if self.kind(start) == Kind::PROBE {
            let at = (self.verified - self.base) as usize;
            if STAMPS.contains(&offset) {
                let len =
                    rest.len().min(STAMPS.end - offset).min((self.sent - self.verified) as usize);
                self.wire[at..at + len].copy_from_slice(&rest[..len]);
                self.verified += len as u64;
                return Ok(equal + len);
            }
            if offset == MARK && rest[0] == self.wire[at] | MARKED {
                self.wire[at] = rest[0];
                self.verified += 1;
                return Ok(equal + 1);
            }
        }
        Err(self.other_byte(rest[0]))
    }

    fn other_byte(&self, got: u8) -> Error {
        let sent = self.wire[(self.verified - self.base) as usize];
        self.different(&format!("sent {sent:#04x}, received {got:#04x}"))
    }

    /// A header has come that is not the one due.
    fn judge(&mut self, header: Header) -> Result<(), Error> {
        let start = self.start_of(self.first_unanswered());
        let is_due = self.sent.saturating_sub(start) >= HEADER_LEN as u64;
        self.place = match header.kind {
            Kind::ECHO | Kind::PROBE if is_due => {
                let asked = self.header(start);
                return Err(self.different(&if asked.kind == header.kind {
                    let (sent, got) = (asked.len, header.len);
                    format!("a frame of {sent} bytes came back as one of {got}")
                } else {
                    let (sent, got) = (asked.kind, header.kind);
                    format!("a frame of kind {sent:?} came back as one of {got:?}")
                }));
            }
            Kind::ECHO | Kind::PROBE => {
                self.verified = start;
                self.unexpected.extend_from_slice(&header.to_bytes());
                match header.len as usize {
                    0 => Place::Replies,
                    left => Place::Unexpected { left },
                }
            }
            Kind::GOAWAY | Kind::ERROR if header.len <= MAX_CONTROL_LEN => {
                Place::Control { header, payload: Vec::new() }
            }
            Kind::GOAWAY | Kind::ERROR => {
                return Err(self.different(&format!(
                    "a {:?} frame of {} bytes is over the limit of {MAX_CONTROL_LEN}",
                    header.kind, header.len
                )));
            }
            kind => {
                return Err(self.different(&format!("a {kind:?} frame that nobody asked for")));
            }
        };
        Ok(())
    }

    /// Acts on a control frame that has arrived whole.
    fn finish_control(&mut self) -> Result<(), Error> {
        let Place::Control { header, payload } = &mut self.place else { return Ok(()) };
        if payload.len() < header.len as usize {
            return Ok(());
        }
        let (kind, payload) = (header.kind, std::mem::take(payload));
        self.place = Place::Replies;
        if kind == Kind::ERROR { self.refuse(&payload) } else { self.leave(&payload) }
    }

    /// The server answers a request with ERROR.
    fn refuse(&mut self, payload: &[u8]) -> Result<(), Error> {
        let Ok(ErrorFrame { code, closes, text }) = ErrorFrame::parse(payload) else {
            return Err(Error::Rejected("the server sent a malformed ERROR frame".to_owned()));
        };
        let first = self.first_unanswered();
        // It comes at the request's header, which need not have its payload behind it yet.
        let is_due = self.sent.saturating_sub(self.start_of(first)) >= HEADER_LEN as u64;
        match self.due.get_mut(first) {
            Some(request) if is_due => {
                let text = text.into_owned();
                request.refused = Some(Box::new(Refused { code, text, closes }));
                self.verified = request.end;
                Ok(())
            }
            _ => Err(Error::rejected(code, &text)),
        }
    }

    /// The server says GOAWAY.
    fn leave(&mut self, payload: &[u8]) -> Result<(), Error> {
        let Ok(goaway) = Goaway::parse(payload) else {
            return Err(self.different("a malformed GOAWAY frame"));
        };
        if self.hellos == 0 {
            return Err(self.different("a GOAWAY frame that nobody asked for"));
        }
        // Every answer comes before the GOAWAY, so a count that differs is a lost answer or a server
        // that cannot count: nobody could resume after it.
        let (asked, answered) = self.counts();
        if goaway.answered != answered + self.hellos {
            let (words, counted) = (leaving(goaway.reason), goaway.answered);
            return Err(self.different(&format!(
                "{words}: {answered} of {asked} frames answered, but it counts {counted} with our \
                 HELLO"
            )));
        }
        self.goaway = Some(goaway);
        Ok(())
    }

    /// Where the request `index` of those due begins.
    fn start_of(&self, index: usize) -> u64 {
        index.checked_sub(1).and_then(|before| self.due.get(before)).map_or(self.front, |it| it.end)
    }

    /// The index of the first request without an answer, perhaps one behind the last.
    fn first_unanswered(&self) -> usize {
        self.due.partition_point(|request| request.end <= self.verified)
    }

    fn answered_bytes(&self) -> u64 {
        if self.dialect == Dialect::Raw {
            return self.delivered_bytes + (self.verified - self.front);
        }
        let first = self.first_unanswered();
        let (start, header) = (self.start_of(first), HEADER_LEN as u64);
        let whole = start - self.front - header * first as u64;
        self.delivered_bytes + whole + (self.verified - start).saturating_sub(header)
    }

    fn different(&self, what: &str) -> Error {
        Error::Different { at: self.answered_bytes(), what: what.to_owned() }
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

/// What is wrong with a silence, in words.
impl Requests {
    pub(super) fn silence(&self) -> String {
        match self.byte_counts() {
            (0, _) if self.is_due() => "a reply is due".to_owned(),
            (unanswered, _) => format!("{} unanswered", Bytes(unanswered)),
        }
    }
}

/// How many bytes at the front of both are the same.
#[inline]
fn common_prefix(want: &[u8], got: &[u8]) -> usize {
    let len = want.len().min(got.len());
    let (want, got) = (&want[..len], &got[..len]);
    // Equal slices, the rule, are one memcmp.
    if want == got { len } else { want.iter().zip(got).take_while(|(a, b)| a == b).count() }
}

#[cfg(test)]
mod tests;

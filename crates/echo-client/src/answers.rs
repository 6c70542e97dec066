//! What has been asked and not yet answered, and the judge of what comes back.
//!
//! An answer is the question's bytes again, header included, so one queue of wire bytes serves as
//! both the send buffer and the reference to compare with:
//!
//! ```text
//!   answered, gone │ sent, answer due │ not sent yet │
//!                  └ front            └ sent         └ back
//! ```

use std::collections::VecDeque;
use std::io::IoSlice;
use std::num::NonZeroU32;

use echo_core::{ErrorCode, ErrorFrame, Goaway, HEADER_LEN, Header, Kind, MAX_CONTROL_LEN, Reason};

use crate::escape::escape;
use crate::failure::Failure;
use crate::stdio::CHUNK;

/// The queue's bound. It holds what the path and the server have under way, which on a long fat
/// path is megabytes; what is beyond it waits in stdin.
const OUTSTANDING_MAX: usize = 8 * 1024 * 1024;

/// What is queued ahead of the socket: one chunk is being written while the next arrives.
const UNSENT_MAX: usize = CHUNK;

/// A chunk on the wire at its worst, one header for each byte.
const CHUNK_WIRE_MAX: usize = CHUNK * (1 + HEADER_LEN);

/// How the payload travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// As it is.
    Raw,
    /// In ECHO frames of at most `max_frame` bytes.
    Framed { max_frame: NonZeroU32 },
}

/// The questions under way, and where the stream of answers stands.
#[derive(Debug)]
pub(crate) struct Answers {
    dialect: Dialect,
    wire: VecDeque<u8>,
    sent: usize,
    place: Place,
    /// Payload bytes asked and answered.
    asked: u64,
    answered: u64,
    /// Frames asked and answered, HELLO not counted.
    frames_asked: u64,
    frames_answered: u64,
    goaway: Option<Goaway>,
}

/// Where the stream of answers stands.
#[derive(Debug)]
enum Place {
    /// In a raw stream, or in the payload of an ECHO with so many bytes to come.
    Payload(u64),
    /// Between frames, with this much of the next header.
    Header { bytes: [u8; HEADER_LEN], len: usize },
    /// In the payload of a control frame.
    Control { header: Header, payload: Vec<u8> },
}

impl Place {
    const BETWEEN: Self = Self::Header { bytes: [0; HEADER_LEN], len: 0 };
}

impl Answers {
    pub(crate) fn new(dialect: Dialect) -> Self {
        let place = match dialect {
            Dialect::Raw => Place::Payload(u64::MAX),
            Dialect::Framed { .. } => Place::BETWEEN,
        };
        Self {
            dialect,
            wire: VecDeque::new(),
            sent: 0,
            place,
            asked: 0,
            answered: 0,
            frames_asked: 0,
            frames_answered: 0,
            goaway: None,
        }
    }

    /// Whether another chunk may be asked. While the socket takes no more, nothing is queued beyond
    /// a chunk: memory follows what the server needs.
    pub(crate) fn has_room(&self) -> bool {
        self.unsent() < UNSENT_MAX && self.wire.len() + CHUNK_WIRE_MAX <= OUTSTANDING_MAX
    }

    /// Queues a chunk of at most [`CHUNK`] bytes.
    pub(crate) fn ask(&mut self, chunk: &[u8]) {
        self.asked += chunk.len() as u64;
        let Dialect::Framed { max_frame } = self.dialect else {
            self.wire.extend(chunk);
            return;
        };
        for payload in chunk.chunks(max_frame.get() as usize) {
            let header = Header { kind: Kind::ECHO, len: payload.len() as u32 };
            self.wire.extend(&header.to_bytes());
            self.wire.extend(payload);
            self.frames_asked += 1;
        }
    }

    /// How many bytes wait for the socket.
    pub(crate) fn unsent(&self) -> usize {
        self.wire.len() - self.sent
    }

    /// What waits for the socket, in two pieces as it lies in memory.
    pub(crate) fn to_send(&self) -> [IoSlice<'_>; 2] {
        let (front, back) = self.wire.as_slices();
        let (front, back) = match front.get(self.sent..) {
            Some(front) => (front, back),
            None => (&[][..], &back[self.sent - front.len()..]),
        };
        [IoSlice::new(front), IoSlice::new(back)]
    }

    /// The socket took `len` bytes.
    pub(crate) fn mark_sent(&mut self, len: usize) {
        self.sent += len;
    }

    /// Whether nothing waits, neither for the socket nor for its answer.
    pub(crate) fn is_complete(&self) -> bool {
        self.wire.is_empty()
    }

    /// Whether a frame has come in part.
    pub(crate) fn is_inside_frame(&self) -> bool {
        match self.place {
            Place::Payload(_) => self.dialect != Dialect::Raw,
            Place::Header { len, .. } => len > 0,
            Place::Control { .. } => true,
        }
    }

    /// Payload bytes without an answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.asked - self.answered
    }

    /// Payload bytes that came back equal.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// The server's GOAWAY, in words, once it has come.
    pub(crate) fn goaway(&self) -> Option<String> {
        let (came, asked) = (self.frames_answered, self.frames_asked);
        Some(format!("{}: {came} of {asked} frames answered", leaving(self.goaway?.reason)))
    }

    /// Judges what came: equal payload goes to `verified`, what was before a defect included.
    pub(crate) fn check(
        &mut self,
        mut input: &[u8],
        verified: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        while !input.is_empty() {
            if self.goaway.is_some() {
                return Err(self.different("the server goes on after its GOAWAY"));
            }
            let used = match &mut self.place {
                Place::Payload(_) => self.check_payload(input, verified)?,
                Place::Header { bytes, len } => {
                    let used = input.len().min(HEADER_LEN - *len);
                    bytes[*len..*len + used].copy_from_slice(&input[..used]);
                    *len += used;
                    if *len == HEADER_LEN {
                        let header = Header::parse(*bytes);
                        self.check_header(header)?;
                    }
                    used
                }
                Place::Control { header, payload } => {
                    let used = input.len().min(header.len as usize - payload.len());
                    payload.extend_from_slice(&input[..used]);
                    used
                }
            };
            input = &input[used..];
            self.finish_control()?;
        }
        Ok(())
    }

    fn check_payload(&mut self, input: &[u8], verified: &mut Vec<u8>) -> Result<usize, Failure> {
        let Place::Payload(left) = &mut self.place else { return Ok(0) };
        let due = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
        let sent = due.min(self.sent);
        let equal = common_prefix(&self.wire, &input[..sent]);
        verified.extend_from_slice(&input[..equal]);
        self.wire.drain(..equal);
        self.sent -= equal;
        self.answered += equal as u64;
        if equal < sent {
            let (want, got) = (self.wire[0], input[equal]);
            return Err(self.different(&format!("sent {want:#04x}, received {got:#04x}")));
        }
        if sent < due {
            return Err(self.different("the server sent bytes that nobody asked for"));
        }
        if matches!(self.dialect, Dialect::Framed { .. }) {
            *left -= equal as u64;
            if *left == 0 {
                self.frames_answered += 1;
                self.place = Place::BETWEEN;
            }
        }
        Ok(equal)
    }

    fn check_header(&mut self, header: Header) -> Result<(), Failure> {
        self.place = match header.kind {
            Kind::ECHO if self.sent < HEADER_LEN => {
                return Err(self.different("the server sent a frame that nobody asked for"));
            }
            Kind::ECHO => {
                let bytes: [u8; HEADER_LEN] = std::array::from_fn(|at| self.wire[at]);
                let asked = Header::parse(bytes);
                if asked != header {
                    let (sent, got) = (asked.len, header.len);
                    return Err(self
                        .different(&format!("a frame of {sent} bytes came back as one of {got}")));
                }
                self.wire.drain(..HEADER_LEN);
                self.sent -= HEADER_LEN;
                Place::Payload(u64::from(header.len))
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
    fn finish_control(&mut self) -> Result<(), Failure> {
        let Place::Control { header, payload } = &self.place else { return Ok(()) };
        if payload.len() < header.len as usize {
            return Ok(());
        }
        if header.kind == Kind::ERROR {
            return Err(refusal(payload));
        }
        let Ok(goaway) = Goaway::parse(payload) else {
            return Err(self.different("a malformed GOAWAY frame"));
        };
        self.goaway = Some(goaway);
        self.place = Place::BETWEEN;
        // The server counts our HELLO too. Every answer comes before its GOAWAY, so a count that
        // differs is a lost answer or a server that cannot count: nobody could resume after it.
        let counted = goaway.answered;
        match self.goaway() {
            Some(words) if counted.checked_sub(1) != Some(self.frames_answered) => {
                Err(self.different(&format!("{words}, but it counts {counted} with our HELLO")))
            }
            _ => Ok(()),
        }
    }

    fn different(&self, what: &str) -> Failure {
        Failure::Different { at: self.answered, what: what.to_owned() }
    }
}

/// What an ERROR frame says.
pub(crate) fn refusal(payload: &[u8]) -> Failure {
    let Ok(error) = ErrorFrame::parse(payload) else {
        return Failure::Refused("the server sent a malformed ERROR frame".to_owned());
    };
    let code = match error.code {
        ErrorCode::TooLong => "too long",
        ErrorCode::UnexpectedKind => "unexpected kind",
        ErrorCode::Malformed => "malformed",
        _ => "unknown",
    };
    let number = error.code.code();
    let text = escape(&error.text);
    Failure::Refused(format!("the server says: {text} (error {number}, {code})"))
}

/// Why a server says GOAWAY.
pub(crate) fn leaving(reason: Reason) -> String {
    match reason {
        Reason::Drain => "the server drains".to_owned(),
        Reason::Idle => "the server ends idle connections".to_owned(),
        Reason::Error => "the server saw a protocol error".to_owned(),
        Reason::Stalled => "the server waited too long for a frame".to_owned(),
        other => format!("the server leaves ({other:?})"),
    }
}

/// How many bytes at the front of `wire` are those of `input`.
fn common_prefix(wire: &VecDeque<u8>, input: &[u8]) -> usize {
    let (front, back) = wire.as_slices();
    let (near, far) = input.split_at(input.len().min(front.len()));
    // Equal slices, the rule, are one memcmp each.
    let prefix = |want: &[u8], got: &[u8]| {
        let want = &want[..got.len().min(want.len())];
        if want == got {
            got.len()
        } else {
            want.iter().zip(got).take_while(|(a, b)| a == b).count()
        }
    };
    let equal = prefix(front, near);
    if equal < near.len() { equal } else { equal + prefix(back, far) }
}

#[cfg(test)]
mod tests;

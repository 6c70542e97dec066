//! The judge of what comes back.
//!
//! What a read brought is compared with what is due at one go, however many replies it is. Only where
//! they part is it looked at what stands there: a control frame, a PROBE's stamps, or a defect.

use tokio::time::Instant;

use super::{Answered, MARK, MARKED, Place, Refused, Requests, STAMPS};
use crate::client::error::{Bytes, leaving};
use crate::client::{Dialect, Error};
use crate::frame::{ErrorFrame, Goaway, HEADER_LEN, Header, Kind, MAX_CONTROL_LEN, PROBE_MIN_LEN};

/// How many bytes are shown on each side of the first that is different.
const SHOWN: u64 = 12;

impl Requests {
    /// Judges what a read brought. What was before a defect stands.
    pub(in crate::client) fn receive(&mut self, mut input: &[u8]) -> Result<(), Error> {
        while !input.is_empty() {
            if self.goaway.is_some() {
                return Err(self.different("the server goes on after its GOAWAY"));
            }
            let mut parted = false;
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
                Place::Resized { .. } => {
                    let used = self.compare_resized(input);
                    parted = used < input.len();
                    used
                }
            };
            input = &input[used..];
            self.finish_control()?;
            self.finish_resized(parted)?;
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
            return Err(self.other_bytes(rest, self.base, self.sent));
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
        let end = self.due.get(self.first_unanswered()).map_or(self.sent, |due| due.end);
        Err(self.other_bytes(rest, start + HEADER_LEN as u64, end.min(self.sent)))
    }

    fn different(&self, what: &str) -> Error {
        Error::Different { at: self.answered_bytes(), what: what.to_owned() }
    }

    /// `got` came where other bytes are due, in a run that was sent from `start` to `end`.
    fn other_bytes(&self, got: &[u8], start: u64, end: u64) -> Error {
        let at = self.verified;
        let due = self.bytes((at, end.min(at + SHOWN)));
        let got = &got[..due.len().min(got.len())];
        let before = self.bytes((start.max(at.saturating_sub(SHOWN)), at));
        let behind = match before.is_empty() {
            true => String::new(),
            false => format!(", behind \"{}\"", before.escape_ascii()),
        };
        self.different(&format!(
            "sent {:#04x}, received {:#04x}: \"{}\" came back as \"{}\"{behind}",
            due[0],
            got[0],
            due.escape_ascii(),
            got.escape_ascii(),
        ))
    }

    /// A header has come that is not the one due.
    fn judge(&mut self, header: Header) -> Result<(), Error> {
        let start = self.start_of(self.first_unanswered());
        let is_due = self.sent.saturating_sub(start) >= HEADER_LEN as u64;
        self.place = match header.kind {
            kind @ (Kind::ECHO | Kind::PROBE) if is_due => {
                let asked = self.header(start).kind;
                if asked != kind {
                    let what = format!("a frame of kind {asked:?} came back as one of {kind:?}");
                    return Err(self.different(&what));
                }
                Place::Resized { len: header.len, equal: 0 }
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

    /// Compares what comes in a reply of another length; where it parts from what is due is where the
    /// difference is, at the latest where the shorter one ends.
    fn compare_resized(&mut self, input: &[u8]) -> usize {
        let start = self.start_of(self.first_unanswered()) + HEADER_LEN as u64;
        let end = self.due.get(self.first_unanswered()).map_or(start, |request| request.end);
        let Place::Resized { len, equal } = self.place else { return 0 };
        let end = end.min(start + u64::from(len));
        let used = common_prefix(self.bytes((start + equal as u64, end)), input);
        self.place = Place::Resized { len, equal: equal + used };
        used
    }

    /// What is wrong with a reply of another length, once that is known: it has parted from what is
    /// due, or cannot go on like it. The stamps of a PROBE are the server's.
    fn finish_resized(&mut self, parted: bool) -> Result<(), Error> {
        let Place::Resized { len, equal } = self.place else { return Ok(()) };
        let asked = self.header(self.start_of(self.first_unanswered()));
        if parted || equal == len.min(asked.len) as usize || asked.kind == Kind::PROBE {
            return self.resized().map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// What is wrong with the reply under way if it has another length than what was sent.
    pub(in crate::client) fn resized(&self) -> Option<Error> {
        let Place::Resized { len, equal } = self.place else { return None };
        let asked = self.header(self.start_of(self.first_unanswered()));
        let sent = Bytes(asked.len.into());
        let at = self.answered_bytes() + equal as u64;
        Some(Error::Different { at, what: format!("a frame of {sent} came back as one of {len}") })
    }

    /// What is wrong with the stamps of a PROBE that came back at `received`.
    pub(in crate::client) fn overlong(
        &self,
        answered: &Answered,
        received: Instant,
    ) -> Option<Error> {
        let took = received.saturating_duration_since(answered.sent?);
        let what = answered.stamps?.overlong(took)?;
        let (from, to) = answered.payload;
        let len = to - from + u64::from(PROBE_MIN_LEN);
        let at = self.delivered_bytes - len + (STAMPS.start - HEADER_LEN) as u64;
        Some(Error::Different { at, what })
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
}

/// How many bytes at the front of both are the same.
#[inline]
pub(in crate::client) fn common_prefix(want: &[u8], got: &[u8]) -> usize {
    let len = want.len().min(got.len());
    let (want, got) = (&want[..len], &got[..len]);
    // Equal slices, the rule, are one memcmp.
    if want == got { len } else { want.iter().zip(got).take_while(|(a, b)| a == b).count() }
}

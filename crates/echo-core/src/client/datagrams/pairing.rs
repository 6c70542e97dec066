//! Which reply belongs to which request.
//!
//! A datagram that comes back carries nothing but its content, so the content is what pairs them: a
//! PROBE is made unlike any other by its number and the client's token, both of which come back.
//! Requests that are equal are told apart by nothing; the first of them counts as answered first.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::Stamps;
use crate::client::requests::{ENTRY, MARK, MARKED, STAMPS, common_prefix};
use crate::datagram::probe;
use crate::frame::{HEADER_LEN, Header, Kind, PROBE_MIN_LEN, is_probe_reply};

/// Where a PROBE has its number and its client's token: behind the header, and behind the mark.
const NUMBER: Range<usize> = HEADER_LEN..STAMPS.start;
const TOKEN: Range<usize> = MARK + 1..PROBE_HEAD;
/// Bytes of a PROBE datagram before its body.
pub(super) const PROBE_HEAD: usize = HEADER_LEN + PROBE_MIN_LEN as usize;

/// How many requests are remembered once they are answered, and how many that are lost, to tell a
/// second or a late reply from a wrong one: 32 KiB each.
const REMEMBERED: usize = 1024;

/// What has been asked, and what of it may still come back.
#[derive(Debug)]
pub(super) struct Pairing {
    /// Without a reply, in the order of their numbers; the first `gone_out` have been sent.
    waiting: VecDeque<Request>,
    gone_out: usize,
    /// What [`Request::cost`] makes of all that waits.
    cost: usize,
    longest: usize,
    answered: VecDeque<Settled>,
    lost: VecDeque<Settled>,
    next_seq: u64,
    /// One more than the highest number that was answered.
    furthest: u64,
    token: [u8; TOKEN.end - TOKEN.start],
    hasher: RandomState,
}

/// One that waits for its reply.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) seq: u64,
    pub(super) datagram: Vec<u8>,
    /// Bytes of the datagram before the caller's.
    pub(super) head: usize,
    /// When the call began that sent it.
    pub(super) sent: Instant,
}

impl Request {
    fn cost(&self) -> usize {
        self.datagram.len() + ENTRY
    }

    /// How long the caller's message is.
    pub(super) fn len(&self) -> usize {
        self.datagram.len() - self.head
    }
}

/// One that was answered or lost.
#[derive(Debug)]
struct Settled {
    seq: u64,
    digest: u64,
    sent: Instant,
}

/// What a datagram that came in is.
#[derive(Debug)]
pub(super) enum Judged {
    /// `overtaken`: a request with a higher number was answered before.
    Reply { request: Request, stamps: Option<Stamps>, overtaken: bool },
    /// The reply to a request that counted as lost, so long after it was sent.
    Late { seq: u64, after: Duration },
    /// The same reply once more.
    Doubled { seq: u64 },
    /// The reply to a PROBE of ours that is forgotten: late, or once more.
    Stale { seq: u64 },
    /// No reply to anything; of what is due, most like the reply to this request.
    Different { seq: u64, at: u64, what: String },
    /// Nothing is due.
    Unexpected,
}

impl Pairing {
    pub(super) fn new() -> Self {
        let hasher = RandomState::new();
        // Random by itself: what is hashed does not matter.
        let [_, token @ ..] = hasher.hash_one(0).to_ne_bytes();
        Self {
            waiting: VecDeque::new(),
            gone_out: 0,
            cost: 0,
            longest: 0,
            answered: VecDeque::new(),
            lost: VecDeque::new(),
            next_seq: 0,
            furthest: 0,
            token,
            hasher,
        }
    }

    pub(super) fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a datagram of `len` bytes fits into `window` beside what waits; a first one always does.
    pub(super) fn fits(&self, len: usize, window: usize) -> bool {
        self.waiting.is_empty() || self.cost + ENTRY + len <= window
    }

    /// How many bytes fit there.
    pub(super) fn room(&self, window: usize) -> usize {
        window.saturating_sub(self.cost + ENTRY)
    }

    /// The longest datagram so far.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn push(&mut self, payload: &[u8]) -> u64 {
        self.push_datagram(payload.to_vec(), 0)
    }

    pub(super) fn push_probe(&mut self, body: &[u8]) -> u64 {
        let mut datagram = vec![0; PROBE_HEAD];
        let len = (PROBE_MIN_LEN as usize + body.len()) as u32; // At most MAX_DATAGRAM.
        let header = Header { kind: Kind::PROBE, len };
        datagram[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        datagram[NUMBER].copy_from_slice(&self.next_seq.to_be_bytes());
        datagram[TOKEN].copy_from_slice(&self.token);
        datagram.extend_from_slice(body);
        self.push_datagram(datagram, PROBE_HEAD)
    }

    fn push_datagram(&mut self, datagram: Vec<u8>, head: usize) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.longest = self.longest.max(datagram.len());
        let request = Request { seq, datagram, head, sent: Instant::now() };
        self.cost += request.cost();
        self.waiting.push_back(request);
        seq
    }

    /// The next one to be sent.
    pub(super) fn unsent(&self) -> Option<&Request> {
        self.waiting.get(self.gone_out)
    }

    /// That one has been sent.
    pub(super) fn sent(&mut self, now: Instant) {
        if let Some(request) = self.waiting.get_mut(self.gone_out) {
            request.sent = now;
            self.gone_out += 1;
        }
    }

    /// That one cannot be sent.
    pub(super) fn take_unsent(&mut self) -> Option<Request> {
        let request = self.waiting.remove(self.gone_out)?;
        self.cost -= request.cost();
        Some(request)
    }

    /// When the request was sent that waits longest for its reply.
    pub(super) fn oldest(&self) -> Option<Instant> {
        (self.gone_out > 0).then(|| self.waiting.front().map(|first| first.sent))?
    }

    /// Takes the request that waits longest for its reply: it is lost.
    pub(super) fn take_oldest(&mut self) -> Option<Request> {
        self.oldest()?;
        self.settle(0, false)
    }

    /// Says what a datagram is that came in.
    pub(super) fn judge(&mut self, came: &[u8], now: Instant) -> Judged {
        let stamps = stamps(came);
        let mut due = self.waiting.iter().take(self.gone_out);
        if let Some(index) = due.position(|request| echoes(&request.datagram, came, stamps)) {
            return self.reply(index, came, stamps, now);
        }
        let digest = self.digest(came);
        if let Some(index) = self.lost.iter().position(|lost| lost.digest == digest)
            && let Some(lost) = self.lost.remove(index)
        {
            let (seq, after) = (lost.seq, now.saturating_duration_since(lost.sent));
            // What comes after that is the same once more.
            remember(&mut self.answered, lost);
            return Judged::Late { seq, after };
        }
        match self.answered.iter().rev().find(|answered| answered.digest == digest) {
            Some(answered) => Judged::Doubled { seq: answered.seq },
            None => self.different(came),
        }
    }

    fn reply(&mut self, index: usize, came: &[u8], stamps: Option<Stamps>, now: Instant) -> Judged {
        let asked = &self.waiting[index];
        // Byte for byte the same is not stamped, whatever a caller wrote there.
        let stamps = stamps.filter(|_| asked.datagram != came);
        let took = now.saturating_duration_since(asked.sent);
        let lie = |it: Stamps| it.backwards().map(str::to_owned).or_else(|| it.overlong(took));
        if let Some(what) = stamps.and_then(lie) {
            return Judged::Different { seq: asked.seq, at: 0, what };
        }
        match self.settle(index, true) {
            Some(request) => {
                let overtaken = request.seq < self.furthest;
                self.furthest = self.furthest.max(request.seq + 1);
                Judged::Reply { request, stamps, overtaken }
            }
            None => Judged::Unexpected,
        }
    }

    fn settle(&mut self, index: usize, answered: bool) -> Option<Request> {
        let request = self.waiting.remove(index)?;
        self.gone_out -= 1;
        self.cost -= request.cost();
        let digest = self.digest(&request.datagram);
        let settled = Settled { seq: request.seq, digest, sent: request.sent };
        remember(if answered { &mut self.answered } else { &mut self.lost }, settled);
        Some(request)
    }

    /// What is wrong with a datagram that is like nothing that was sent, in terms of the request that
    /// it is most likely meant for: the one whose number it bears, or the first of its length, or else
    /// the first.
    fn different(&self, came: &[u8]) -> Judged {
        let due = || self.waiting.iter().take(self.gone_out);
        let ours = came.get(NUMBER).filter(|_| came.get(TOKEN) == Some(&self.token));
        let number = ours.and_then(|number| Some(u64::from_be_bytes(*number.first_chunk()?)));
        let numbered = number.and_then(|number| due().find(|it| it.head > 0 && it.seq == number));
        if let (Some(seq), None, true) = (number, numbered, probe(came).is_some())
            && seq < self.next_seq
        {
            return Judged::Stale { seq };
        }
        let meant = numbered
            .or_else(|| due().find(|it| it.datagram.len() == came.len()))
            .or_else(|| due().next());
        let Some(request) = meant else { return Judged::Unexpected };
        let sent = &request.datagram;
        let at = common_prefix(sent, &unstamped(sent, came));
        let what = if at == came.len() {
            format!("the reply is cut to {at} of {} bytes", sent.len())
        } else if at == sent.len() {
            format!("the reply has {} bytes, {at} were sent", came.len())
        } else {
            format!("the reply has {:#04x} where {:#04x} was sent", came[at], sent[at])
        };
        Judged::Different { seq: request.seq, at: at.saturating_sub(request.head) as u64, what }
    }

    /// A datagram in a word, whether a server has stamped it or not.
    fn digest(&self, datagram: &[u8]) -> u64 {
        if probe(datagram).is_none() {
            return self.hasher.hash_one(datagram);
        }
        let (head, rest) = datagram.split_at(STAMPS.start);
        let rest = &rest[STAMPS.len()..];
        self.hasher.hash_one((head, rest[0] | MARKED, &rest[1..]))
    }
}

/// Keeps what has settled, in place of the oldest.
fn remember(settled: &mut VecDeque<Settled>, last: Settled) {
    if settled.len() == REMEMBERED {
        settled.pop_front();
    }
    settled.push_back(last);
}

/// The stamps of a datagram, if it is a PROBE that a server has stamped.
fn stamps(came: &[u8]) -> Option<Stamps> {
    let head = probe(came).filter(|head| is_probe_reply(head))?;
    let number = |at: usize| Some(u64::from_be_bytes(*head[at..].first_chunk()?));
    let at = STAMPS.start - HEADER_LEN;
    Some(Stamps { received: number(at)?, sent: number(at + 8)? })
}

/// Whether `came` is `sent` come back: byte for byte, or stamped.
fn echoes(sent: &[u8], came: &[u8], stamps: Option<Stamps>) -> bool {
    if sent.len() != came.len() || stamps.is_none() || probe(sent).is_none() {
        return sent == came;
    }
    sent[..STAMPS.start] == came[..STAMPS.start]
        && sent[MARK] | MARKED == came[MARK]
        && sent[MARK + 1..] == came[MARK + 1..]
}

/// `came` without the stamps that the reply to `sent` may have, cut or not.
fn unstamped<'a>(sent: &[u8], came: &'a [u8]) -> Cow<'a, [u8]> {
    let marked = came.get(MARK).is_some_and(|mark| mark & MARKED != 0);
    if !marked || probe(sent).is_none() {
        return came.into();
    }
    let mut came = came.to_vec();
    came[STAMPS].copy_from_slice(&sent[STAMPS]);
    came[MARK] &= sent[MARK] | !MARKED;
    came.into()
}

#[cfg(test)]
mod tests;

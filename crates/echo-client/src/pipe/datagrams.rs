//! The pipe over datagrams: stdin is cut, each piece goes out once, and what comes back is put in order.
//!
//! Each piece is behind the head of a PROBE, by which it is known among equal ones and whatever the
//! order; any echo server returns it. With `?mode=raw` nothing but the piece is sent, and the next one
//! only when the one before has come back or is lost, since nothing else would tell them apart.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes};
use echo_core::client::{DatagramClient, DatagramEvent, Error, Options, PushError};
use echo_core::{Address, Mode};
use tokio::time::Instant;

use super::progress::Progress;
use super::{Heard, Way};
use crate::args::Args;
use crate::failure::Failure;

/// With the 36 bytes of a PROBE's head, and 48 of IPv6 and UDP, below the 1,500 of an Ethernet.
const SIZE: usize = 1400;

/// Datagrams under way, and their bytes: few enough for the default buffers of a socket (208 KiB, which
/// count the kernel's own overhead), at either end.
const IN_FLIGHT: usize = 32;
const WINDOW: usize = 64 << 10;

/// UDP leaves at 8,000 datagrams a second at most, since our servers grant a source 10,000.
const GAP: Duration = Duration::from_micros(125);

/// What waits for a piece before it: what has come back, and for each piece its place in a queue that
/// doubles as it grows, and the least that an allocation takes.
const HELD_MAX: usize = 8 << 20;
const PIECE: usize = 2 * size_of::<Piece>() + 32;

pub(super) struct Datagrams {
    client: DatagramClient,
    size: usize,
    /// Whether pieces are numbered, so that several may be under way.
    numbered: bool,
    /// When the next one may leave, if that is limited.
    pace: Option<Instant>,
    copy: Ordered,
    timeout: Duration,
}

/// The copy, in order.
#[derive(Default)]
struct Ordered {
    /// The pieces from number `first` on: what became of each.
    pieces: VecDeque<Piece>,
    first: u64,
    /// Bytes of all pieces, and of those that came back and wait for one before.
    asked: u64,
    held: usize,
    counts: Counts,
}

struct Piece {
    /// Where it belongs in the copy.
    offset: u64,
    came: Came,
}

enum Came {
    NotYet,
    Back(Vec<u8>),
    Lost,
}

/// What became of all datagrams.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) lost: u64,
    pub(super) late: u64,
    pub(super) doubled: u64,
    pub(super) overtaken: u64,
    bytes: u64,
}

impl Counts {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.lost,
            "late": self.late,
            "doubled": self.doubled,
            "overtaken": self.overtaken,
        })
    }
}

impl Datagrams {
    /// A client with an open socket.
    pub(super) async fn open(args: &Args, options: Options) -> Result<Self, Failure> {
        let timeout = options.timeout;
        let options = Options { window: WINDOW, ..options };
        let client = DatagramClient::connect(&args.target, options).await?;
        let udp = matches!(args.target.address, Address::Udp { .. });
        Ok(Self {
            client,
            size: args.message_size.unwrap_or(SIZE),
            numbered: args.target.mode != Some(Mode::Raw),
            pace: udp.then(Instant::now),
            copy: Ordered::default(),
            timeout,
        })
    }
}

impl Way for Datagrams {
    fn ask(&mut self, pending: &mut Bytes) -> Result<Option<Instant>, Error> {
        let most = if self.numbered { IN_FLIGHT } else { 1 };
        while !pending.is_empty() && self.client.unanswered() < most {
            if self.copy.is_full() {
                break;
            }
            let now = Instant::now();
            if let Some(next) = self.pace {
                if now < next {
                    return Ok(Some(next));
                }
                // What was not used is not saved up, but for what a timer oversleeps.
                let earliest = now.checked_sub(GAP * IN_FLIGHT as u32).unwrap_or(next);
                self.pace = Some(next.max(earliest) + GAP);
            }
            let len = pending.len().min(self.size);
            let piece = &pending[..len];
            let pushed =
                if self.numbered { self.client.push_probe(piece) } else { self.client.push(piece) };
            match pushed {
                Ok(_) => {}
                Err(PushError::Full) => break,
                Err(error) => return Err(error.into()),
            }
            self.copy.push(len);
            pending.advance(len);
        }
        Ok(None)
    }

    fn finish(&mut self) {
        self.client.finish();
    }

    async fn next(&mut self, heard: &mut Heard) -> Result<bool, Error> {
        let Some(event) = self.client.next().await? else { return Ok(false) };
        let taken = self.copy.take(event);
        self.copy.release(&mut heard.verified);
        taken.map(|()| true)
    }

    fn bytes_answered(&self) -> u64 {
        self.copy.counts.bytes
    }

    fn counts(&self) -> Option<&Counts> {
        Some(&self.copy.counts)
    }

    /// An error if anything is lost, and the rest beside it.
    fn verdict(&self, progress: &mut Progress) -> Result<(), Failure> {
        let Counts { sent, lost, late, doubled, overtaken, .. } = self.copy.counts;
        let odd = [(late, "late"), (doubled, "doubled"), (overtaken, "overtaken")];
        let odd = odd.iter().filter(|(count, _)| *count > 0);
        let odd: Vec<_> = odd.map(|(count, how)| format!("{count} {how}")).collect();
        if !odd.is_empty() {
            progress.say(&format!("of the replies to {sent} datagrams: {}", odd.join(", ")));
        }
        match lost {
            0 => Ok(()),
            _ => Err(Failure::Lost { lost, of: sent, waited: self.timeout }),
        }
    }
}

impl Ordered {
    /// The next piece has gone out.
    fn push(&mut self, len: usize) {
        self.pieces.push_back(Piece { offset: self.asked, came: Came::NotYet });
        self.asked += len as u64;
        self.counts.sent += 1;
    }

    /// Whether so much waits for a piece that no more may be asked.
    fn is_full(&self) -> bool {
        self.held + self.pieces.len() * PIECE >= HELD_MAX
    }

    /// Takes what happened.
    fn take(&mut self, event: DatagramEvent<'_>) -> Result<(), Error> {
        match event {
            DatagramEvent::Reply { reply, overtaken } => {
                self.counts.answered += 1;
                self.counts.overtaken += u64::from(overtaken);
                self.counts.bytes += reply.payload.len() as u64;
                self.held += reply.payload.len();
                self.settle(reply.seq, Came::Back(reply.payload.to_vec()));
            }
            DatagramEvent::Lost { seq, .. } => {
                self.counts.lost += 1;
                self.settle(seq, Came::Lost);
            }
            DatagramEvent::Unsent { why, .. } => return Err(why.into()),
            DatagramEvent::Late { .. } => self.counts.late += 1,
            DatagramEvent::Doubled { .. } | DatagramEvent::Stale { .. } => self.counts.doubled += 1,
            DatagramEvent::Different { seq, at, what, .. } => {
                let offset = self.piece(seq).map_or(0, |piece| piece.offset);
                return Err(Error::Different { at: offset + at, what: what.to_owned() });
            }
            DatagramEvent::Unexpected(_) => {
                let what = "a datagram came that nobody asked for".to_owned();
                return Err(Error::Different { at: self.counts.bytes, what });
            }
            _ => {}
        }
        Ok(())
    }

    fn piece(&mut self, seq: u64) -> Option<&mut Piece> {
        self.pieces.get_mut(usize::try_from(seq.checked_sub(self.first)?).ok()?)
    }

    fn settle(&mut self, seq: u64, came: Came) {
        if let Some(piece) = self.piece(seq) {
            piece.came = came;
        }
    }

    /// Hands out what is next in order.
    fn release(&mut self, verified: &mut Vec<u8>) {
        while let Some(piece) = self.pieces.front() {
            match &piece.came {
                Came::NotYet => break,
                Came::Back(bytes) => {
                    verified.extend(bytes);
                    self.held -= bytes.len();
                }
                Came::Lost => {}
            }
            self.pieces.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However short the pieces are, and whatever becomes of them while the first one is due.
    #[test]
    fn each_piece_takes_room() {
        let mut copy = Ordered::default();
        copy.push(1);
        let waited = Duration::ZERO;
        for seq in 1..=HELD_MAX as u64 / 64 {
            if copy.is_full() {
                copy.take(DatagramEvent::Lost { seq: 0, len: 1, waited }).unwrap();
                copy.release(&mut Vec::new());
                assert!(!copy.is_full() && copy.pieces.is_empty());
                return;
            }
            copy.push(1);
            copy.take(DatagramEvent::Lost { seq, len: 1, waited }).unwrap();
        }
        panic!("{} pieces wait", copy.pieces.len());
    }
}

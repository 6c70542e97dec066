//! What a connection of the campaign says, item by item, and what must come back. Everything
//! follows from the seed, so that both directions are generated, compared byte by byte, and never
//! kept.

use crate::support::traffic::{ECHO, ERROR, HELLO, PROBE, header};

/// Random bytes that payloads are cut from: longer than the longest payload.
pub(crate) struct Pool(Vec<u8>);

impl Pool {
    const LEN: usize = 3 << 20;

    pub(crate) fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        Self(std::iter::repeat_with(|| random.u8(..)).take(Self::LEN).collect())
    }
}

/// How a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Bytes, no frames.
    Raw,
    /// ECHO frames alone: it gets nothing else.
    Echo,
    /// HELLO first, then a mixture of frames: it gets control frames and a GOAWAY.
    Hello,
}

/// The n-th thing that a connection sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// Bytes that come back as they are: an ECHO frame, or a piece of a raw stream.
    Echo(usize),
    Hello,
    Probe(usize),
    /// A PROBE too short to be stamped: its answer is an ERROR, and the connection goes on.
    ShortProbe,
}

/// The longest payload.
pub(crate) const MAX_FRAME: usize = 1 << 20;

/// The shortest PROBE that is stamped, and what the server writes of it.
const PROBE_MIN: usize = 32;
const STAMPS: std::ops::Range<usize> = 8..24;
const FLAGS: usize = 24;

/// All items of one connection.
#[derive(Clone, Copy)]
pub(crate) struct Script<'a> {
    pool: &'a Pool,
    seed: u64,
    pub(crate) speech: Speech,
}

impl<'a> Script<'a> {
    pub(crate) fn new(pool: &'a Pool, seed: u64, speech: Speech) -> Self {
        Self { pool, seed: mix(seed), speech }
    }

    pub(crate) fn item(&self, index: u64) -> Item {
        let random = self.random(index);
        match self.speech {
            Speech::Hello if index == 0 => Item::Hello,
            Speech::Hello if random.is_multiple_of(64) => match random >> 6 & 3 {
                0 => Item::Hello,
                1 => Item::ShortProbe,
                _ => Item::Probe(PROBE_MIN + size(random >> 8) % 4096),
            },
            _ => Item::Echo(size(random >> 8)),
        }
    }

    /// Appends what is sent as item `index`.
    pub(crate) fn request(&self, index: u64, out: &mut Vec<u8>) {
        let (kind, len) = match self.item(index) {
            Item::Echo(len) => (ECHO, len),
            Item::Hello => (HELLO, 0),
            Item::Probe(len) => (PROBE, len),
            Item::ShortProbe => (PROBE, 7),
        };
        match self.speech {
            // No listener in auto mode takes this for a frame.
            Speech::Raw if index == 0 => out.extend_from_slice(b"raw:"),
            Speech::Raw => {}
            Speech::Echo | Speech::Hello => out.extend_from_slice(&header(kind, len)),
        }
        self.payload(index, len, out);
    }

    /// The bytes of item `index` on their way to the server.
    pub(crate) fn request_len(&self, index: u64) -> u64 {
        let payload = match self.item(index) {
            Item::Echo(len) | Item::Probe(len) => len,
            Item::Hello => 0,
            Item::ShortProbe => 7,
        };
        let head = if self.speech == Speech::Raw && index > 0 { 0 } else { 4 };
        head + payload as u64
    }

    /// Checks a whole answer to item `index`.
    pub(crate) fn check(
        &self,
        index: u64,
        kind: u8,
        payload: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<(), String> {
        scratch.clear();
        self.request(index, scratch);
        let want = &mut scratch[4..];
        let right = match self.item(index) {
            Item::Hello => kind == HELLO && payload.len() >= 12,
            Item::ShortProbe => kind == ERROR && payload.starts_with(&[0, 3, 0]),
            Item::Echo(_) => kind == ECHO && payload == want,
            Item::Probe(_) if kind == PROBE && payload.len() == want.len() => {
                want[STAMPS].copy_from_slice(&payload[STAMPS]);
                want[FLAGS] |= 1;
                payload == want
            }
            Item::Probe(_) => false,
        };
        if right {
            return Ok(());
        }
        let carried = payload.first_chunk().map(|number| u64::from_be_bytes(*number));
        Err(format!(
            "reply {index} is no answer to {:?}: kind {kind:#04x}, {} bytes, number {carried:?}",
            self.item(index),
            payload.len(),
        ))
    }

    /// Sequence number and checksum where they fit, then bytes that differ from item to item.
    fn payload(&self, index: u64, len: usize, out: &mut Vec<u8>) {
        let random = self.random(!index);
        let start = out.len();
        let offset = random as usize % (Pool::LEN - MAX_FRAME);
        out.extend_from_slice(&self.pool.0[offset..offset + len]);
        if let Some((number, rest)) = out[start..].split_first_chunk_mut::<8>() {
            *number = index.to_be_bytes();
            if let Some(sum) = rest.first_chunk_mut::<8>() {
                *sum = mix(random ^ len as u64).to_be_bytes();
            }
        }
    }

    fn random(&self, index: u64) -> u64 {
        mix(self.seed ^ mix(index))
    }
}

/// Mostly small, sometimes nothing, seldom as long as a frame may be.
fn size(random: u64) -> usize {
    let fine = (random >> 16) as usize;
    match random % 4096 {
        0 => fine % (MAX_FRAME + 1),
        1..16 => fine % (64 << 10),
        16..256 => fine % 4096,
        256..512 => 0,
        _ => fine % 256,
    }
}

/// A bijection that looks random (splitmix64's finalizer).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

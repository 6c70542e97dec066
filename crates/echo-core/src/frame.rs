//! The frame: a four-byte header and its payload (PROTOCOL.md, "Frames").
//!
//! The header parser here is the only one: the server's pass-through, [`FrameCodec`] and the
//! clients all use it.

mod auth;
mod codec;
mod control;
mod files;

pub use auth::{AuthReply, AuthRequest};
pub use codec::{Frame, FrameCodec};
pub use control::{
    ErrorCode, ErrorFrame, Features, Goaway, Hello, HelloReply, MalformedControl, PROBE_MIN_LEN,
    Reason, VERSION,
};
pub(crate) use control::{is_probe_reply, mark_probe_reply};
pub use files::{
    Attributes, BadName, Commit, DataReply, Digest, Entry, FileName, Get, GetReply, List,
    ListReply, Put, PutReply, Read, Remove,
};

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 4;

/// The longest payload that a header can declare (`u24`): 16 MiB − 1.
pub const MAX_PAYLOAD_LEN: u32 = 0x00FF_FFFF;

/// The longest control payload that is ever collected; file data streams instead.
pub const MAX_CONTROL_LEN: u32 = 4096;

/// What a frame is, its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// Comes back byte for byte, header included.
    pub const ECHO: Self = Self(0x00);
    /// A client's wish for control frames, and the server's answer.
    pub const HELLO: Self = Self(0x80);
    /// The server's last frame: what it answered, and why it stops.
    pub const GOAWAY: Self = Self(0x81);
    /// The server's answer to a frame it cannot serve.
    pub const ERROR: Self = Self(0x82);
    /// An echo that is stamped with the server's receive and transmit time.
    pub const PROBE: Self = Self(0x83);
    /// Authentication, for an [`Extension`](crate::Extension).
    pub const AUTH: Self = Self(0x84);
    /// Opens an upload.
    pub const PUT: Self = Self(0x90);
    /// Bytes of a file.
    pub const DATA: Self = Self(0x91);
    /// Ends an upload: the file is to appear.
    pub const COMMIT: Self = Self(0x92);
    /// Opens a download.
    pub const GET: Self = Self(0x93);
    /// Asks for the next bytes of a download.
    pub const READ: Self = Self(0x94);
    /// Ends a download: asks for the file's digest.
    pub const DONE: Self = Self(0x95);
    /// Asks for the names of files.
    pub const LIST: Self = Self(0x96);
    /// Removes a file.
    pub const REMOVE: Self = Self(0x97);

    /// Whether this kind belongs to an [`Extension`](crate::Extension): AUTH and files
    /// (`0x90..=0x9F`).
    pub const fn is_extension(self) -> bool {
        self.0 == Self::AUTH.0 || matches!(self.0, 0x90..=0x9F)
    }

    /// Whether a client that sends this kind may be answered with control frames from then on:
    /// HELLO, PROBE, AUTH and files. A reserved kind does not count.
    pub const fn asks_for_control(self) -> bool {
        self.0 == Self::HELLO.0 || self.0 == Self::PROBE.0 || self.is_extension()
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::ECHO => f.write_str("ECHO"),
            Self::HELLO => f.write_str("HELLO"),
            Self::GOAWAY => f.write_str("GOAWAY"),
            Self::ERROR => f.write_str("ERROR"),
            Self::PROBE => f.write_str("PROBE"),
            Self::AUTH => f.write_str("AUTH"),
            Self::PUT => f.write_str("PUT"),
            Self::DATA => f.write_str("DATA"),
            Self::COMMIT => f.write_str("COMMIT"),
            Self::GET => f.write_str("GET"),
            Self::READ => f.write_str("READ"),
            Self::DONE => f.write_str("DONE"),
            Self::LIST => f.write_str("LIST"),
            Self::REMOVE => f.write_str("REMOVE"),
            Self(other) => write!(f, "{other:#04x}"),
        }
    }
}

/// A frame's header: its kind, and how many bytes of payload follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Bytes of payload, at most [`MAX_PAYLOAD_LEN`].
    pub len: u32,
}

impl Header {
    /// Reads a header. Every four bytes are one, so this cannot fail: whether the kind is known and
    /// the length allowed is the caller's to judge.
    #[inline]
    pub const fn parse(bytes: [u8; HEADER_LEN]) -> Self {
        let word = u32::from_be_bytes(bytes);
        Self { kind: Kind(bytes[0]), len: word & MAX_PAYLOAD_LEN }
    }

    /// The header's bytes on the wire.
    ///
    /// # Panics
    /// When `len` exceeds [`MAX_PAYLOAD_LEN`]: a caller's mistake that would corrupt the stream.
    pub const fn to_bytes(self) -> [u8; HEADER_LEN] {
        assert!(self.len <= MAX_PAYLOAD_LEN, "a payload length has 24 bits");
        ((self.kind.0 as u32) << 24 | self.len).to_be_bytes()
    }
}

/// Where a stream of ECHO frames stands: inside a payload, or between frames.
///
/// This is the pass-through's whole knowledge of a frame: it validates headers and counts payload
/// bytes, and what it has approved may go back to the peer unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// Payload bytes of the frame under way that have not been seen yet.
    pub remaining: u32,
    /// What the last header declared.
    pub declared: u32,
}

/// Why [`Passage::scan`] stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The chunk is used up, but for up to three bytes of a header.
    Exhausted,
    /// A header stands there that must not be passed on: not an ECHO, or too long.
    Header(Header),
}

/// What [`Passage::scan`] found in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// How many bytes from the chunk's start may be passed on.
    pub pass: usize,
    /// How many frames ended within them.
    pub frames: u64,
    /// What follows.
    pub stop: Stop,
}

impl Passage {
    /// Approves as much of `chunk` as is ECHO frames of at most `max_frame` bytes.
    #[inline]
    pub fn scan(&mut self, chunk: &[u8], max_frame: u32) -> Scan {
        debug_assert!(max_frame <= MAX_PAYLOAD_LEN);
        let end = chunk.len();
        let mut at = self.remaining as usize;
        if at > end {
            self.remaining -= end as u32;
            return Scan { pass: end, frames: 0, stop: Stop::Exhausted };
        }
        let mut frames = u64::from(at > 0);
        self.remaining = 0;
        while let Some(head) = chunk[at..].first_chunk::<HEADER_LEN>() {
            // The kind of an ECHO is 0, so its header is its length, and every other header is more
            // than the largest limit: one comparison judges both.
            let len = u32::from_be_bytes(*head);
            if len > max_frame {
                return Scan { pass: at, frames, stop: Stop::Header(Header::parse(*head)) };
            }
            self.declared = len;
            at += HEADER_LEN + len as usize;
            if at > end {
                self.remaining = (at - end) as u32;
                return Scan { pass: end, frames, stop: Stop::Exhausted };
            }
            frames += 1;
        }
        Scan { pass: at, frames, stop: Stop::Exhausted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_is_kind_and_u24() {
        let header = Header::parse([0x83, 0x01, 0x02, 0x03]);
        assert_eq!(header, Header { kind: Kind::PROBE, len: 0x0001_0203 });
        assert_eq!(header.to_bytes(), [0x83, 0x01, 0x02, 0x03]);
        assert_eq!(Header::parse([0xFF; 4]).len, MAX_PAYLOAD_LEN);
    }

    #[test]
    fn a_u32_length_below_16_mib_is_an_echo_header() {
        for len in [0u32, 1, 255, 65_536, MAX_PAYLOAD_LEN] {
            assert_eq!(Header::parse(len.to_be_bytes()), Header { kind: Kind::ECHO, len });
        }
    }

    /// Faults 26 and 27: lengths at and around the limit.
    #[test]
    fn the_limit_is_inclusive() {
        let mut passage = Passage::default();
        let at_limit = Header { kind: Kind::ECHO, len: 10 }.to_bytes();
        assert_eq!(passage.scan(&at_limit, 10).stop, Stop::Exhausted);
        assert_eq!(passage.remaining, 10);
        let mut passage = Passage::default();
        let over = Header { kind: Kind::ECHO, len: 11 };
        let scan = passage.scan(&over.to_bytes(), 10);
        assert_eq!((scan.pass, scan.stop), (0, Stop::Header(over)));
    }

    #[test]
    fn empty_frames_count() {
        let scan = Passage::default().scan(&[0; 12], 10);
        assert_eq!(scan, Scan { pass: 12, frames: 3, stop: Stop::Exhausted });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 1_000_000 } else { 10_000 }))]

        /// Faults 8 and 29: whatever arrives, in whatever pieces, the scan approves the same bytes
        /// and counts the same frames as over the whole.
        #[test]
        fn splits_do_not_matter(bytes in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..8, any::<u8>()], 0..64), cuts in proptest::collection::vec(1usize..9, 1..64)) {
            let whole = Passage::default().scan(&bytes, 6);
            let mut passage = Passage::default();
            let (mut kept, mut passed, mut frames, mut at) = (Vec::new(), 0, 0, 0);
            let mut stop = Stop::Exhausted;
            for cut in cuts.iter().cycle().take(bytes.len()) {
                let end = (at + cut).min(bytes.len());
                kept.extend_from_slice(&bytes[at..end]);
                at = end;
                let scan = passage.scan(&kept, 6);
                kept.drain(..scan.pass);
                passed += scan.pass;
                frames += scan.frames;
                stop = scan.stop;
                if at == bytes.len() || stop != Stop::Exhausted { break; }
                prop_assert!(kept.len() < HEADER_LEN);
            }
            prop_assert_eq!((whole.pass, whole.frames, whole.stop), (passed, frames, stop));
        }
    }
}

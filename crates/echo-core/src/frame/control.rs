//! Payloads of the control frames. All integers are big-endian; bytes after the known fields are
//! ignored, so that a later version can add some.

use std::borrow::Cow;

use bytes::{Buf, BufMut};

/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;

/// The shortest PROBE payload: what the stamps need, rounded up.
pub const PROBE_MIN_LEN: u32 = 32;

const PROBE_RECEIVED: std::ops::Range<usize> = 8..16;
const PROBE_SENT: std::ops::Range<usize> = 16..24;
const PROBE_FLAGS: usize = 24;
const PROBE_REPLY: u8 = 0b1;

/// A control payload that is shorter than its fields or contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed control frame")]
pub struct MalformedControl;

/// What a side of the connection can do beyond ECHO, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// The server stamps PROBE frames.
    pub const PROBE: Self = Self(1 << 0);
    /// The server answers AUTH frames.
    pub const AUTH: Self = Self(1 << 1);
    /// The server answers file frames.
    pub const FILES: Self = Self(1 << 2);

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A client's HELLO. Its payload may be empty, which reads as version 1 without features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The highest version that the client speaks.
    pub version: u16,
    /// What the client understands.
    pub features: Features,
}

impl Default for Hello {
    fn default() -> Self {
        Self { version: VERSION, features: Features::default() }
    }
}

impl Hello {
    /// Reads a HELLO payload.
    pub fn parse(mut payload: &[u8]) -> Result<Self, MalformedControl> {
        if payload.is_empty() {
            return Ok(Self::default());
        }
        let version = payload.try_get_u16().map_err(|_| MalformedControl)?;
        let features = Features(payload.try_get_u32().map_err(|_| MalformedControl)?);
        Ok(Self { version, features })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u16(self.version);
        out.put_u32(self.features.0);
    }
}

/// The server's answer to HELLO; never empty, so that a client can tell it from its own HELLO
/// echoed by an RFC 862 server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply<'a> {
    /// The version in force: the lower of both sides'.
    pub version: u16,
    /// The longest ECHO payload that the server passes.
    pub max_frame: u32,
    /// What the server answers beyond ECHO.
    pub features: Features,
    /// Text for people, at most 1 KiB.
    pub greeting: Cow<'a, str>,
}

impl<'a> HelloReply<'a> {
    /// Reads a HELLO reply.
    pub fn parse(mut payload: &'a [u8]) -> Result<Self, MalformedControl> {
        let version = payload.try_get_u16().map_err(|_| MalformedControl)?;
        let max_frame = payload.try_get_u32().map_err(|_| MalformedControl)?;
        let features = Features(payload.try_get_u32().map_err(|_| MalformedControl)?);
        let len = payload.try_get_u16().map_err(|_| MalformedControl)?;
        let text = payload.get(..usize::from(len)).ok_or(MalformedControl)?;
        Ok(Self { version, max_frame, features, greeting: String::from_utf8_lossy(text) })
    }

    /// Writes the payload. A greeting over 1 KiB is cut at a character's end.
    pub fn put(&self, out: &mut impl BufMut) {
        let text = &self.greeting[..self.greeting.floor_char_boundary(1024)];
        out.put_u16(self.version);
        out.put_u32(self.max_frame);
        out.put_u32(self.features.0);
        out.put_u16(text.len() as u16);
        out.put_slice(text.as_bytes());
    }
}

/// Why a server says GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The server drains: it stops, restarts or hands over.
    Drain,
    /// The connection was idle for too long.
    Idle,
    /// The client broke the protocol; an ERROR said how.
    Error,
    /// A frame did not arrive in time.
    Stalled,
    /// A reason that this version does not know.
    Other(u16),
}

impl Reason {
    const fn code(self) -> u16 {
        match self {
            Self::Drain => 0,
            Self::Idle => 1,
            Self::Error => 2,
            Self::Stalled => 3,
            Self::Other(code) => code,
        }
    }
}

impl From<u16> for Reason {
    fn from(code: u16) -> Self {
        match code {
            0 => Self::Drain,
            1 => Self::Idle,
            2 => Self::Error,
            3 => Self::Stalled,
            other => Self::Other(other),
        }
    }
}

/// The server's last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goaway {
    /// Why the server stops.
    pub reason: Reason,
    /// How many of the client's frames, of every kind, it answered on this connection. Nothing
    /// beyond them was processed.
    pub answered: u64,
}

impl Goaway {
    /// Reads a GOAWAY payload.
    pub fn parse(mut payload: &[u8]) -> Result<Self, MalformedControl> {
        let reason = Reason::from(payload.try_get_u16().map_err(|_| MalformedControl)?);
        let answered = payload.try_get_u64().map_err(|_| MalformedControl)?;
        Ok(Self { reason, answered })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u16(self.reason.code());
        out.put_u64(self.answered);
    }
}

/// What an ERROR frame says in its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The payload is longer than the server passes; it is discarded.
    TooLong,
    /// The kind is not one that a client may send here.
    UnexpectedKind,
    /// A control payload that cannot be read.
    Malformed,
    /// There is no place for another connection: try again later.
    Busy,
    /// The client has not authenticated, or could not.
    Denied,
    /// The client has authenticated, and may not do that.
    Forbidden,
    /// There is no file of that name.
    NotFound,
    /// A quota, or the disk, leaves no space.
    NoSpace,
    /// A digest or a size is not that of what came.
    Mismatch,
    /// The server's own storage failed.
    Failed,
    /// A code that this version does not know.
    Other(u16),
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Self::TooLong => 1,
            Self::UnexpectedKind => 2,
            Self::Malformed => 3,
            Self::Busy => 4,
            Self::Denied => 5,
            Self::Forbidden => 6,
            Self::NotFound => 7,
            Self::NoSpace => 8,
            Self::Mismatch => 9,
            Self::Failed => 10,
            Self::Other(code) => code,
        }
    }
}

impl From<u16> for ErrorCode {
    fn from(code: u16) -> Self {
        match code {
            1 => Self::TooLong,
            2 => Self::UnexpectedKind,
            3 => Self::Malformed,
            4 => Self::Busy,
            5 => Self::Denied,
            6 => Self::Forbidden,
            7 => Self::NotFound,
            8 => Self::NoSpace,
            9 => Self::Mismatch,
            10 => Self::Failed,
            other => Self::Other(other),
        }
    }
}

/// The server's answer to a frame that it cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFrame<'a> {
    /// What is wrong.
    pub code: ErrorCode,
    /// Whether the connection ends after this frame.
    pub closes: bool,
    /// Text for people.
    pub text: Cow<'a, str>,
}

impl<'a> ErrorFrame<'a> {
    /// Reads an ERROR payload.
    pub fn parse(mut payload: &'a [u8]) -> Result<Self, MalformedControl> {
        let code = ErrorCode::from(payload.try_get_u16().map_err(|_| MalformedControl)?);
        let flags = payload.try_get_u8().map_err(|_| MalformedControl)?;
        Ok(Self { code, closes: flags & 1 == 1, text: String::from_utf8_lossy(payload) })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u16(self.code.code());
        out.put_u8(u8::from(self.closes));
        out.put_slice(self.text.as_bytes());
    }
}

/// Turns the first [`PROBE_MIN_LEN`] bytes of a PROBE payload into its reply: receive and transmit
/// time in nanoseconds since the server's start, and the bit that marks a reply.
pub(crate) fn mark_probe_reply(
    payload: &mut [u8; PROBE_MIN_LEN as usize],
    received: u64,
    sent: u64,
) {
    payload[PROBE_RECEIVED].copy_from_slice(&received.to_be_bytes());
    payload[PROBE_SENT].copy_from_slice(&sent.to_be_bytes());
    payload[PROBE_FLAGS] |= PROBE_REPLY;
}

/// Whether the payload of a PROBE is that of an answer.
pub(crate) fn is_probe_reply(payload: &[u8; PROBE_MIN_LEN as usize]) -> bool {
    payload[PROBE_FLAGS] & PROBE_REPLY != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Fault 29: no payload makes a parser panic, and what it accepts writes back the same.
        #[test]
        fn parsers_take_anything(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(hello) = Hello::parse(&payload) {
                let mut out = Vec::new();
                hello.put(&mut out);
                prop_assert_eq!(Hello::parse(&out), Ok(hello));
            }
            if let Ok(goaway) = Goaway::parse(&payload) {
                let mut out = Vec::new();
                goaway.put(&mut out);
                prop_assert_eq!(&out[..], &payload[..out.len()]);
            }
            if let Ok(reply) = HelloReply::parse(&payload) {
                let mut out = Vec::new();
                reply.put(&mut out);
                prop_assert_eq!(HelloReply::parse(&out), Ok(reply));
            }
            if let Ok(error) = ErrorFrame::parse(&payload) {
                let mut out = Vec::new();
                error.put(&mut out);
                prop_assert_eq!(ErrorFrame::parse(&out), Ok(error));
            }
        }
    }

    #[test]
    fn an_empty_hello_is_version_1() {
        assert_eq!(Hello::parse(&[]), Ok(Hello::default()));
        assert_eq!(Hello::parse(&[0]), Err(MalformedControl));
    }

    #[test]
    fn a_long_greeting_is_cut_between_characters() {
        let reply = HelloReply {
            version: VERSION,
            max_frame: 1,
            features: Features::PROBE,
            greeting: "é".repeat(600).into(),
        };
        let mut out = Vec::new();
        reply.put(&mut out);
        assert_eq!(HelloReply::parse(&out).unwrap().greeting, "é".repeat(512));
    }
}

//! What a client tells its caller.

use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use crate::frame::{ErrorCode, Features, Goaway};
use crate::stream::Peer;

/// What [`Client::next`](super::Client::next) brings. What it lends lives until the next call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// There is a connection: the first, or another one after a loss.
    Connected {
        /// What the first exchange said.
        session: &'a Session,
        /// How many requests go out again.
        resent: usize,
    },
    /// A reply: each once, in the order of the requests, every byte of it compared.
    Reply(Reply<'a>),
    /// More of the reply under way, compared, where [`Options::parts`](super::Options::parts) asks
    /// for it.
    Part(&'a [u8]),
    /// The socket has taken all that was queued, and has brought nothing: time to queue more. Only
    /// where [`Options::parts`](super::Options::parts) asks for it.
    Sent,
    /// The server's ERROR in place of a reply. The other requests go on.
    Refused(Refusal<'a>),
    /// Bytes that nobody asked for. Who takes them for the end has [`Error::from`].
    Unexpected(Unexpected<'a>),
    /// The server's last frame. What it counts agrees with what came.
    Goaway(Goaway),
    /// The connection is lost. What is due is sent again on the next one, which is made as soon as
    /// something is due or [`Client::reconnect`](super::Client::reconnect) asks for it.
    Lost(&'a Error),
    /// An attempt to connect failed.
    Retrying {
        /// Why it failed.
        why: &'a Error,
        /// How long until the next one.
        pause: Duration,
    },
}

/// The answer to one request.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The request's number.
    pub seq: u64,
    /// The request's payload, which has come back; the body of a PROBE.
    pub payload: &'a [u8],
    /// What of it no [`Event::Part`] has brought.
    pub fresh: &'a [u8],
    /// When the write began that took the request's first byte, on its first connection.
    pub sent: Instant,
    /// When the read returned that brought the reply's last byte.
    pub received: Instant,
    /// Whether it was sent on more than one connection.
    pub resent: bool,
    /// The server's times, of a PROBE.
    pub stamps: Option<Stamps>,
}

impl Reply<'_> {
    /// From the first byte's way out to the last byte's way in, across lost connections too: a
    /// restart that a request had to wait for is part of its time.
    pub fn round_trip(&self) -> Duration {
        self.received.saturating_duration_since(self.sent)
    }
}

/// When a PROBE was with the server: nanoseconds of a clock of its own, of which only the difference
/// means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// When the server had received its header.
    pub received: u64,
    /// When the server sent it back.
    pub sent: u64,
}

impl Stamps {
    /// How long the server had it. The rest of the round trip is the path's, both ends' kernels
    /// included.
    pub fn in_server(&self) -> Duration {
        Duration::from_nanos(self.sent.saturating_sub(self.received))
    }

    /// What is wrong where the server says that it answered before it was asked.
    pub(super) fn backwards(&self) -> Option<&'static str> {
        let what = "a PROBE was sent back before it was received, its stamps say";
        (self.sent < self.received).then_some(what)
    }

    /// What is wrong if the server had a PROBE for longer than the way there and back `took`. Clocks that
    /// are slewed differ by up to a thousandth.
    pub(super) fn overlong(&self, took: Duration) -> Option<String> {
        let in_server = self.in_server();
        (in_server > took + took / 1000).then(|| {
            format!(
                "a PROBE was with the server for {in_server:?}, its stamps say, and back after {took:?}"
            )
        })
    }
}

/// An ERROR frame in place of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The request's number.
    pub seq: u64,
    /// What is wrong.
    pub code: ErrorCode,
    /// The server's words, as it wrote them: escape them for a terminal.
    pub text: &'a str,
    /// Whether the server ends the connection after this.
    pub closes: bool,
}

/// In the words of an error, for callers who take a refusal for the end.
impl From<Refusal<'_>> for Error {
    fn from(refusal: Refusal<'_>) -> Self {
        Self::rejected(refusal.code, refusal.text)
    }
}

/// Bytes that nobody asked for: a reply too many, or a server that talks by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected<'a> {
    /// What came, as it came; in the framed dialect whole frames, headers included, in pieces.
    pub bytes: &'a [u8],
    /// Behind how many bytes of payload that were asked for.
    pub at: u64,
    /// What they are bytes of.
    pub dialect: Dialect,
}

/// In the words of an error, for callers who take them for the end.
impl From<Unexpected<'_>> for Error {
    fn from(unexpected: Unexpected<'_>) -> Self {
        let what = match unexpected.dialect {
            Dialect::Raw => "the server sent bytes that nobody asked for",
            Dialect::Framed => "the server sent a frame that nobody asked for",
        };
        Self::Different { at: unexpected.at, what: what.to_owned() }
    }
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Bytes that come back (RFC 862).
    Raw,
    /// Frames.
    Framed,
}

/// What is known of a connection since its first exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// How the server is spoken to.
    pub dialect: Dialect,
    /// The server echoed HELLO itself, as an RFC 862 server does: hence raw.
    pub fell_back: bool,
    /// Who is at the other end.
    pub peer: Peer,
    /// The longest payload that the server passes. Without HELLO, what the protocol allows.
    pub max_frame: u32,
    /// What the server answers beyond ECHO.
    pub features: Features,
    /// The server's text for people, as it wrote it: escape it for a terminal.
    pub greeting: String,
}

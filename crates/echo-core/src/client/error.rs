//! What can go wrong between a client and its server, and whose fault it was.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::frame::{ErrorCode, Goaway, Reason};

/// Why a [`Client`](super::Client) or a [`DatagramClient`](super::DatagramClient) ended, lost its
/// connection, or has no reply.
///
/// Its text begins with what happened, in words that programs may match on: `refused:`,
/// `denied:`, `unreachable:`, `untrusted:`, `unresolved:`, `unsupported:`, `timed out:`, `closed early:`,
/// `different at byte N:`,
/// `lost:`; of a message that was not sent the words of [`PushError`]; and `the client has ended`. It
/// tells the cause too, so that none is a [`source`](std::error::Error::source). What a peer wrote comes in
/// it as escapes where it could harm a terminal or a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens there, or not for us.
    #[error("refused: {place}: {}", Connecting(error))]
    Refused {
        /// The address.
        place: String,
        /// What the system said.
        error: io::Error,
    },
    /// No way there, or none from this host.
    #[error("unreachable: {place}: {}", Words(error))]
    Unreachable {
        /// The address.
        place: String,
        /// What the system said.
        error: io::Error,
    },
    /// The server is not the one that was asked for, or will not know us: TLS came to no agreement.
    #[error("untrusted: {place}: {what}")]
    Untrusted {
        /// The address.
        place: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The name has no address, or none of the family asked for.
    #[error("unresolved: {}", Words(.0))]
    Unresolved(io::Error),
    /// Nobody connects to a place of that kind, or not with this client.
    #[error("unsupported: {place}: {what}")]
    Unsupported {
        /// The address.
        place: String,
        /// What it is for.
        what: &'static str,
    },
    /// Nothing came while something was due.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// The connection ended before all was answered.
    #[error("closed early: {0}")]
    ClosedEarly(Box<ClosedEarly>),
    /// What came back is not what was sent.
    #[error("different at byte {at}: {what}")]
    Different {
        /// The first byte that is not as sent, counted from 0 over the payload of all requests.
        at: u64,
        /// What is wrong there.
        what: String,
    },
    /// No reply came to a datagram within [`Options::timeout`](super::Options::timeout).
    #[error("lost: no reply to {} within {waited:?}", Bytes(*.len as u64))]
    Lost {
        /// Bytes of the message.
        len: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// The server will not serve this.
    #[error("refused: {0}")]
    Rejected(String),
    /// The server serves only users, and this client has not authenticated as one.
    #[error("refused: {0}")]
    Unauthenticated(String),
    /// The server knows no such user, or not with that password; or somebody stands between. In its own words.
    #[error("denied: {0}")]
    Denied(String),
    /// The message was not sent.
    #[error(transparent)]
    Unsent(#[from] PushError),
    /// No connection came about for as long as [`Options::retry`](super::Options::retry) allows.
    #[error("{lost}; no other connection within {after:?}: {last}")]
    GaveUp {
        /// Why the connection before was lost.
        lost: Box<Self>,
        /// Why the last attempt failed.
        last: Box<Self>,
        /// How long was tried.
        after: Duration,
    },
    /// The client had ended already.
    #[error("the client has ended")]
    Over,
}

/// Whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server's: it answered wrongly, or would not.
    Server,
    /// The server's or the path's, this host's part of it included: nobody can tell them apart from here.
    Path,
    /// The caller's.
    Caller,
}

impl Error {
    /// Whose fault it was.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Different { .. }
            | Self::Rejected(_)
            | Self::Unauthenticated(_)
            | Self::Untrusted { .. } => Fault::Server,
            Self::Unsent(why) => why.fault(),
            Self::Unsupported { .. } | Self::Denied(_) | Self::Over => Fault::Caller,
            Self::GaveUp { lost, .. } => lost.fault(),
            _ => Fault::Path,
        }
    }

    /// Whether another connection may do better.
    pub(super) fn may_pass(&self) -> bool {
        self.fault() == Fault::Path
    }

    /// That connecting to `place` failed.
    pub(super) fn connecting(place: impl fmt::Display, error: io::Error) -> Self {
        let place = place.to_string();
        match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ConnectionReset => Self::Refused { place, error },
            io::ErrorKind::TimedOut => Self::TimedOut(format!("{place}: {}", Words(&error))),
            _ => Self::Unreachable { place, error },
        }
    }

    /// What TLS says of the end of a connection, if that is what ended it: the alert with which the server
    /// refuses us comes after our part of the handshake.
    pub(super) fn secured(error: &io::Error) -> Option<Self> {
        #[cfg(feature = "tls")]
        if let Some(what) = crate::tls::refusal(error) {
            return Some(Self::Rejected(what));
        }
        let _ = error;
        None
    }

    /// What an ERROR frame says of a login that failed.
    pub(super) fn denied(text: &str) -> Self {
        Self::Denied(text.escape_debug().to_string())
    }

    /// What an ERROR frame says.
    pub(super) fn rejected(code: ErrorCode, text: &str) -> Self {
        let number = code.code();
        let name = match code {
            ErrorCode::TooLong => "too long",
            ErrorCode::UnexpectedKind => "unexpected kind",
            ErrorCode::Malformed => "malformed",
            ErrorCode::Busy => "busy",
            ErrorCode::Denied => "denied",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotFound => "not found",
            ErrorCode::NoSpace => "no space",
            ErrorCode::Mismatch => "mismatch",
            ErrorCode::Failed => "failed",
            ErrorCode::Other(_) => "unknown",
        };
        let text = text.escape_debug();
        let what = format!("the server says: {text} (error {number}, {name})");
        match code {
            ErrorCode::Denied => Self::Unauthenticated(what),
            _ => Self::Rejected(what),
        }
    }
}

/// A connection that ended before all was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClosedEarly {
    /// How it ended: "the server drains", "Connection reset by peer".
    pub how: String,
    /// The server's last frame, if it sent one.
    pub goaway: Option<Goaway>,
    /// Whether the server ended it in order: by GOAWAY or its end of stream, and not by a reset.
    pub orderly: bool,
    /// Whether a reply had come in part.
    pub inside_frame: bool,
    /// Requests asked and answered on this connection.
    pub asked: u64,
    /// Of them, those that were answered.
    pub answered: u64,
    /// Payload bytes without an answer.
    pub bytes_unanswered: u64,
    /// Payload bytes answered, over all connections.
    pub bytes_answered: u64,
}

impl fmt::Display for ClosedEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = &self.how;
        if self.goaway.is_some() {
            return write!(f, "{how}: {} of {} frames answered", self.answered, self.asked);
        }
        let place = if self.inside_frame { " inside a frame" } else { "" };
        match (self.bytes_unanswered, self.bytes_answered) {
            (0, answered) if self.asked > 0 && self.asked == self.answered => {
                write!(f, "{how}{place}, all {} answered", Bytes(answered))
            }
            (0, _) => write!(f, "{how}{place}"),
            (unanswered, _) => write!(f, "{how}{place}: {} unanswered", Bytes(unanswered)),
        }
    }
}

/// Why a server says GOAWAY.
pub(super) fn leaving(reason: Reason) -> String {
    match reason {
        Reason::Drain => "the server drains".to_owned(),
        Reason::Idle => "the server ends idle connections".to_owned(),
        Reason::Error => "the server saw a protocol error".to_owned(),
        Reason::Stalled => "the server waited too long for a frame".to_owned(),
        Reason::Other(code) => format!("the server leaves (reason {code})"),
    }
}

/// So many bytes, in words.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// An I/O error without the number that Rust appends.
pub(super) struct Words<'a>(pub(super) &'a io::Error);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.kind() == io::ErrorKind::UnexpectedEof {
            return f.write_str("the stream was cut: it ended without TLS's close_notify");
        }
        let text = self.0.to_string();
        f.write_str(text.split_once(" (os error ").map_or(&text, |(words, _)| words))
    }
}

/// The same with what to do about a closed port.
struct Connecting<'a>(&'a io::Error);

impl fmt::Display for Connecting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Words(self.0).fmt(f)?;
        match self.0.kind() {
            io::ErrorKind::ConnectionRefused => f.write_str(" (is it running?)"),
            _ => Ok(()),
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// There was no connection yet, so that nobody knows how the server is spoken to.
    #[error("not connected yet")]
    NotConnected,
    /// More would not fit into [`Options::window`](super::Options::window).
    #[error("the window is full")]
    Full,
    /// The server, or the protocol, passes no payload of that length.
    #[error("too long: {len} bytes are over the limit of {max}")]
    TooLong {
        /// Bytes of payload.
        len: usize,
        /// The most that is passed.
        max: u32,
    },
    /// The same of what a PROBE carries behind its first 32 bytes, which count too.
    #[error("too long: {len} bytes and the 32 of a PROBE are over the limit of {max}")]
    ProbeTooLong {
        /// Bytes behind the first 32.
        len: usize,
        /// The most that is passed, the 32 among it.
        max: u32,
    },
    /// No datagram holds a message of that length.
    #[error("too long: {len} bytes are over the {max} that fit into a datagram")]
    DatagramTooLong {
        /// Bytes of the message.
        len: usize,
        /// The most that fit.
        max: u32,
    },
    /// This host's socket does not send a datagram of that length.
    #[error("too long: {len} bytes are more than this host sends in a datagram there")]
    OverHostLimit {
        /// Bytes of the datagram.
        len: usize,
    },
    /// This host has no memory to send it.
    #[error("not sent: this host has no memory for it")]
    NoMemory,
    /// The socket has taken no datagram for so long.
    #[error("timed out: the socket took nothing for {waited:?}")]
    Blocked {
        /// How long was waited.
        waited: Duration,
    },
    /// A message of no bytes, of which nothing would come back on a raw connection.
    #[error("empty: a message of no bytes leaves no trace on a raw connection")]
    Empty,
    /// The server does not answer PROBE.
    #[error("no PROBE: the server does not answer it")]
    NoProbe,
    /// [`Client::finish`](super::Client::finish) was called, or the client has ended.
    #[error("nothing more can be asked")]
    Finished,
}

impl PushError {
    /// Whose fault it was.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoMemory | Self::Blocked { .. } => Fault::Path,
            _ => Fault::Caller,
        }
    }
}

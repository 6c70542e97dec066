//! What can end a connection, and whose fault it was.

use std::io;

use crate::frame::Kind;
use crate::stats::HandshakeFault;

/// Why a connection ended otherwise than by its peer's orderly end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A frame declares more payload than the limit.
    #[error("a frame of {len} bytes is over the limit of {max}")]
    FrameTooLong {
        /// What the header declared.
        len: u32,
        /// The limit in force.
        max: u32,
    },
    /// A control frame declares more payload than 4 KiB.
    #[error("a control frame of {len} bytes is over the limit of 4096")]
    ControlTooLong {
        /// What the header declared.
        len: u32,
    },
    /// A frame of a kind that has no place there.
    #[error("a frame of kind {0:?} has no place here")]
    UnexpectedKind(Kind),
    /// A control frame whose payload cannot be read.
    #[error("malformed {0:?} frame")]
    Malformed(Kind),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// Nothing came for the idle timeout.
    #[error("idle for too long")]
    Idle,
    /// A frame was begun and not finished in its time.
    #[error("a frame did not arrive in time")]
    FrameTimedOut,
    /// The peer did not read its replies in their time.
    #[error("the peer did not read in time")]
    WriteTimedOut,
    /// The drain's deadline cut the connection.
    #[error("cut at the drain's deadline")]
    DrainDeadline,
    /// The peer's address holds as many connections as one source may.
    #[error("too many connections from one source")]
    SourceLimit,
    /// The handshake of TLS failed.
    #[error("no TLS: {0}")]
    Handshake(HandshakeFault),
    /// There was no place for the connection, which was told so.
    #[error("the server is at its limit of connections")]
    Busy,
    /// The peer has not authenticated where it must, or could not.
    #[error("authenticate first")]
    Denied,
    /// The peer has authenticated, and may not do that.
    #[error("this user may not do that")]
    Forbidden,
    /// The peer did not authenticate in its time.
    #[error("no authentication in time")]
    LoginTimedOut,
    /// A handler or an extension began a frame and did not end it.
    #[error("a frame of our own was left unfinished")]
    Unfinished,
    /// A [`Handler`](crate::Handler) failed for reasons of its own. What it sent is flushed.
    #[error("the handler failed: {0}")]
    Handler(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether the peer (or the path to it) is to blame. What a peer can cause is never logged
    /// above `debug`.
    pub fn is_peer_fault(&self) -> bool {
        match self {
            Self::Unfinished | Self::Handler(_) => false,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::NotConnected
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::UnexpectedEof
                    // What came is not TLS any more.
                    | io::ErrorKind::InvalidData
            ),
            _ => true,
        }
    }
}

//! What a client of datagrams tells its caller.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::pairing::{Judged, Request};
use crate::client::{PushError, Reply, Stamps};

/// What [`DatagramClient::next`](super::DatagramClient::next) brings. What it lends lives until the next call.
#[derive(Debug)]
#[non_exhaustive]
pub enum DatagramEvent<'a> {
    /// The socket is open. Whether somebody is there, only a reply tells.
    Opened {
        /// Who is asked, of UDP.
        peer: Option<SocketAddr>,
        /// The longest datagram that can be sent.
        max_datagram: u32,
    },
    /// A reply, every byte of it compared.
    Reply {
        /// The reply.
        reply: Reply<'a>,
        /// A later request was answered before.
        overtaken: bool,
    },
    /// No reply has come within [`Options::timeout`](crate::client::Options::timeout). It may still come late.
    Lost {
        /// The request's number.
        seq: u64,
        /// How many bytes the message has.
        len: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// The reply to a request that counts as lost.
    Late {
        /// The request's number.
        seq: u64,
        /// So long after it was sent.
        after: Duration,
    },
    /// A reply once more.
    Doubled {
        /// The request's number; of equal ones, the last.
        seq: u64,
    },
    /// A reply to a PROBE that is forgotten: a late one, or one more. Plain messages that are forgotten
    /// come as [`Unexpected`](Self::Unexpected) or [`Different`](Self::Different).
    Stale {
        /// The request's number.
        seq: u64,
    },
    /// A datagram that is no reply to what was asked. All that is due stays due.
    Different {
        /// The request that it was most likely meant for.
        seq: u64,
        /// The first byte of that message that is not as sent, counted from 0.
        at: u64,
        /// What is wrong there.
        what: &'a str,
        /// What came.
        bytes: &'a [u8],
    },
    /// A datagram while nothing was due, and like nothing before.
    Unexpected(&'a [u8]),
    /// This host could not send a message. The others go on.
    Unsent {
        /// The request's number.
        seq: u64,
        /// How many bytes the message has.
        len: usize,
        /// Why.
        why: PushError,
    },
}

/// What has happened, of which an event is made.
#[derive(Debug)]
pub(super) enum Told {
    Opened {
        peer: Option<SocketAddr>,
        max_datagram: u32,
    },
    Reply {
        request: Request,
        stamps: Option<Stamps>,
        overtaken: bool,
        received: Instant,
    },
    Lost(Request, Duration),
    Unsent(Request, PushError),
    /// And so many bytes of the buffer.
    Judged(Judged, usize),
}

impl Told {
    /// The event; what came is in `buffer`.
    pub(super) fn event<'a>(&'a self, buffer: &'a [u8]) -> DatagramEvent<'a> {
        match self {
            Self::Opened { peer, max_datagram } => {
                DatagramEvent::Opened { peer: *peer, max_datagram: *max_datagram }
            }
            Self::Reply { request, stamps, overtaken, received } => {
                let payload = &request.datagram[request.head..];
                let (sent, received) = (request.sent, *received);
                let (seq, stamps, resent) = (request.seq, *stamps, false);
                let reply = Reply { seq, payload, fresh: payload, sent, received, resent, stamps };
                DatagramEvent::Reply { reply, overtaken: *overtaken }
            }
            Self::Lost(request, waited) => {
                DatagramEvent::Lost { seq: request.seq, len: request.len(), waited: *waited }
            }
            Self::Unsent(request, why) => {
                DatagramEvent::Unsent { seq: request.seq, len: request.len(), why: *why }
            }
            Self::Judged(judged, len) => match judged {
                Judged::Late { seq, after } => DatagramEvent::Late { seq: *seq, after: *after },
                Judged::Doubled { seq } => DatagramEvent::Doubled { seq: *seq },
                Judged::Stale { seq } => DatagramEvent::Stale { seq: *seq },
                Judged::Different { seq, at, what } => {
                    DatagramEvent::Different { seq: *seq, at: *at, what, bytes: &buffer[..*len] }
                }
                Judged::Reply { .. } | Judged::Unexpected => {
                    DatagramEvent::Unexpected(&buffer[..*len])
                }
            },
        }
    }
}

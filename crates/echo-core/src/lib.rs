#![doc = include_str!("../README.md")]
//!
//! The caller owns the listener, the trigger, the limits and the handler. This crate installs no
//! signal handler, reads no environment, prints nothing and never exits.

#![forbid(unsafe_code)]

// In the order of a connection's life.
mod endpoint;
mod listener;
mod serve;
mod gate;
mod backoff;
mod pulse;
mod service;
mod stream;
#[cfg(feature = "tls")]
pub mod tls;
mod connection;
#[cfg(feature = "tls")]
mod secure;
mod reading;
mod writing;
mod buffer;
mod waiting;
mod deadline;
mod echo;
mod bulk;
mod messages;
mod conversation;
mod login;
mod frame;
mod finish;
mod datagram;
mod drain;
mod seldom;
mod limits;
mod stats;
mod error;
pub mod client;

pub use connection::Connection;
pub use datagram::{
    BadPortRange, DatagramEcho, DatagramOptions, DatagramSocket, PortRanges, serve_datagrams,
};
pub use drain::Drain;
pub use echo::{Echo, Extension};
pub use endpoint::{
    Address, DEFAULT_PORT, Endpoint, EndpointError, Mode, UnixName, without_passwords,
};
pub use error::Error;
pub use frame::{
    Attributes, AuthReply, AuthRequest, BadName, Commit, DataReply, Digest, Entry, ErrorCode,
    ErrorFrame, Features, FileName, Frame, FrameCodec, Get, GetReply, Goaway, HEADER_LEN, Header,
    Hello, HelloReply, Kind, List, ListReply, MAX_CONTROL_LEN, MAX_PAYLOAD_LEN, MalformedControl,
    PROBE_MIN_LEN, Put, PutReply, Read, Reason, Remove, VERSION,
};
#[doc(hidden)] // For the benches and tests of this workspace.
pub use frame::{Passage, Scan, Stop};
pub use limits::{Limits, MAX_DATAGRAM};
pub use listener::{AcceptFault, Connector, Listener, LocalAddr, SocketOptions};
pub use login::Access;
pub use seldom::Seldom;
pub use serve::{Handler, Report, ServeError, serve, serve_until};
pub use service::Service;
pub use stats::{
    Closed, Datagrams, Ended, Ending, HandshakeFault, ListenerSnapshot, Open, ServiceTime,
    Snapshot, TlsCounts,
};
pub use stream::Peer;

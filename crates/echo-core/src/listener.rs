//! Sockets that accept connections.
use crate::endpoint::UnixName;
use std::net::SocketAddr;
/// The address a listener is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LocalAddr {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixName),
    /// In this process.
    Memory,
}

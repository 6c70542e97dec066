//! The byte stream under a connection, and who is at its other end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// An accepted stream. An enum, so that a connection has one type and a layer can replace its
/// stream in place.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// In memory, for tests and simulations.
    Memory(DuplexStream),
}

impl Stream {
    /// Reads into `buf`; 0 is the end of the stream.
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        let polled = match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buf),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, &mut buf),
        };
        polled.map_ok(|()| buf.filled().len())
    }

    /// Writes from `buf`.
    #[inline]
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    /// Sends FIN.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Bytes that have arrived and have not been read (FIONREAD); `None` where nobody can tell.
    pub(crate) fn queued(&self) -> Option<u64> {
        match self {
            Self::Tcp(stream) => rustix::io::ioctl_fionread(stream).ok(),
            Self::Unix(stream) => rustix::io::ioctl_fionread(stream).ok(),
            Self::Memory(_) => None,
        }
    }

    /// Makes the coming close a reset: what is unsent is dropped, and the peer learns that its
    /// stream was cut. A Unix socket knows no reset, there it stays a plain close.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // Fails only on a socket that is gone already.
            let _ = stream.set_zero_linger();
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A peer of a Unix socket, on this host.
    Unix,
    /// A peer in this process.
    Memory,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Memory => f.write_str("memory"),
        }
    }
}

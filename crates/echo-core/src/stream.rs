//! The byte stream under a connection, and who is at its other end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
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
    /// When less comes than fits, nothing is left for now.
    #[inline(always)]
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_receive(stream, cx, buf),
            Self::Unix(stream) => poll_receive(stream, cx, buf),
            Self::Memory(stream) => {
                let mut buf = ReadBuf::new(buf);
                Pin::new(stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
            }
        }
    }

    /// Waits for something to read, without reading it: cheaper than a read that finds nothing. The
    /// stream in memory cannot tell, and is always ready.
    #[inline(always)]
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Memory(_) => Poll::Ready(Ok(())),
        }
    }

    /// Writes from `buf`.
    #[inline(always)]
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_send(stream, cx, buf),
            Self::Unix(stream) => poll_send(stream, cx, buf),
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

/// What Tokio's socket types have in common here.
trait Socket: AsFd {
    fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! socket {
    ($($socket:ty),*) => {$(
        impl Socket for $socket {
            #[inline]
            fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, f)
            }

            #[inline]
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            #[inline]
            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }
        }
    )*};
}

socket!(TcpStream, UnixStream);

/// recv(2) as Tokio's own `poll_read` does it, without a look at the readiness that a wake has just
/// told, nor glibc's cancellation points: a quarter of the instructions that a message cost.
///
#[inline(always)]
fn poll_receive(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    buf: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        let len = buf.len();
        let receive = || Ok(rustix::net::recv(socket, &mut *buf, RecvFlags::empty())?.0);
        match attempt(socket, Interest::READABLE, len, receive) {
            Attempt::Blocked => ready!(socket.poll_read_ready(cx))?,
            Attempt::Part(received) => return Poll::Ready(Ok(received)),
            // 0 is the end of the stream, which stays ready.
            Attempt::Done(received) => return Poll::Ready(received),
        }
    }
}

/// send(2) in the same way.
#[inline(always)]
fn poll_send(socket: &impl Socket, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        let send = || Ok(rustix::net::send(socket, buf, SendFlags::NOSIGNAL)?);
        match attempt(socket, Interest::WRITABLE, buf.len(), send) {
            Attempt::Blocked => ready!(socket.poll_write_ready(cx))?,
            Attempt::Part(sent) => return Poll::Ready(Ok(sent)),
            Attempt::Done(sent) => return Poll::Ready(sent),
        }
    }
}

/// What became of a call that may block.
enum Attempt {
    /// Nothing could be done.
    Blocked,
    /// Less than was asked for, so that the next call would block.
    Part(usize),
    /// All, or it failed.
    Done(io::Result<usize>),
}

/// Does what may block.
///
/// When only a part of `len` was done, epoll will tell when there is more (epoll(7), "edge-triggered",
/// question 9). Then the readiness that was seen *before* the call is cleared, by the only way there
/// is: a `WouldBlock` inside `try_io`. What has become ready since then stays.
#[inline(always)]
fn attempt(
    socket: &impl Socket,
    interest: Interest,
    len: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> Attempt {
    let mut part = 0;
    let done = socket.try_io(interest, || {
        let done = call()?;
        if 0 < done && done < len {
            part = done;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(done)
    });
    match done {
        Err(_) if part > 0 => Attempt::Part(part),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Attempt::Blocked,
        done => Attempt::Done(done),
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

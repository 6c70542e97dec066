//! The byte stream under a connection, and who is at its other end.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::bulk::Pipe;
#[cfg(feature = "tls")]
use crate::tls::Session;

/// An accepted stream. An enum, so that a connection has one type and a layer can replace its
/// stream in place.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// In memory, for tests and simulations.
    Memory(DuplexStream),
    /// Any of them under TLS.
    #[cfg(feature = "tls")]
    Tls(Box<Session>),
    /// None, for the moment in which a layer comes over it.
    #[cfg(feature = "tls")]
    Nothing,
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
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.poll_read(cx, buf),
            #[cfg(feature = "tls")]
            Self::Nothing => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
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
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.poll_readable(cx),
            #[cfg(feature = "tls")]
            Self::Nothing => Poll::Ready(Ok(())),
        }
    }

    /// Writes from `buf`. Once it was pending, it must be called with the same bytes in front.
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
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.poll_write(cx, buf),
            #[cfg(feature = "tls")]
            Self::Nothing => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Whether splice(2) may know it.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// Moves up to `len` bytes from the socket into the empty `pipe`, and leaves its readiness as it is.
    pub(crate) fn splice_in(&self, pipe: &Pipe, len: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK;
        Ok(match self {
            Self::Tcp(stream) => splice(stream, None, &pipe.write, None, len, flags)?,
            Self::Unix(stream) => splice(stream, None, &pipe.write, None, len, flags)?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        })
    }

    /// Moves `len` bytes or less from the pipe, where they are, into the socket.
    pub(crate) fn poll_splice_out(
        &self,
        cx: &mut Context<'_>,
        pipe: &Pipe,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_splice_out(stream, cx, pipe, len),
            Self::Unix(stream) => poll_splice_out(stream, cx, pipe, len),
            _ => Poll::Ready(Err(io::ErrorKind::InvalidInput.into())),
        }
    }

    /// Of a write that is pending, how much may be out, and answered: taken for written from here on.
    pub(crate) fn claim(&mut self) -> usize {
        #[cfg(feature = "tls")]
        if let Self::Tls(session) = self {
            return session.claim();
        }
        0
    }

    /// Sends what was [claimed](Self::claim).
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        #[cfg(feature = "tls")]
        if let Self::Tls(session) = self {
            return session.poll_flush(cx);
        }
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Sends FIN, under TLS behind a close_notify.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Self::Nothing => Poll::Ready(Ok(())),
        }
    }

    /// Reads what is not looked at any more, after our own end of the stream.
    pub(crate) fn poll_discard(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        #[cfg(feature = "tls")]
        if let Self::Tls(session) = self {
            return session.inner_mut().poll_read(cx, buf);
        }
        self.poll_read(cx, buf)
    }

    /// The certificate that the peer has shown, in DER.
    #[cfg(feature = "tls")]
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        if let Self::Tls(session) = self { session.peer_certificate() } else { None }
    }

    /// What both ends of a connection under TLS know and nobody else (RFC 9266).
    #[cfg(feature = "tls")]
    pub(crate) fn channel_binding(&self) -> Option<[u8; 32]> {
        if let Self::Tls(session) = self { session.channel_binding() } else { None }
    }

    /// Whether nothing lies between the socket and the connection: then the end that is read is a FIN.
    pub(crate) fn is_plain(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Self::Tls(_) = self {
            return false;
        }
        true
    }

    /// Whether the peer's end was no close_notify, under TLS: what came may have been cut.
    pub(crate) fn is_truncated(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Self::Tls(session) = self {
            return session.is_truncated();
        }
        false
    }

    /// Whether nothing has arrived that a read which is pending would not have seen. The stream in memory
    /// cannot tell: what is not ready has not arrived.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Memory(_) => true,
            // Part of a record may be left, which nobody can read.
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.inner().queued().is_none_or(|queued| queued == 0),
            #[cfg(feature = "tls")]
            Self::Nothing => true,
        }
    }

    /// Bytes that have arrived and have not been read (FIONREAD); `None` where nobody can tell. Under TLS,
    /// no fewer than there is plaintext in them.
    pub(crate) fn queued(&self) -> Option<u64> {
        match self {
            Self::Tcp(stream) => rustix::io::ioctl_fionread(stream).ok(),
            Self::Unix(stream) => rustix::io::ioctl_fionread(stream).ok(),
            Self::Memory(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(session) => Some(session.inner().queued()? + session.may_hold() as u64),
            #[cfg(feature = "tls")]
            Self::Nothing => None,
        }
    }

    /// Bytes that have arrived for [`poll_discard`](Self::poll_discard), which reads past a TLS session: what that
    /// holds tells of no peer that is sending.
    pub(crate) fn to_discard(&self) -> Option<u64> {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.inner().queued(),
            _ => self.queued(),
        }
    }

    /// Whether the peer has sent its FIN, or the connection is broken: known before what came ahead of it is
    /// read. The stream in memory cannot tell.
    pub(crate) fn has_hung_up(&self) -> bool {
        match self {
            Self::Tcp(stream) => has_hung_up(stream),
            Self::Unix(stream) => has_hung_up(stream),
            Self::Memory(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.inner().has_hung_up(),
            #[cfg(feature = "tls")]
            Self::Nothing => true,
        }
    }

    /// Makes the coming close a reset: what is unsent is dropped, and the peer learns that its
    /// stream was cut. A Unix socket knows no reset, there it stays a plain close.
    pub(crate) fn reset_on_close(&self) {
        match self {
            // Fails only on a socket that is gone already.
            Self::Tcp(stream) => drop(stream.set_zero_linger()),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.inner().reset_on_close(),
            _ => {}
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Self::poll_read(&mut self, cx, buf.initialize_unfilled()))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Self::poll_write(&mut self, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(&mut self, cx)
    }
}

/// What Tokio's socket types have in common here.
fn has_hung_up(socket: &impl AsFd) -> bool {
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut polled = [PollFd::new(socket, ends)];
    // What cannot be asked is found out by the next read.
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().intersects(ends)
}

trait Socket: AsFd {
    fn try_io<R>(&self, interest: Interest, f: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
    fn poll_ready(&self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>>;
}

macro_rules! socket {
    ($($socket:ty),*) => {$(
        impl Socket for $socket {
            #[inline]
            fn try_io<R>(
                &self,
                interest: Interest,
                f: impl FnOnce() -> io::Result<R>,
            ) -> io::Result<R> {
                self.try_io(interest, f)
            }

            #[inline]
            fn poll_ready(&self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
                if interest.is_readable() { self.poll_read_ready(cx) } else { self.poll_write_ready(cx) }
            }
        }
    )*};
}

socket!(TcpStream, UnixStream);

#[inline(always)]
fn poll_receive(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    buf: &mut [u8],
) -> Poll<io::Result<usize>> {
    let len = buf.len();
    poll_call(socket, cx, Interest::READABLE, len, || {
        Ok(rustix::net::recv(socket, &mut *buf, RecvFlags::empty())?.0)
    })
}

#[inline(always)]
fn poll_send(socket: &impl Socket, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
    poll_call(socket, cx, Interest::WRITABLE, buf.len(), || {
        Ok(rustix::net::send(socket, buf, SendFlags::NOSIGNAL)?)
    })
}

fn poll_splice_out(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    pipe: &Pipe,
    len: usize,
) -> Poll<io::Result<usize>> {
    poll_call(socket, cx, Interest::WRITABLE, 0, || {
        Ok(splice(&pipe.read, None, socket, None, len, SpliceFlags::NONBLOCK)?)
    })
}

/// Makes a call until it does not block, as Tokio's own `poll_read` and `poll_write` do, without a look
/// at the readiness that a wake has just told.
///
/// When less than `whole` was done, the next call would block, and epoll will tell when it no longer
/// does (epoll(7), "edge-triggered", question 9). Then the readiness that was seen *before* the call is
/// cleared, by the only way there is: a `WouldBlock` inside `try_io`. What has become ready since then
/// stays, as does the end of the stream. (As with Tokio, a peer that sends urgent data, or descriptors
/// over a Unix socket, makes its own bytes wait for the next that come: recv(2) stops before them.)
#[inline(always)]
fn poll_call(
    socket: &impl Socket,
    cx: &mut Context<'_>,
    interest: Interest,
    whole: usize,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        let mut part = 0;
        let done = socket.try_io(interest, || match call()? {
            done if 0 < done && done < whole => {
                part = done;
                Err(io::ErrorKind::WouldBlock.into())
            }
            done => Ok(done),
        });
        match done {
            Err(_) if part > 0 => return Poll::Ready(Ok(part)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(socket.poll_ready(cx, interest))?;
            }
            done => return Poll::Ready(done),
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

impl Peer {
    /// What counts as one source: an IPv4 address (mapped ones included), or an IPv6 /64, since whoever
    /// has one IPv6 address usually has 2^64. Peers of this host's have none.
    pub fn source(self) -> Option<IpAddr> {
        let Self::Tcp(addr) = self else { return None };
        Some(match addr.ip().to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                IpAddr::V6((u128::from(ip) & (u128::MAX << 64)).into())
            }
            ip => ip,
        })
    }
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

//! The way to a server of datagrams: one connected socket, so that what any other address sends is
//! not taken for an answer.

use std::fmt;
use std::io::{self, ErrorKind::WouldBlock};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram as StdUnixDatagram};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{Domain, Type};
use tokio::io::{Interest, ReadBuf};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::Instant;

use crate::client::dial::{addresses, bind_source};
use crate::client::{Error, Options, PushError};
use crate::endpoint::{Address, Endpoint, UnixName};
use crate::limits::MAX_DATAGRAM;

/// What fits into an IPv4 packet of 65,535 bytes behind its headers, and into an IPv6 packet, whose
/// own header does not count.
const MAX_UDP_V4: u32 = 65_507;
const MAX_UDP_V6: u32 = 65_527;

/// A socket that is connected: its peer may not be there all the same.
pub(super) struct Opened {
    pub(super) socket: Socket,
    /// Who is asked, of UDP.
    pub(super) peer: Option<SocketAddr>,
    /// The longest datagram.
    pub(super) max_datagram: u32,
}

pub(super) enum Socket {
    Udp(Arc<UdpSocket>, Alarm),
    Unix(UnixDatagram),
}

/// How a client has its socket.
pub(super) enum State {
    Opening(Pin<Box<dyn Future<Output = Result<Opened, Error>> + Send>>),
    Open(Socket),
    Over,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opening(_) => "Opening",
            Self::Open(_) => "Open",
            Self::Over => "Over",
        })
    }
}

/// Ready when the kernel has an error to tell: what ICMP said. A read is not woken by it.
type Alarm = Pin<Box<dyn Future<Output = ()> + Send>>;

fn alarm(socket: &Arc<UdpSocket>) -> Alarm {
    let socket = Arc::clone(socket);
    Box::pin(async move {
        // An error of the reactor's own is one that a read tells as well.
        let _ = socket.ready(Interest::ERROR).await;
        // The readiness is used up.
        let _ = socket.try_io(Interest::ERROR, || io::Result::<()>::Err(WouldBlock.into()));
    })
}

/// Opens a socket to the first address of the name, in the resolver's order, that this host has a way
/// to. There is no race: whether somebody answers there, only an answer can tell.
pub(super) async fn open(endpoint: Endpoint, options: Options) -> Result<Opened, Error> {
    match &endpoint.address {
        Address::Udp { .. } => {
            let deadline = Instant::now() + options.connect_timeout;
            let mut failed = None;
            for addr in addresses(&endpoint, &options, deadline).await? {
                let max_datagram = if addr.is_ipv4() { MAX_UDP_V4 } else { MAX_UDP_V6 };
                match udp(addr, options.source).map(Arc::new) {
                    Ok(socket) => {
                        let alarm = alarm(&socket);
                        let socket = Socket::Udp(socket, alarm);
                        return Ok(Opened { socket, peer: Some(addr), max_datagram });
                    }
                    Err(error) => _ = failed.get_or_insert((addr, error)),
                }
            }
            // There is an address, and so a failure.
            Err(failed.map_or(Error::Over, |(addr, error)| Error::connecting(addr, error)))
        }
        Address::Unixgram(name) => match unix(name) {
            Ok(socket) => {
                let socket = Socket::Unix(socket);
                Ok(Opened { socket, peer: None, max_datagram: MAX_DATAGRAM })
            }
            Err(error) => Err(Error::connecting(&endpoint, error)),
        },
        Address::Tcp { .. } | Address::Unix(_) | Address::Systemd(_) => {
            let what = "this client speaks datagrams only";
            Err(Error::Unsupported { place: endpoint.to_target(), what })
        }
    }
}

fn udp(addr: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), None)?;
    if let Some(source) = source {
        bind_source(source, |local| socket.bind(&local.into()))?;
    }
    socket.connect(&addr.into())?;
    // A port of this host's ephemeral range where nobody listens may be given to our own end, which
    // would be the perfect echo server.
    if socket.local_addr()?.as_socket() == Some(addr) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    UdpSocket::from_std(socket.into())
}

fn unix(name: &UnixName) -> io::Result<UnixDatagram> {
    let addr = match name {
        UnixName::Path(path) => UnixAddr::from_pathname(path),
        UnixName::Abstract(name) => UnixAddr::from_abstract_name(name),
    }?;
    // Nobody can answer to a socket without a name. The kernel chooses one in the abstract namespace,
    // which leaves nothing behind (unix(7), "Autobind feature").
    let socket = StdUnixDatagram::bind("")?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&addr)?;
    UnixDatagram::from_std(socket)
}

impl Socket {
    pub(super) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        datagram: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Udp(socket, _) => socket.poll_send(cx, datagram),
            Self::Unix(socket) => socket.poll_send(cx, datagram),
        }
    }

    /// Receives one datagram, cut to the buffer, or an error that is about an earlier one.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut buffer = ReadBuf::new(into);
            let received = match self {
                Self::Udp(socket, _) => socket.poll_recv(cx, &mut buffer),
                Self::Unix(socket) => socket.poll_recv(cx, &mut buffer),
            };
            if received.is_ready() {
                return received.map_ok(|()| buffer.filled().len());
            }
            let Self::Udp(socket, alarmed) = self else { return Poll::Pending };
            ready!(alarmed.as_mut().poll(cx));
            *alarmed = alarm(socket);
            match self.receive_queued(into) {
                Err(error) if error.kind() == WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    /// Receives one that has come, whether the reactor has heard of it or not.
    pub(super) fn receive_queued(&self, into: &mut [u8]) -> io::Result<usize> {
        let fd = match self {
            Self::Udp(socket, _) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        };
        let (len, _) = rustix::net::recv(fd, into, RecvFlags::DONTWAIT)?;
        Ok(len)
    }
}

pub(super) fn is_too_long(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::MSGSIZE)
}

/// Why a datagram of `len` bytes could not be sent, if that is about this one alone.
pub(super) fn why_unsent(error: &io::Error, len: usize) -> Option<PushError> {
    match Errno::from_io_error(error) {
        Some(Errno::MSGSIZE) => Some(PushError::OverHostLimit { len }),
        Some(Errno::NOBUFS | Errno::NOMEM) => Some(PushError::NoMemory),
        _ => None,
    }
}

//! Datagram sockets: bound here, or inherited.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, SockRef, Type};

use super::own::Own;
use crate::endpoint::{Address, Endpoint, UnixName};
use crate::listener::unix::{self, SocketPath};
use crate::listener::{LocalAddr, internet, local_addr};

/// Options of a datagram socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramOptions {
    /// Bytes that may wait to be received, and to be sent (4 MiB each). The kernel counts its own
    /// overhead against twice that, and cuts it to `net.core.rmem_max` and `wmem_max`.
    pub buffer: usize,
    /// Sockets at one UDP address (1), among which the kernel spreads the peers (SO_REUSEPORT): each
    /// is served by a task of its own, so several of them keep several workers busy.
    pub sockets: NonZeroUsize,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        Self { buffer: 4 << 20, sockets: NonZeroUsize::MIN }
    }
}

/// A bound socket that receives datagrams: UDP, or Unix.
///
/// Dropped, it closes the socket. A Unix path is unlinked before that, if it was made here and the file
/// there is still the one that was made.
#[derive(Debug)]
pub struct DatagramSocket {
    /// First, so that it is dropped first.
    path: Option<SocketPath>,
    pub(super) socket: echo_sys::Socket,
    local_addr: LocalAddr,
}

impl DatagramSocket {
    /// Binds every address of `endpoint`, with the same port on each; port 0 becomes a free one. At
    /// each UDP address there are as many sockets as the options say.
    ///
    /// Of several addresses those that this host does not have are left out.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub async fn bind(endpoint: &Endpoint, options: &DatagramOptions) -> io::Result<Vec<Self>> {
        match &endpoint.address {
            Address::Unixgram(name) => Ok(vec![Self::bind_unix(name, endpoint.perm, options)?]),
            Address::Udp { .. } => {
                let port = |bound: &Vec<Self>| bound.first()?.local_addr.port();
                let bind = |addr| Self::bind_udp(addr, options);
                Ok(internet::bind_all(endpoint, bind, port).await?.into_iter().flatten().collect())
            }
            Address::Tcp { .. } | Address::Unix(_) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{endpoint} is for connections, which are no datagrams"),
            )),
            Address::Systemd(_) => Err(internet::not_bound(endpoint)),
        }
    }

    /// Binds a UDP address, by as many sockets as the options say. `[::]` takes IPv4 datagrams too,
    /// other IPv6 addresses do not.
    ///
    /// # Errors
    ///
    /// It is a multicast or a broadcast address (`InvalidInput`), or what bind(2) says.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn bind_udp(addr: SocketAddr, options: &DatagramOptions) -> io::Result<Vec<Self>> {
        let bind = |addr: SocketAddr, shared: bool| {
            let socket = udp_socket(addr, options, shared)?;
            let bound = local_addr(&socket)?;
            Ok(Self { path: None, socket: new_socket(socket)?, local_addr: bound })
        };
        internet::refuse_many(addr)?;
        let failed = |error| internet::error(addr, &error);
        // The first takes the port for itself, so that a second server finds it in use.
        let mut bound = vec![bind(addr, false).map_err(failed)?];
        if options.sockets > NonZeroUsize::MIN
            && let LocalAddr::Udp(same) = bound[0].local_addr
        {
            SockRef::from(&bound[0].socket).set_reuse_port(true).map_err(failed)?;
            for _ in 1..options.sockets.get() {
                bound.push(bind(same, true).map_err(failed)?);
            }
        }
        Ok(bound)
    }

    /// Binds a Unix path, with the permissions `perm` (else as the umask says), or an abstract name.
    ///
    /// A socket file that nobody answers on is replaced; anything else at the path is an error. May
    /// block for a second while another process binds in the same directory.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn bind_unix(
        name: &UnixName,
        perm: Option<u32>,
        options: &DatagramOptions,
    ) -> io::Result<Self> {
        let (path, socket) = unix::bind(name, perm, None).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {name}: {error}"))
        })?;
        set_buffers(&socket, options)?;
        echo_sys::Socket::tell_users(socket.as_fd())?;
        Ok(Self { path, socket: new_socket(socket)?, local_addr: LocalAddr::Unix(name.clone()) })
    }

    /// Takes over a bound UDP or Unix datagram socket that somebody else made and may still hold. Its
    /// path is never unlinked; its buffers are its maker's.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn inherited(fd: OwnedFd) -> io::Result<Self> {
        let refused = |why: &str| {
            let text = format!("cannot use the inherited descriptor: {why}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        };
        let socket = socket2::Socket::from(fd);
        let (domain, kind) = match (socket.domain(), socket.r#type()) {
            (Ok(domain), Ok(kind)) => (domain, kind),
            (Err(error), _) | (_, Err(error)) => return refused(&error.to_string()),
        };
        if kind != Type::DGRAM {
            return refused("it is not a datagram socket");
        }
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        let local_addr = local_addr(&socket)?;
        if let LocalAddr::Udp(addr) = local_addr {
            internet::refuse_many(addr)?;
        }
        match domain {
            Domain::IPV4 | Domain::IPV6 if local_addr.port() != Some(0) => {
                echo_sys::Socket::tell_arrivals(socket.as_fd(), domain == Domain::IPV6)?;
            }
            Domain::IPV4 | Domain::IPV6 => return refused("it is not bound"),
            Domain::UNIX => echo_sys::Socket::tell_users(socket.as_fd())?,
            _ => return refused("it is neither UDP nor Unix"),
        }
        Ok(Self { path: None, socket: new_socket(socket)?, local_addr })
    }

    /// Makes an inherited socket this service's alone: its path is unlinked in the end.
    #[must_use]
    pub fn owned(mut self) -> Self {
        if let LocalAddr::Unix(UnixName::Path(name)) = &self.local_addr {
            // A path that is gone needs no unlinking.
            self.path = unix::identify(name, None).ok();
        }
        self
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> &LocalAddr {
        &self.local_addr
    }

    /// Its socket, to be handed to somebody else as well.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What tells it from the sockets of others.
    pub(super) fn known_by(&self) -> Option<Own> {
        match (&self.local_addr, &self.path) {
            (LocalAddr::Udp(addr), _) => Some(Own::Port(addr.port())),
            (LocalAddr::Unix(UnixName::Abstract(name)), _) => {
                Some(Own::Abstract([b"\0", name.as_slice()].concat()))
            }
            (_, Some(path)) => {
                let (device, inode) = path.file();
                Some(Own::File { device, inode })
            }
            // An inherited one: the path may mean nothing here, to no peer either.
            (LocalAddr::Unix(UnixName::Path(path)), None) => {
                let found = rustix::fs::stat(path).ok()?;
                Some(Own::File { device: found.st_dev, inode: found.st_ino })
            }
            _ => None,
        }
    }

    /// Unlinks the path of a Unix socket, if it is ours, so that nobody new finds the socket while its
    /// queue is emptied.
    pub(super) fn unlink(&mut self) {
        self.path = None;
    }
}

fn udp_socket(
    addr: SocketAddr,
    options: &DatagramOptions,
    shared: bool,
) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), None)?;
    internet::set_families(&socket, addr)?;
    set_buffers(&socket, options)?;
    echo_sys::Socket::tell_arrivals(socket.as_fd(), addr.is_ipv6())?;
    socket.set_reuse_port(shared)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn set_buffers(socket: &socket2::Socket, options: &DatagramOptions) -> io::Result<()> {
    socket.set_recv_buffer_size(options.buffer)?;
    socket.set_send_buffer_size(options.buffer)
}

fn new_socket(socket: socket2::Socket) -> io::Result<echo_sys::Socket> {
    echo_sys::Socket::new(socket.into())
}

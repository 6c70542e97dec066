//! Sockets that accept connections: bound here, inherited, or in memory.

mod fault;
pub(crate) mod internet;
mod memory;
#[cfg(test)]
mod tests;
pub(crate) mod unix;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, SockRef, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::endpoint::{Address, Endpoint, UnixName};
use crate::stream::{Peer, Stream};

pub use fault::AcceptFault;
pub use memory::Connector;

/// Options of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// How many connections may wait to be accepted (4,096). The kernel cuts it to
    /// `net.core.somaxconn`.
    pub backlog: u32,
    /// Whether replies go out at once instead of waiting for more (true).
    pub nodelay: bool,
    /// After how much silence the kernel asks whether the peer is still there (60 s); `None` never
    /// asks. A peer that has gone is found after twice that time.
    pub keepalive: Option<Duration>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { backlog: 4096, nodelay: true, keepalive: Some(Duration::from_secs(60)) }
    }
}

/// A socket that accepts connections, or a queue in memory that plays one.
///
/// Dropped, it closes the socket, which resets what still waits in its queue. A Unix path is
/// unlinked before that, if this listener made it and the file there is still the one it made: as
/// long as the socket is open, no other program takes the path for a stale one and no file system
/// gives its inode to another file.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    local_addr: LocalAddr,
    backlog: u32,
    inherited: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::Port>,
    open: tokio::sync::watch::Sender<()>, // Dropped after the socket.
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// The path comes first, so that it is dropped first.
    Unix(Option<unix::SocketPath>, UnixListener),
    Memory(memory::Queue),
}

impl Listener {
    /// Binds every address of `endpoint`, with the same port on each; port 0 becomes a free one.
    ///
    /// Of several addresses those that this host does not have are left out, as `::1` of
    /// `localhost` where IPv6 is off.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub async fn bind(endpoint: &Endpoint, options: &SocketOptions) -> io::Result<Vec<Self>> {
        match &endpoint.address {
            Address::Unix(name) => Ok(vec![Self::bind_unix(name, endpoint.perm, options)?]),
            Address::Tcp { .. } => {
                let port = |bound: &Self| bound.local_addr.port();
                internet::bind_all(endpoint, |addr| Self::bind_tcp(addr, options), port).await
            }
            Address::Udp { .. } | Address::Unixgram(_) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{endpoint} is for datagrams, which have no connections to accept"),
            )),
            Address::Systemd(_) => Err(internet::not_bound(endpoint)),
        }
    }

    /// Binds a TCP address. `[::]` takes IPv4 connections too, other IPv6 addresses do not.
    ///
    /// # Errors
    ///
    /// It is a multicast or a broadcast address (`InvalidInput`), or what bind(2) says.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn bind_tcp(addr: SocketAddr, options: &SocketOptions) -> io::Result<Self> {
        internet::refuse_many(addr)?;
        let socket = tcp_socket(addr, options).map_err(|error| internet::error(addr, &error))?;
        let local_addr = local_addr(&socket)?;
        let socket = Socket::Tcp(TcpListener::from_std(socket.into())?);
        Ok(Self::new(socket, local_addr, options.backlog))
    }

    /// Binds a Unix path, with the permissions `perm` (else as the umask says), or an abstract
    /// name. What keeps `options` for TCP is left aside.
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
        options: &SocketOptions,
    ) -> io::Result<Self> {
        let (path, socket) = unix::bind(name, perm, Some(backlog(options))).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {name}: {error}"))
        })?;
        let socket = Socket::Unix(path, UnixListener::from_std(socket.into())?);
        let local_addr = LocalAddr::Unix(name.clone());
        Ok(Self::new(socket, local_addr, options.backlog))
    }

    /// Takes over a listening TCP or Unix stream socket that somebody else made and may still hold.
    /// Its path is never unlinked; its backlog is its maker's.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn inherited(fd: OwnedFd, options: &SocketOptions) -> io::Result<Self> {
        let refused = |why: &str| {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot use the inherited descriptor: {why}"),
            ))
        };
        let socket = socket2::Socket::from(fd);
        let (domain, kind) = match (socket.domain(), socket.r#type()) {
            (Ok(domain), Ok(kind)) => (domain, kind),
            (Err(error), _) | (_, Err(error)) => return refused(&error.to_string()),
        };
        if kind != Type::STREAM {
            return refused("it is not a stream socket");
        }
        if !socket.is_listener()? {
            return refused("it does not listen");
        }
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        let local_addr = local_addr(&socket)?;
        let socket = match domain {
            Domain::IPV4 | Domain::IPV6 => {
                set_tcp_options(&socket, options)?;
                Socket::Tcp(TcpListener::from_std(socket.into())?)
            }
            Domain::UNIX => Socket::Unix(None, UnixListener::from_std(socket.into())?),
            _ => return refused("it is neither TCP nor Unix"),
        };
        Ok(Self { inherited: true, ..Self::new(socket, local_addr, options.backlog) })
    }

    /// Makes an inherited socket this listener's alone: nobody accepts on it afterwards. So a drain
    /// takes in what its queue holds, and its path is unlinked in the end.
    #[must_use]
    pub fn owned(mut self) -> Self {
        self.inherited = false;
        if let (Socket::Unix(path, _), LocalAddr::Unix(UnixName::Path(name))) =
            (&mut self.socket, &self.local_addr)
        {
            // A path that is gone needs no unlinking.
            *path = unix::identify(name, None).ok();
        }
        self
    }

    /// A listener in memory, for tests and simulations, and what connects to it.
    pub fn memory() -> (Self, Connector) {
        let backlog = SocketOptions::default().backlog;
        let (queue, connector) = memory::queue(backlog as usize);
        let socket = Socket::Memory(queue);
        (Self::new(socket, LocalAddr::Memory, backlog), connector)
    }

    fn new(socket: Socket, local_addr: LocalAddr, backlog: u32) -> Self {
        Self {
            socket,
            local_addr,
            backlog,
            inherited: false,
            #[cfg(feature = "tls")]
            tls: None,
            open: Default::default(),
        }
    }

    /// Waits, whoever serves it by then, until it is dropped. Unless others hold its socket, the address is free.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut open = self.open.subscribe();
        async move { while open.changed().await.is_ok() {} }
    }

    /// Has its connections begin with a handshake of TLS, as `port` says.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn secured(self, port: crate::tls::Port) -> Self {
        Self { tls: Some(port), ..self }
    }

    /// Tells, now and later, whether all its connections begin with TLS, whatever comes.
    pub(crate) fn begins_with_tls(&self) -> Arc<AtomicBool> {
        #[cfg(feature = "tls")]
        let always = self.tls.as_ref().map(crate::tls::Port::tls_alone).unwrap_or_default();
        #[cfg(not(feature = "tls"))]
        let always = Arc::default();
        always
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> &LocalAddr {
        &self.local_addr
    }

    /// Its socket, to be handed to somebody else as well; in memory there is none.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.socket {
            Socket::Tcp(listener) => Some(listener.as_fd()),
            Socket::Unix(_, listener) => Some(listener.as_fd()),
            Socket::Memory(_) => None,
        }
    }

    /// Waits for a connection, for servers of another kind than [`serve`](crate::serve): what to do
    /// about an error, [`AcceptFault`] knows. No limit counts it, and it is plain: only
    /// [`serve`](crate::serve) knows of TLS. In memory, when nobody is left to connect, it waits for ever.
    ///
    /// # Cancel safety
    /// Cancel safe: a connection that was not returned is still in the queue.
    pub async fn accept(
        &mut self,
    ) -> io::Result<(impl AsyncRead + AsyncWrite + Send + Unpin + use<>, Peer)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Waits for a connection. In memory, when nobody is left to connect, it waits for ever.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        Poll::Ready(Ok(match &mut self.socket {
            Socket::Tcp(listener) => {
                let (stream, addr) = ready!(listener.poll_accept(cx))?;
                (Stream::Tcp(stream), tcp_peer(addr))
            }
            Socket::Unix(_, listener) => {
                let (stream, _) = ready!(listener.poll_accept(cx))?;
                (Stream::Unix(stream), Peer::Unix)
            }
            Socket::Memory(queue) => (Stream::Memory(ready!(queue.poll_accept(cx))?), Peer::Memory),
        }))
    }

    /// Takes a connection that has arrived, `None` if there is none. It asks the kernel, not the
    /// reactor, which may not have heard of it yet: in a process that was stopped, for example.
    pub(crate) fn accept_queued(&mut self) -> io::Result<Option<(Stream, Peer)>> {
        let accepted = match &mut self.socket {
            Socket::Tcp(listener) => SockRef::from(&*listener).accept(),
            Socket::Unix(_, listener) => SockRef::from(&*listener).accept(),
            Socket::Memory(queue) => {
                let stream = queue.accept_queued()?;
                return Ok(stream.map(|stream| (Stream::Memory(stream), Peer::Memory)));
            }
        };
        let (socket, addr) = match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            accepted => accepted?,
        };
        socket.set_nonblocking(true)?;
        Ok(Some(match addr.as_socket() {
            Some(addr) => (Stream::Tcp(TcpStream::from_std(socket.into())?), tcp_peer(addr)),
            None => (Stream::Unix(UnixStream::from_std(socket.into())?), Peer::Unix),
        }))
    }

    /// Unlinks the path of a Unix socket, if it is ours, so that nobody new finds the socket while
    /// its queue is emptied.
    pub(crate) fn unlink(&mut self) {
        if let Socket::Unix(path, _) = &mut self.socket {
            *path = None;
        }
    }

    /// Whether somebody else made the socket, and may accept on it after us.
    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// How many connections may wait to be accepted.
    pub(crate) fn backlog(&self) -> u32 {
        self.backlog
    }
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LocalAddr {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixName),
    /// UDP.
    Udp(SocketAddr),
    /// In this process.
    Memory,
}

impl LocalAddr {
    /// The port of an IP address.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(addr) | Self::Udp(addr) => Some(addr.port()),
            Self::Unix(_) | Self::Memory => None,
        }
    }
}

/// `127.0.0.1:7777`, the path, `@` and the abstract name, or `memory`.
impl fmt::Display for LocalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) | Self::Udp(addr) => addr.fmt(f),
            Self::Unix(name) => name.fmt(f),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// Linux hands nodelay and keepalive of the listening socket to each accepted one: no system call
/// per connection.
fn tcp_socket(addr: SocketAddr, options: &SocketOptions) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), None)?;
    // A restart need not wait for the TIME_WAIT of its predecessor's connections.
    socket.set_reuse_address(true)?;
    internet::set_families(&socket, addr)?;
    set_tcp_options(&socket, options)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog(options))?;
    Ok(socket)
}

/// Sets on a listening socket what accepted ones inherit.
fn set_tcp_options(socket: &socket2::Socket, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(silence) = options.keepalive {
        // The kernel counts in seconds and refuses 0.
        let at_least_one = |duration: Duration| duration.max(Duration::from_secs(1));
        let keepalive = TcpKeepalive::new()
            .with_time(at_least_one(silence))
            .with_interval(at_least_one(silence / 4))
            .with_retries(4);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(())
}

fn backlog(options: &SocketOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

pub(crate) fn local_addr(socket: &socket2::Socket) -> io::Result<LocalAddr> {
    let addr = socket.local_addr()?;
    if let Some(addr) = addr.as_socket() {
        let datagrams = socket.r#type()? == Type::DGRAM;
        return Ok(if datagrams { LocalAddr::Udp(addr) } else { LocalAddr::Tcp(addr) });
    }
    Ok(LocalAddr::Unix(match addr.as_abstract_namespace() {
        Some(name) => UnixName::Abstract(name.to_owned()),
        None => UnixName::Path(addr.as_pathname().map(Path::to_owned).unwrap_or_default()),
    }))
}

/// An IPv4 peer is one, through a dual-stack socket too: limits and logs see one form of it.
fn tcp_peer(addr: SocketAddr) -> Peer {
    Peer::Tcp(match addr.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, addr.port()),
        _ => addr,
    })
}

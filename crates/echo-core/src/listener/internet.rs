//! What binding to IP addresses is about, whatever is spoken there.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::endpoint::Endpoint;

/// How many ports are tried when port 0 has to become the same free port on several addresses.
const PORT_TRIES: u32 = 16;

/// Binds every address of `endpoint` by `bind`, each to the `port` that the first one got.
pub(crate) async fn bind_all<T>(
    endpoint: &Endpoint,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
    port: impl Fn(&T) -> Option<u16>,
) -> io::Result<Vec<T>> {
    let addrs = endpoint.resolve().await?;
    // The port that the first address got may be taken on another.
    let mut tries = if addrs.first().is_some_and(|addr| addr.port() == 0) { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_each(&addrs, &bind, &port) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            result => return result,
        }
    }
}

pub(super) fn bind_each<T>(
    addrs: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> io::Result<T>,
    port: impl Fn(&T) -> Option<u16>,
) -> io::Result<Vec<T>> {
    let mut bound = Vec::with_capacity(addrs.len());
    let mut absent = None;
    for &(mut addr) in addrs {
        if let Some(port) = bound.first().and_then(&port) {
            addr.set_port(port);
        }
        match bind(addr) {
            Ok(one) => bound.push(one),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => absent = Some(error),
            Err(error) => return Err(error),
        }
    }
    match absent {
        Some(error) if bound.is_empty() => Err(error),
        Some(error) => {
            tracing::debug!(%error, "an address of the name was left out");
            Ok(bound)
        }
        None => Ok(bound),
    }
}

/// Why what is handed over cannot be bound.
pub(crate) fn not_bound(endpoint: &Endpoint) -> io::Error {
    let text = format!("{endpoint} is handed over by the service manager, not bound");
    io::Error::new(ErrorKind::InvalidInput, text)
}

/// Lets `[::]` take IPv4 as well, and no other IPv6 address.
pub(crate) fn set_families(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    match addr {
        SocketAddr::V6(addr) => socket.set_only_v6(*addr.ip() != Ipv6Addr::UNSPECIFIED),
        SocketAddr::V4(_) => Ok(()),
    }
}

/// Refuses an address that is no single host's. Linux binds it, and what is sent there is never answered.
pub(crate) fn refuse_many(addr: SocketAddr) -> io::Result<()> {
    let kind = match addr.ip().to_canonical() {
        ip if ip.is_multicast() => "multicast",
        ip if is_broadcast(ip) => "broadcast",
        _ => return Ok(()),
    };
    let text = format!(
        "cannot listen on {addr}: a {kind} address is no single host's: choose an address of this host"
    );
    Err(io::Error::new(ErrorKind::InvalidInput, text))
}

/// Whether an address is that of all hosts, or of all in a network of this one. Of those the kernel knows:
/// it does not let a socket connect there that has not asked to broadcast (and sends nothing for it).
fn is_broadcast(ip: IpAddr) -> bool {
    let IpAddr::V4(v4) = ip else { return false };
    let refused = || {
        let connected = Socket::new(Domain::IPV4, Type::DGRAM, None)
            .and_then(|socket| socket.connect(&SocketAddr::new(ip, 1).into()));
        connected.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::ACCESS))
    };
    v4.is_broadcast() || !v4.is_unspecified() && refused()
}

/// Why `addr` cannot be bound, and what to do about it.
pub(crate) fn error(addr: SocketAddr, error: &io::Error) -> io::Error {
    use ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let no_family = Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT);
    let kind = if no_family { AddrNotAvailable } else { error.kind() };
    let advice = match kind {
        AddrInUse => ": stop who listens there, or choose another port",
        AddrNotAvailable => ": choose an address of this host",
        PermissionDenied => ": ports below 1024 need the capability CAP_NET_BIND_SERVICE",
        _ => "",
    };
    io::Error::new(kind, format!("cannot listen on {addr}: {error}{advice}"))
}

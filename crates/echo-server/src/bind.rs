//! Binding what was asked for, and saying so.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::thread;

use echo_core::{
    Address, DatagramOptions, DatagramSocket, Endpoint, Listener, LocalAddr, Mode, SocketOptions,
    UnixName,
};

use crate::auth;
use crate::exit::{self, Failure, UNAVAILABLE};
use crate::passed::{Passed, Sockets};

/// Of the 64 descriptors that are not left to connections 32 may be pipes of the workers, and a dozen are
/// the runtime's and stdio: two addresses with so many sockets fit into the rest.
const MAX_UDP_SOCKETS: usize = 8;

/// One `--listen` with its sockets: several where a name has several addresses, and for UDP one for
/// every two workers, up to 8.
pub(crate) struct Bound {
    /// The URI with its numeric host and real port.
    pub(crate) uri: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) sockets: Sockets,
    /// Whether a service manager has passed them.
    pub(crate) adopted: bool,
}

impl Bound {
    /// Adopts what was passed for this address, or else binds it.
    async fn bind(
        uri: &str,
        endpoint: &Endpoint,
        workers: NonZeroUsize,
        passed: &Passed,
    ) -> io::Result<Self> {
        let mut sockets = passed.adopt(endpoint).await?;
        if auth::is_required(endpoint) && !sockets.datagrams.is_empty() {
            let text = "datagrams were passed, which cannot authenticate: leave out auth";
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let adopted = !sockets.is_empty();
        if !adopted {
            sockets = Self::bind_anew(endpoint, workers).await?;
        }
        let address = sockets.addresses().next().unwrap_or(&LocalAddr::Memory);
        let uri = Endpoint::with_bound(uri, address);
        Ok(Self { uri, endpoint: endpoint.clone(), sockets, adopted })
    }

    async fn bind_anew(endpoint: &Endpoint, workers: NonZeroUsize) -> io::Result<Sockets> {
        let mut sockets = Sockets::default();
        if endpoint.address.is_datagram() {
            let each = udp_sockets(workers);
            let options = DatagramOptions { sockets: each, ..DatagramOptions::default() };
            sockets.datagrams = DatagramSocket::bind(endpoint, &options).await?;
        } else {
            sockets.listeners = Listener::bind(endpoint, &SocketOptions::default()).await?;
        }
        Ok(sockets)
    }
}

/// How many sockets a UDP address gets. Each keeps one worker busy, so half as many as there are leave a
/// flood's other half to the streams; on two cores a second socket gained nothing, and made the latency
/// of a few peers uneven.
fn udp_sockets(workers: NonZeroUsize) -> NonZeroUsize {
    NonZeroUsize::new((workers.get() / 2).min(MAX_UDP_SOCKETS)).unwrap_or(NonZeroUsize::MIN)
}

/// Binds everything or nothing; what was passed is adopted.
pub(crate) async fn bind(
    endpoints: &[(String, Endpoint)],
    workers: NonZeroUsize,
    passed: &Passed,
) -> Result<Vec<Bound>, Failure> {
    let mut bound = Vec::new();
    for (uri, endpoint) in endpoints {
        let sockets = Bound::bind(uri, endpoint, workers, passed).await;
        bound.push(sockets.map_err(|error| failure(uri, &endpoint.address, &error))?);
    }
    Ok(bound)
}

/// Says on stdout that every socket is bound, for programs, and in the log how to try it, for
/// people.
pub(crate) fn announce(bound: &[Bound]) -> io::Result<()> {
    let lines: String = bound.iter().map(|it| format!("listening {}\n", it.uri)).collect();
    // A thread of its own, since stdout may be a full pipe: that must not stop the service.
    thread::Builder::new().name("stdout".into()).spawn(move || {
        // Nobody may want to know: stdout can be closed.
        let _ = io::stdout().write_all(lines.as_bytes());
    })?;
    if let Some(first) = bound.first()
        && let Some(address) = first.sockets.addresses().next()
    {
        let (mode, datagrams) =
            (first.endpoint.mode.unwrap_or_default(), first.sockets.listeners.is_empty());
        // For users alone there is no such short command.
        match first.endpoint.tls {
            _ if auth::is_required(&first.endpoint) => {}
            true => tracing::info!("try: echo-client --ca CERT.PEM {}", first.uri),
            false => tracing::info!("try: {}", try_it(address, mode, datagrams)),
        }
    }
    Ok(())
}

/// Why an endpoint cannot be listened on.
pub(crate) fn failure(uri: &str, address: &Address, error: &io::Error) -> Failure {
    let reason = reason(address, error);
    Failure::new(UNAVAILABLE, format!("cannot listen on {uri}: {reason}"))
}

/// Why an address cannot be used, and what to do about it.
fn reason(address: &Address, error: &io::Error) -> String {
    let known = match (address, error.kind()) {
        (Address::Tcp { port, .. }, ErrorKind::AddrInUse) => {
            return format!("port {port} is in use: ss -ltnp 'sport = :{port}' says by whom");
        }
        (Address::Udp { port, .. }, ErrorKind::AddrInUse) => {
            return format!("port {port} is in use: ss -lunp 'sport = :{port}' says by whom");
        }
        (Address::Tcp { .. } | Address::Udp { .. }, ErrorKind::PermissionDenied) => {
            "permission denied: ports below 1024 need CAP_NET_BIND_SERVICE, or a lower \
             net.ipv4.ip_unprivileged_port_start"
        }
        (Address::Tcp { .. } | Address::Udp { .. }, ErrorKind::AddrNotAvailable) => {
            "this host has no such address: ip address lists its own"
        }
        (Address::Unix(_), ErrorKind::AddrInUse) => {
            "another process listens there: ss -lxp says which"
        }
        (Address::Unixgram(_), ErrorKind::AddrInUse) => {
            "another process listens there: ss -axp says which"
        }
        (Address::Unix(_) | Address::Unixgram(_), ErrorKind::PermissionDenied) => {
            "permission denied: choose a directory that this user may write to, or give the user \
             write permission there"
        }
        (Address::Unix(_) | Address::Unixgram(_), ErrorKind::NotFound) => {
            "no such directory, or none that takes sockets: choose another one or create it"
        }
        _ => {
            // The library names the address as well.
            let text = exit::reason(error);
            let why = text.strip_prefix("cannot listen on ").and_then(|it| it.split_once(": "));
            return why.map_or(text.as_str(), |(_, why)| why).to_owned();
        }
    };
    known.to_owned()
}

/// A shell command that gets an echo from a listener.
fn try_it(address: &LocalAddr, mode: Mode, datagrams: bool) -> String {
    // In framed mode a header stands in front of a stream: an ECHO of three bytes.
    let framed = mode == Mode::Framed && !datagrams;
    let text = if framed { r"\0\0\0\003hi\n" } else { r"hi\n" };
    // What it takes to end: its own end of the stream, or a second in which nothing came.
    let nc = if datagrams { "nc -w1 -u" } else { "nc -N" };
    let client = match address {
        LocalAddr::Tcp(address) | LocalAddr::Udp(address) => {
            let reachable = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            match SocketAddr::new(reachable, address.port()) {
                SocketAddr::V4(it) => format!("{nc} {} {}", it.ip(), it.port()),
                SocketAddr::V6(it) => format!("{nc} {} {}", it.ip(), it.port()),
            }
        }
        LocalAddr::Unix(UnixName::Path(path)) => {
            format!("{nc} -U {}", quoted(&path.display().to_string()))
        }
        // What socat takes is the name without the @.
        LocalAddr::Unix(UnixName::Abstract(name)) => {
            let name = name.escape_ascii();
            if datagrams {
                let server = format!("ABSTRACT-SENDTO:{name},bind={name}-client");
                format!("socat -t1 - {}", quoted(&server))
            } else {
                format!("socat - {}", quoted(&format!("ABSTRACT:{name}")))
            }
        }
        _ => return "a client in this process".into(),
    };
    format!("printf '{text}' | {client}")
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_to_do() {
        let unix = Address::Unix(UnixName::Path("/run/echo".into()));
        let denied = io::Error::new(ErrorKind::PermissionDenied, "cannot listen on /run/echo: no");
        assert!(reason(&unix, &denied).contains("choose a directory"));
        let text = "cannot listen on /run/echo: Read-only file system (os error 30)";
        assert_eq!(reason(&unix, &io::Error::other(text)), "Read-only file system");
    }

    #[test]
    fn the_hint_fits_the_listener() {
        let tcp = |text: &str| LocalAddr::Tcp(text.parse().unwrap());
        let udp = |text: &str| LocalAddr::Udp(text.parse().unwrap());
        let unix = |path: &str| LocalAddr::Unix(UnixName::Path(path.into()));
        for (address, mode, datagrams, hint) in [
            (tcp("127.0.0.1:7777"), Mode::Auto, false, r"printf 'hi\n' | nc -N 127.0.0.1 7777"),
            (tcp("0.0.0.0:80"), Mode::Raw, false, r"printf 'hi\n' | nc -N 127.0.0.1 80"),
            (tcp("[::]:7"), Mode::Framed, false, r"printf '\0\0\0\003hi\n' | nc -N ::1 7"),
            (unix("/it's me"), Mode::Auto, false, r"printf 'hi\n' | nc -N -U '/it'\''s me'"),
            (udp("[::]:7"), Mode::Framed, true, r"printf 'hi\n' | nc -w1 -u ::1 7"),
            (unix("/run/echo"), Mode::Auto, true, r"printf 'hi\n' | nc -w1 -u -U /run/echo"),
        ] {
            assert_eq!(try_it(&address, mode, datagrams), hint);
        }
    }
}

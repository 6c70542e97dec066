//! The way to the server: its addresses, raced (RFC 8305).

use std::ffi::OsString;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

#[cfg(feature = "tls")]
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout_at};

#[cfg(feature = "tls")]
use super::ClosedEarly;
use super::error::Words;
use super::{Error, Family, Options, Target};
use crate::endpoint::{Address, Endpoint, UnixName};
use crate::stream::{Peer, Stream};

/// How long an attempt has for itself before the next address is tried beside it ("Connection
/// Attempt Delay", RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long until a Unix socket with a full backlog is asked again: the kernel wakes no one.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// Connects, within [`Options::connect_timeout`].
pub(super) async fn dial(target: &Target, options: &Options) -> Result<(Stream, Peer), Error> {
    let deadline = Instant::now() + options.connect_timeout;
    let endpoint = match target {
        Target::Memory(connector) => {
            let refused = |error| Error::connecting(Peer::Memory, error);
            return match timeout_at(deadline, connector.connect()).await {
                Ok(stream) => Ok((Stream::Memory(stream.map_err(refused)?), Peer::Memory)),
                Err(_) => Err(late(Peer::Memory, options)),
            };
        }
        Target::Endpoint(endpoint) => endpoint,
    };
    match &endpoint.address {
        #[cfg(feature = "tls")]
        Address::Tcp { host, .. } if endpoint.tls => {
            let what = "tls:// takes Options::tls";
            let unsupported = Error::Unsupported { place: endpoint.to_target(), what };
            let client = options.tls.as_ref().ok_or(unsupported)?;
            let (stream, peer) = dial_name(endpoint, options, deadline).await?;
            match timeout_at(deadline, secure(stream, client, host, endpoint)).await {
                Ok(secured) => Ok((secured?, peer)),
                Err(_) => Err(Error::TimedOut(format!(
                    "{}: no handshake within {:?} (a plain server is tcp://HOST:PORT)",
                    endpoint.to_target(),
                    options.connect_timeout,
                ))),
            }
        }
        Address::Tcp { .. } if endpoint.tls => {
            let what = "this program was built without TLS";
            Err(Error::Unsupported { place: endpoint.to_target(), what })
        }
        Address::Tcp { .. } => dial_name(endpoint, options, deadline).await,
        Address::Unix(name) => match timeout_at(deadline, dial_unix(name)).await {
            Ok(Ok(stream)) => Ok((Stream::Unix(stream), Peer::Unix)),
            Ok(Err(error)) => Err(Error::connecting(endpoint.to_target(), error)),
            Err(_) => Err(late(endpoint.to_target(), options)),
        },
        Address::Udp { .. } | Address::Unixgram(_) => {
            let what = "datagrams are for a DatagramClient";
            Err(Error::Unsupported { place: endpoint.to_target(), what })
        }
        Address::Systemd(_) => {
            let what = "sockets of the service manager are for listeners";
            Err(Error::Unsupported { place: endpoint.to_target(), what })
        }
    }
}

/// Puts TLS over the connection, and sees to it that the server is the one that `host` names.
#[cfg(feature = "tls")]
async fn secure(
    stream: Stream,
    client: &crate::tls::Client,
    host: &str,
    endpoint: &Endpoint,
) -> Result<Stream, Error> {
    use crate::tls::Session;
    let place = endpoint.to_target();
    // The scope of an IPv6 address is this host's matter.
    let name = host.split_once('%').map_or(host, |(ip, _)| ip);
    let known = ServerName::try_from(name.to_owned()).map_err(|_| Error::Untrusted {
        place: place.clone(),
        what: format!("{name} can stand in no certificate: write a name or an IP address"),
    })?;
    let failed = |error: io::Error| match crate::tls::untrusted(&error, name) {
        Some(what) => Error::Untrusted { place: place.clone(), what },
        None => Error::ClosedEarly(Box::new(ClosedEarly {
            how: format!("{place}: {} (a plain server is tcp://HOST:PORT)", handshake_end(&error)),
            ..ClosedEarly::default()
        })),
    };
    let mut session = Box::new(Session::client(stream, client, known).map_err(failed)?);
    poll_fn(|cx| session.poll_handshake(cx)).await.map_err(failed)?;
    Ok(Stream::Tls(session))
}

#[cfg(feature = "tls")]
fn handshake_end(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the server ended the stream in the handshake".to_owned(),
        _ => format!("{} in the handshake", Words(error)),
    }
}

fn late(place: impl std::fmt::Display, options: &Options) -> Error {
    let limit = options.connect_timeout;
    Error::TimedOut(format!("{place}: no connection within {limit:?}"))
}

/// The addresses of the name that count, in the resolver's order: at least one.
pub(super) async fn addresses(
    endpoint: &Endpoint,
    options: &Options,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, Error> {
    let mut addrs = match timeout_at(deadline, endpoint.resolve()).await {
        Ok(addrs) => addrs.map_err(Error::Unresolved)?,
        Err(_) => return Err(late(endpoint.to_target(), options)),
    };
    addrs.retain(|addr| admits(options, addr));
    if addrs.is_empty() {
        let text = format!("{} has no address of the family asked for", endpoint.to_target());
        return Err(Error::Unresolved(io::Error::new(io::ErrorKind::NotFound, text)));
    }
    Ok(addrs)
}

/// Connects to whichever address of the name answers first.
async fn dial_name(
    endpoint: &Endpoint,
    options: &Options,
    deadline: Instant,
) -> Result<(Stream, Peer), Error> {
    let addrs = interleave(addresses(endpoint, options, deadline).await?);
    let mut failed = None;
    let connected =
        timeout_at(deadline, race(addrs, |addr| dial_tcp(addr, options.source), &mut failed)).await;
    // The first failure is the one that counts.
    match (connected, failed) {
        (Ok(Some((addr, stream))), _) => Ok((Stream::Tcp(stream), Peer::Tcp(addr))),
        (_, Some((addr, error))) => Err(Error::connecting(addr, error)),
        (_, None) => Err(late(endpoint.to_target(), options)),
    }
}

fn admits(options: &Options, addr: &SocketAddr) -> bool {
    match (options.family, options.source) {
        (Family::V4, _) => addr.is_ipv4(),
        (Family::V6, _) => addr.is_ipv6(),
        (Family::Any, Some(source)) => source.is_ipv4() == addr.is_ipv4(),
        (Family::Any, None) => true,
    }
}

/// The families take turns, beginning with the one that the resolver prefers, each in its order.
fn interleave(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let v6_first = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) =
        addrs.into_iter().partition(|addr| addr.is_ipv6() == v6_first);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut mixed = Vec::new();
    loop {
        let before = mixed.len();
        mixed.extend(preferred.next());
        mixed.extend(other.next());
        if mixed.len() == before {
            return mixed;
        }
    }
}

/// Tries each address, the next one as soon as one has failed or has had its time. The first to
/// connect wins and the others are dropped; `failed` has the first failure.
async fn race<T, Attempt>(
    addrs: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> Attempt,
    failed: &mut Option<(SocketAddr, io::Error)>,
) -> Option<(SocketAddr, T)>
where
    Attempt: Future<Output = io::Result<T>>,
{
    let mut untried = addrs.into_iter();
    let mut running = Vec::new();
    let mut delay = pin!(sleep(Duration::ZERO));
    let mut start = true;
    poll_fn(|cx| {
        loop {
            while delay.as_mut().poll(cx).is_ready() || start {
                start = false;
                delay.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
                let Some(addr) = untried.next() else { break };
                running.push((addr, Box::pin(connect(addr))));
            }
            let mut won = None;
            running.retain_mut(|(addr, attempt)| match attempt.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(Ok(connected)) => {
                    won.get_or_insert((*addr, connected));
                    false
                }
                Poll::Ready(Err(error)) => {
                    failed.get_or_insert((*addr, error));
                    start = true;
                    false
                }
            });
            if won.is_some() || running.is_empty() && untried.len() == 0 {
                return Poll::Ready(won);
            }
            if !start {
                return Poll::Pending;
            }
        }
    })
    .await
}

async fn dial_tcp(addr: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        bind_source(source, |local| socket.bind(local))?;
    }
    let stream = socket.connect(addr).await?;
    // A closed port of this host's ephemeral range may be given to our own end: TCP then connects
    // the socket to itself, which would make the perfect echo server.
    if stream.local_addr()? == addr {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Binds to the address of this host's that is asked for, by `bind`.
pub(super) fn bind_source(
    source: IpAddr,
    bind: impl FnOnce(SocketAddr) -> io::Result<()>,
) -> io::Result<()> {
    bind(SocketAddr::new(source, 0)).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot connect from {source}: {}", Words(&error)))
    })
}

async fn dial_unix(name: &UnixName) -> io::Result<UnixStream> {
    let path = match name {
        UnixName::Path(path) => path.clone(),
        // Tokio takes a leading zero byte for the abstract namespace, as the kernel does.
        UnixName::Abstract(name) => PathBuf::from(OsString::from_vec([&[0], &name[..]].concat())),
    };
    loop {
        match UnixStream::connect(&path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_PAUSE).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;

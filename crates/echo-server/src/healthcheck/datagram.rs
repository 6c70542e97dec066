//! An echo asked for by datagrams, which may be lost and tell of nothing but silence.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram as StdUnixDatagram};
use std::time::Duration;

use echo_core::UnixName;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::{Instant, timeout_at};

use super::{TEXT, broken, refused};

/// How long to wait for a datagram before it is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// More than the question has.
const MAX_ANSWER: usize = 64;

/// Asks each of `addresses` until one answers or all refuse. Who is silent is asked again.
pub(super) async fn ask_udp(addresses: &[SocketAddr]) -> Result<String, String> {
    loop {
        let mut refusal = None;
        let mut silent = false;
        for address in addresses {
            match ask_address(*address).await {
                Ok(Some(how)) => return Ok(how),
                Ok(None) => silent = true,
                Err(reason) => refusal = Some(reason),
            }
        }
        if !silent {
            return Err(refusal.unwrap_or_else(|| "unresolved: no address".to_owned()));
        }
    }
}

async fn ask_address(address: SocketAddr) -> Result<Option<String>, String> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(|error| refused(&error))?;
    socket.connect(address).await.map_err(|error| refused(&error))?;
    socket.send(TEXT).await.map_err(|error| refused(&error))?;
    let mut answer = [0; MAX_ANSWER];
    judge(timeout_at(Instant::now() + LOST_AFTER, socket.recv(&mut answer)).await.ok(), &answer)
}

/// Asks the server at `name`; nothing is lost on the way there.
pub(super) async fn ask_unix(name: &UnixName) -> Result<String, String> {
    let address = match name {
        UnixName::Path(path) => UnixAddr::from_pathname(path),
        UnixName::Abstract(name) => UnixAddr::from_abstract_name(name),
    };
    let address = address.map_err(|error| refused(&error))?;
    // Bound to a name that the kernel chooses, since nobody can answer to a socket without one.
    let socket = StdUnixDatagram::bind("").map_err(|error| refused(&error))?;
    socket.set_nonblocking(true).map_err(|error| refused(&error))?;
    socket.connect_addr(&address).map_err(|error| refused(&error))?;
    let socket = UnixDatagram::from_std(socket).map_err(|error| refused(&error))?;
    socket.send(TEXT).await.map_err(|error| refused(&error))?;
    let mut answer = [0; MAX_ANSWER];
    let received = socket.recv(&mut answer).await;
    judge(Some(received), &answer)?.ok_or_else(|| "timed out: no echo".to_owned())
}

/// What came back, if anything did.
fn judge(received: Option<io::Result<usize>>, answer: &[u8]) -> Result<Option<String>, String> {
    match received {
        None => Ok(None),
        // ICMP: nobody is there.
        Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(refused(&error))
        }
        Some(Err(error)) => Err(broken(&error)),
        Some(Ok(len)) if &answer[..len] == TEXT => Ok(Some("datagram".to_owned())),
        Some(Ok(_)) => Err("different: the answer is not an echo".to_owned()),
    }
}

//! The way to the server: every address of its name, again until `--retry` is over.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use echo_core::{Address, UnixName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout_at};

use crate::args::Args;
use crate::failure::{Failure, reason};

/// Both halves of a connection.
pub(crate) type Halves = (Box<dyn AsyncRead + Unpin>, Box<dyn AsyncWrite + Unpin>);

/// Pauses between attempts: this long at first, doubling up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Connects to the target, with attempts until `--retry` is over. `notice` is told of the first
/// failure that is not the end.
pub(crate) async fn connect(args: &Args, notice: impl Fn(&str)) -> Result<Halves, Failure> {
    let retry = args.connecting.retry.unwrap_or_default();
    let end = Instant::now() + retry;
    let mut pause = PAUSE.0;
    loop {
        let failure = match attempt(args).await {
            Ok(halves) => return Ok(halves),
            Err(failure) => failure,
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failure);
        }
        if pause == PAUSE.0 {
            notice(&format!("{failure}; trying for {:?}", retry));
        }
        // The last try is at the end, however long the pause would be.
        sleep(pause.min(left)).await;
        pause = PAUSE.1.min(pause * 2);
    }
}

async fn attempt(args: &Args) -> Result<Halves, Failure> {
    let deadline = Instant::now() + args.connecting.connect_timeout;
    let late = |place: &str| {
        let limit = args.connecting.connect_timeout;
        Failure::TimedOut(format!("{place}: no connection within {limit:?}"))
    };
    let Address::Unix(name) = &args.target.address else {
        return attempt_tcp(args, deadline, late).await;
    };
    let place = args.target.to_string();
    match timeout_at(deadline, dial_unix(name)).await {
        Ok(Ok(stream)) => {
            let (reader, writer) = stream.into_split();
            Ok((Box::new(reader), Box::new(writer)))
        }
        Ok(Err(error)) => Err(failure(&place, &error)),
        Err(_) => Err(late(&place)),
    }
}

/// Tries the addresses one after the other. The first failure is the one that counts.
async fn attempt_tcp(
    args: &Args,
    deadline: Instant,
    late: impl Fn(&str) -> Failure,
) -> Result<Halves, Failure> {
    let target = args.target.to_string();
    let addrs = match timeout_at(deadline, args.target.resolve()).await {
        Ok(Ok(addrs)) => addrs,
        Ok(Err(error)) => return Err(Failure::Unresolved(reason(&error))),
        Err(_) => return Err(late(&target)),
    };
    let addrs: Vec<_> = addrs.into_iter().filter(|addr| args.connecting.admits(addr)).collect();
    let mut first = None;
    for (at, addr) in addrs.iter().enumerate() {
        // A share of what is left for each, so that an address that swallows packets does not use
        // up the time of the others.
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / (addrs.len() - at) as u32;
        let failed = match timeout_at(now + share, dial_tcp(*addr, args.connecting.source)).await {
            Ok(Ok(stream)) => {
                let (reader, writer) = stream.into_split();
                return Ok((Box::new(reader), Box::new(writer)));
            }
            Ok(Err(error)) => failure(&addr.to_string(), &error),
            Err(_) => late(&addr.to_string()),
        };
        first.get_or_insert(failed);
    }
    Err(first.unwrap_or_else(|| {
        Failure::Unresolved(format!("{target} has no address of the family asked for"))
    }))
}

async fn dial_tcp(addr: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0)).map_err(|error| {
            let text = format!("cannot connect from {source}: {}", reason(&error));
            io::Error::new(error.kind(), text)
        })?;
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

async fn dial_unix(name: &UnixName) -> io::Result<UnixStream> {
    let path = match name {
        UnixName::Path(path) => path.clone(),
        // Tokio takes a leading zero byte for the abstract namespace, as the kernel does.
        UnixName::Abstract(name) => PathBuf::from(OsString::from_vec([&[0], &name[..]].concat())),
    };
    loop {
        match UnixStream::connect(&path).await {
            // The backlog is full. The kernel queues no one and wakes no one: ask again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}

fn failure(place: &str, error: &io::Error) -> Failure {
    let what = format!("{place}: {}", reason(error));
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused(format!("{what} (is it running?)")),
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::ConnectionReset => Failure::Refused(what),
        io::ErrorKind::TimedOut => Failure::TimedOut(what),
        _ => Failure::Unreachable(what),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// Pauses of 100, 200, 400 and 300 ms: the last is cut short.
    #[tokio::test(start_paused = true)]
    async fn the_last_try_is_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = format!("unix:{}", folder.path().join("none").display());
        for retry in ["0", "50ms", "1s", "5s"] {
            let args = Args::try_parse_from(["x", "--retry", retry, &nowhere]).unwrap();
            let started = Instant::now();
            let Err(Failure::Refused(_)) = connect(&args, |_| {}).await else {
                panic!("nobody listens there");
            };
            assert_eq!(Some(started.elapsed()), args.connecting.retry, "{retry}");
        }
    }
}

#![allow(
    clippy::disallowed_methods,
    reason = "a deadline around a whole test step, and sockets that play other programs"
)]

mod unix;

use std::future::poll_fn;
use std::os::unix::net as std_unix;
use std::path::PathBuf;
use std::{fs, net};

use socket2::SockAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// So long that only a test that hangs meets it.
const DEADLINE: Duration = Duration::from_secs(60);

const OPTIONS: SocketOptions =
    SocketOptions { backlog: 4096, nodelay: true, keepalive: Some(Duration::from_secs(60)) };

async fn accept(listener: &mut Listener) -> io::Result<(Stream, Peer)> {
    tokio::time::timeout(DEADLINE, poll_fn(|cx| listener.poll_accept(cx))).await.unwrap()
}

async fn bind(uri: &str) -> io::Result<Vec<Listener>> {
    Listener::bind(&uri.parse().unwrap(), &OPTIONS).await
}

fn bind_each(addrs: &[SocketAddr]) -> io::Result<Vec<Listener>> {
    let port = |bound: &Listener| bound.local_addr.port();
    internet::bind_each(addrs, |addr| Listener::bind_tcp(addr, &OPTIONS), port)
}

fn bind_path(path: impl Into<PathBuf>, perm: Option<u32>) -> io::Result<Listener> {
    Listener::bind_unix(&UnixName::Path(path.into()), perm, &OPTIONS)
}

fn tcp_addr(listener: &Listener) -> SocketAddr {
    match listener.local_addr() {
        LocalAddr::Tcp(addr) => *addr,
        other => panic!("{other:?}"),
    }
}

fn connect(addr: impl net::ToSocketAddrs) -> net::TcpStream {
    let addr = addr.to_socket_addrs().unwrap().next().unwrap();
    net::TcpStream::connect_timeout(&addr, DEADLINE).unwrap()
}

#[test]
fn defaults() {
    assert_eq!(SocketOptions::default(), OPTIONS);
}

#[tokio::test]
async fn tcp_v4() {
    let mut listener = bind("tcp://127.0.0.1:0").await.unwrap().pop().unwrap();
    let addr = tcp_addr(&listener);
    assert_eq!(listener.local_addr().to_string(), format!("127.0.0.1:{}", addr.port()));
    assert!(!listener.is_inherited());
    assert_eq!(listener.backlog(), 4096);
    let client = connect(addr);
    let (_, peer) = accept(&mut listener).await.unwrap();
    assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
}

/// Linux only, as is their inheritance.
#[tokio::test]
async fn accepted_inherit_nodelay_and_keepalive() {
    for queued in [false, true] {
        let mut listener = bind("tcp://127.0.0.1:0").await.unwrap().pop().unwrap();
        let _client = connect(tcp_addr(&listener));
        let (stream, _) = match queued {
            false => accept(&mut listener).await.unwrap(),
            true => listener.accept_queued().unwrap().unwrap(),
        };
        let Stream::Tcp(stream) = stream else { panic!("{stream:?}") };
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        assert!(socket.nonblocking().unwrap());
    }
    let options = SocketOptions { nodelay: false, keepalive: None, ..OPTIONS };
    let mut listener = Listener::bind_tcp(([127, 0, 0, 1], 0).into(), &options).unwrap();
    let _client = connect(tcp_addr(&listener));
    let (Stream::Tcp(stream), _) = accept(&mut listener).await.unwrap() else { panic!() };
    assert!(!SockRef::from(&stream).tcp_nodelay().unwrap());
    assert!(!SockRef::from(&stream).keepalive().unwrap());
}

#[tokio::test]
async fn dual_stack() {
    if net::TcpListener::bind("[::1]:0").is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "this host has no IPv6");
        println!("SKIPPED dual_stack: IPv6");
        return;
    }
    let mut listener = bind("tcp://[::]:0").await.unwrap().pop().unwrap();
    let port = tcp_addr(&listener).port();
    let client = connect(("127.0.0.1", port));
    let (_, peer) = accept(&mut listener).await.unwrap();
    // One IPv4 peer has one form.
    assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
    let client = connect(("::1", port));
    let (_, peer) = accept(&mut listener).await.unwrap();
    assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));

    let listener = bind("tcp://[::1]:0").await.unwrap().pop().unwrap();
    let Socket::Tcp(socket) = &listener.socket else { panic!() };
    assert!(SockRef::from(socket).only_v6().unwrap());
}

#[tokio::test]
async fn every_address_of_a_name() {
    let bound = bind("tcp://localhost:0").await.unwrap();
    let port = tcp_addr(&bound[0]).port();
    assert_ne!(port, 0);
    for listener in &bound {
        assert!(tcp_addr(listener).ip().is_loopback());
        assert_eq!(tcp_addr(listener).port(), port);
    }
    // Addresses that cannot be got from a resolver at will.
    let addrs = ["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    let bound = bind_each(&addrs).unwrap();
    assert_eq!(tcp_addr(&bound[0]).port(), tcp_addr(&bound[1]).port());
    // 192.0.2.0/24 is for documentation and nobody's.
    let addrs = ["192.0.2.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()];
    assert_eq!(bind_each(&addrs).unwrap().len(), 1);
    let error = bind_each(&addrs[..1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}

#[tokio::test]
async fn port_in_use() {
    let listener = bind("tcp://127.0.0.1:0").await.unwrap().pop().unwrap();
    let addr = tcp_addr(&listener);
    let error = bind(&format!("tcp://{addr}")).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("cannot listen on {addr}: ")), "{error}");
    // A restart gets the port at once, though a connection of the last run is in TIME_WAIT.
    let client = connect(addr);
    let mut listener = listener;
    drop(accept(&mut listener).await.unwrap());
    drop((listener, client));
    bind(&format!("tcp://{addr}")).await.unwrap();
}

/// With the backlog of 128 that tokio sets, connections 130 and up would hang.
#[tokio::test]
async fn backlog_holds_a_burst() {
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let burst = somaxconn.trim().parse::<usize>().unwrap().min(300);
    let mut listener = bind("tcp://127.0.0.1:0").await.unwrap().pop().unwrap();
    let clients: Vec<_> = (0..burst).map(|_| connect(tcp_addr(&listener))).collect();
    for _ in &clients {
        assert!(listener.accept_queued().unwrap().is_some());
    }
    assert!(listener.accept_queued().unwrap().is_none());
}

/// Everything happens between two turns of the reactor.
#[tokio::test]
async fn queued_connections_need_no_reactor() {
    let dir = tempfile::tempdir().unwrap();
    let mut tcp = bind("tcp://127.0.0.1:0").await.unwrap().pop().unwrap();
    let mut unix = bind_path(dir.path().join("s"), None).unwrap();
    assert!(tcp.accept_queued().unwrap().is_none());
    assert!(unix.accept_queued().unwrap().is_none());
    let client = connect(tcp_addr(&tcp));
    let _unix_client = std_unix::UnixStream::connect(dir.path().join("s")).unwrap();
    let (mut stream, peer) = match tcp.accept_queued().unwrap().unwrap() {
        (Stream::Tcp(stream), peer) => (stream, peer),
        other => panic!("{other:?}"),
    };
    assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
    let (Stream::Unix(_), Peer::Unix) = unix.accept_queued().unwrap().unwrap() else { panic!() };
    // The stream is registered as any other.
    let mut client = client;
    io::Write::write_all(&mut client, b"x").unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap(), b'x');
}

#[tokio::test]
async fn inherited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let tcp = net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = tcp.local_addr().unwrap();
    let mut listener = Listener::inherited(tcp.into(), &SocketOptions::default()).unwrap();
    assert!(listener.is_inherited());
    assert_eq!(listener.local_addr(), &LocalAddr::Tcp(addr));
    let _client = connect(addr);
    accept(&mut listener).await.unwrap();
    assert!(listener.accept_queued().unwrap().is_none());

    let unix = std_unix::UnixListener::bind(&path).unwrap();
    let mut listener = Listener::inherited(unix.into(), &SocketOptions::default()).unwrap();
    assert_eq!(listener.local_addr(), &LocalAddr::Unix(UnixName::Path(path.clone())));
    let _client = std_unix::UnixStream::connect(&path).unwrap();
    accept(&mut listener).await.unwrap();
    listener.unlink();
    drop(listener);
    assert!(path.exists());

    let silent = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    for (fd, why) in [
        (OwnedFd::from(net::UdpSocket::bind("127.0.0.1:0").unwrap()), "not a stream socket"),
        (silent.into(), "does not listen"),
        (fs::File::open("/dev/null").unwrap().into(), "not a socket"),
        (std_unix::UnixStream::pair().unwrap().0.into(), "does not listen"),
    ] {
        let error = Listener::inherited(fd, &SocketOptions::default())
            .unwrap_err()
            .to_string()
            .to_lowercase();
        assert!(error.contains(why) || error.contains("socket operation on non-socket"), "{error}");
    }
}

#[tokio::test]
async fn memory() {
    let (mut listener, connector) = Listener::memory();
    assert_eq!(listener.local_addr().to_string(), "memory");
    let mut client = connector.connect().await.unwrap();
    connector.fail(io::ErrorKind::ConnectionAborted.into());
    let (Stream::Memory(mut stream), Peer::Memory) = accept(&mut listener).await.unwrap() else {
        panic!()
    };
    client.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    let error = accept(&mut listener).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);

    assert!(listener.accept_queued().unwrap().is_none());
    let _client = connector.clone().connect().await.unwrap();
    assert!(listener.accept_queued().unwrap().is_some());

    let other = connector.clone();
    drop(connector);
    drop(other);
    let mut accept = poller(&mut listener);
    assert!(accept().is_pending() && accept().is_pending());
    let (listener, connector) = Listener::memory();
    let mut closed = Box::pin(listener.closed());
    assert!(closed.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    drop(listener);
    closed.await;
    let error = connector.connect().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    connector.fail(error);
}

/// Polls `listener` from outside of any task.
fn poller(listener: &mut Listener) -> impl FnMut() -> Poll<()> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    move || listener.poll_accept(&mut cx).map(drop)
}

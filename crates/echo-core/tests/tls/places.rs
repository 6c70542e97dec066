//! Places for handshakes, which nobody may keep others from.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use echo_core::tls::Policy;
use echo_core::{HandshakeFault, Limits};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::support::{Authority, Running, blocking, until, write};

/// The head of a record of the handshake, which announces 512 bytes.
const HALF: [u8; 5] = [0x16, 3, 1, 2, 0];

fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((IpAddr::from(source), 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// Connects from one source again and again, and says `words` and nothing more.
fn flood(peers: &mut JoinSet<()>, to: SocketAddr, words: &'static [u8], ends: &Arc<AtomicUsize>) {
    for _ in 0..1_000 {
        let ends = Arc::clone(ends);
        peers.spawn(async move {
            loop {
                let stream = connect_from([127, 0, 0, 2], to);
                stream.set_nonblocking(true).unwrap();
                let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
                let _ = stream.write_all(words).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
                ends.fetch_add(1, Relaxed);
            }
        });
    }
}

/// A thousand that say nothing and a thousand that say half of something, renewed for as long as it takes: who
/// comes from elsewhere is served at the first try, each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_source_keeps_nobody_else_out() {
    let authority = Arc::new(Authority::new());
    let limits = Limits {
        frame_timeout: Duration::from_secs(4),
        max_per_source: NonZeroUsize::new(10_000).unwrap(),
        spare_loopback: false,
        ..Limits::default()
    };
    let running = Running::start(Policy::Always(authority.server()), limits);
    let (addr, mut peers) = (running.addr, JoinSet::new());
    let (silent, half) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    flood(&mut peers, addr, &[], &silent);
    flood(&mut peers, addr, &HALF, &half);
    until(|| running.service.stats().active >= 1_900).await;
    until(|| running.service.stats().tls.waited > 900).await;
    let (mut served, mut slowest) = (0, Duration::ZERO);
    while silent.load(Relaxed) < 1_500 || half.load(Relaxed) < 1_500 || served < 20 {
        let authority = Arc::clone(&authority);
        let began = tokio::time::Instant::now();
        blocking(move || {
            let mut honest = authority
                .other_client_over(connect_from([127, 0, 0, 3], addr), authority.other_config());
            write(&mut honest, b"served\n");
            let mut echo = [0; 7];
            std::io::Read::read_exact(&mut honest, &mut echo).unwrap();
            assert_eq!(&echo, b"served\n");
        })
        .await;
        served += 1;
        slowest = slowest.max(began.elapsed());
        let tls = running.service.stats().tls;
        assert!(tls.under_way <= 33, "a source's share, and the honest one: {tls:?}");
    }
    println!("{served} served, the slowest in {slowest:?}");
    let tls = running.service.stats().tls;
    assert!(tls.failed(HandshakeFault::TimedOut) > 1_500, "{tls:?}");
    assert!(tls.failed(HandshakeFault::Displaced) > 0, "{tls:?}");
    peers.shutdown().await;
    running.drain().await;
}

/// Peers of this host are one, as behind a proxy everybody is: who takes his time there gives way after a
/// while, though his own time is far from over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_the_slow_give_way() {
    let authority = Authority::new();
    let limits = Limits { frame_timeout: Duration::from_secs(3_600), ..Limits::default() };
    let running = Running::start(Policy::Always(authority.server()), limits);
    let addr = running.addr;
    let slow: Vec<_> = (0..300).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let before = running.service.stats().tls;
    assert_eq!((before.under_way, before.waited), (0, 0), "nobody has said anything");
    slow.iter().for_each(|stream| write(stream, &HALF));
    until(|| running.service.stats().tls.waited == 44).await;
    assert_eq!(running.service.stats().tls.under_way, 256);
    let options = authority.options();
    let mut client = echo_core::client::Client::connect(running.target(), options).await.unwrap();
    client.echo(b"in").await.unwrap();
    let tls = running.service.stats().tls;
    assert!(tls.failed(HandshakeFault::Displaced) > 44, "{tls:?}");
    drop(slow);
    until(|| running.service.stats().tls.under_way == 0).await;
    running.drain().await;
}

/// Who says nothing has no place, and no more time than a handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_silent_have_no_place() {
    let authority = Authority::new();
    let limits = Limits { frame_timeout: Duration::from_secs(1), ..Limits::default() };
    let running = Running::start(Policy::Always(authority.server()), limits);
    let addr = running.addr;
    let silent: Vec<_> = (0..600).map(|_| TcpStream::connect(addr).unwrap()).collect();
    until(|| running.service.stats().tls.failed(HandshakeFault::TimedOut) == 600).await;
    assert_eq!(running.service.stats().tls.waited, 0);
    drop(silent);
    running.drain().await;
}

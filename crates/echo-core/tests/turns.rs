//! How connections share a worker: their turns, and when it may sleep.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, spawns what it awaits, and waits with a bound"
)]

mod support;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use echo_core::{
    Connection, DatagramEcho, DatagramOptions, DatagramSocket, Echo, Error, Handler, Limits,
    LocalAddr, Mode, Service, serve_datagrams,
};
use support::{echo, on_tcp, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// A handler that only sends, to a peer that keeps up, lets others run as a reading one does.
#[tokio::test]
async fn a_handler_that_only_sends_has_its_turns() {
    struct Chatter;
    impl Handler for Chatter {
        async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
            let chunk = vec![b'x'; 16 << 10];
            for _ in 0..4000 {
                connection.send(&chunk).await?;
            }
            Ok(())
        }
    }
    let (server, addr) = on_tcp(Limits::default(), Chatter);
    let reader = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let (mut before, mut most) = (0, 0);
    while before < 60 << 20 {
        tokio::task::yield_now().await;
        let sent = server.service.stats().bytes_out;
        most = most.max(sent - before);
        before = sent;
    }
    // A turn, and what its last flush was given.
    assert!(most <= (256 << 10) + (128 << 10), "{most} bytes in one turn");
    assert_eq!(reader.await.unwrap(), 4000 * ((16 << 10) + 4));
    // Each turn that was ended is counted, and took at most what is above.
    let turns = server.service.stats().turns_full;
    assert!(turns >= (60 << 20) / (384 << 10), "{turns} turns");
    server.stop(Duration::from_secs(60)).await;
}

/// Counts how often the task of a connection is polled.
struct Polled {
    echo: Echo,
    polls: Arc<AtomicUsize>,
}

impl Handler for Polled {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        let mut echoing = pin!(self.echo.run(connection));
        poll_fn(|cx| {
            self.polls.fetch_add(1, Relaxed);
            echoing.as_mut().poll(cx)
        })
        .await
    }
}

/// After a long message a connection looks at the sockets a few times more before its worker sleeps;
/// after a short one it does not; and neither keeps an idle worker awake.
#[tokio::test]
async fn a_worker_stays_awake_for_a_bulky_peer_only() {
    for mode in [Mode::Raw, Mode::Framed] {
        let polls = Arc::new(AtomicUsize::new(0));
        let handler = Polled { echo: Echo::new(mode), polls: Arc::clone(&polls) };
        let (server, addr) = on_tcp(Limits::default(), handler);
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let mut polls_of = async |len: usize| {
            let before = polls.load(Relaxed);
            let message = echo(&vec![7; len]);
            stream.write_all(&message).await.unwrap();
            let mut answer = vec![0; message.len()];
            soon(stream.read_exact(&mut answer)).await.unwrap();
            assert!(answer == message);
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            polls.load(Relaxed) - before
        };
        polls_of(64).await;
        let short = polls_of(64).await;
        assert!((1..=2).contains(&short), "{mode:?}: {short} polls for a short message");
        let long = polls_of(16 << 10).await;
        assert!((16..=20).contains(&long), "{mode:?}: {long} polls for a long message");
        let again = polls_of(64).await;
        assert!((1..=2).contains(&again), "{mode:?}: {again} polls for a short one after it");
        assert_eq!(server.service.stats().turns_full, 0, "none was ended");
    }
}

/// After any datagram a socket is looked at a few times more; then its worker sleeps.
#[tokio::test]
async fn a_worker_stays_awake_for_the_next_datagram() {
    let polls = Arc::new(AtomicUsize::new(0));
    let addr = "127.0.0.1:0".parse().unwrap();
    let socket = DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap().remove(0);
    let LocalAddr::Udp(addr) = *socket.local_addr() else { unreachable!() };
    let echo = Arc::new(DatagramEcho::new(Mode::Auto));
    let serving = serve_datagrams(socket, Service::default(), echo);
    let counted = Arc::clone(&polls);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut serving = pin!(serving);
        poll_fn(|cx| {
            counted.fetch_add(1, Relaxed);
            serving.as_mut().poll(cx)
        })
        .await
    });
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(addr).await.unwrap();
    for _ in 0..3 {
        let before = polls.load(Relaxed);
        client.send(b"datagram").await.unwrap();
        let mut answer = [0; 16];
        assert_eq!(soon(client.recv(&mut answer)).await.unwrap(), 8);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let polled = polls.load(Relaxed) - before;
        assert!((16..=20).contains(&polled), "{polled} polls for a datagram");
    }
}

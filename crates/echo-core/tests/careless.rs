//! Handlers that do not heed what they are told: they go on after the end, and let others run all the same, so that
//! a drain ends them at its deadline. Or they ask for what cannot be.

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

use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use echo_core::client::{Client, DatagramClient, Dialogue, Options};
use echo_core::{
    Connection, Error, Handler, Header, Kind, Limits, Listener, MAX_PAYLOAD_LEN, Report,
};
use support::{
    PATIENCE, Running, buckets, echo, frame, hello, in_memory, on_tcp, read_all, settle,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio::time::advance;

/// Runs a test on a thread of its own: one whose tasks keep the runtime fails, instead of hanging.
fn on_one_thread(paused: bool, test: impl Future<Output = ()> + Send + 'static) {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all().start_paused(paused).build().unwrap().block_on(test);
        done.send(()).unwrap();
    });
    ended.recv_timeout(PATIENCE).expect("it failed, or a task keeps the runtime");
}

/// Asks for the next message, whatever it was told.
struct Deaf;

impl Handler for Deaf {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        loop {
            if let Ok(Some(message)) = connection.recv().await {
                let _ = connection.send(&message).await;
            }
        }
    }
}

/// Drains to the deadline. Paused time goes on by itself only where every task waits.
async fn cut(server: Running) -> Report {
    server.drain(Duration::from_secs(10));
    settle().await;
    advance(Duration::from_secs(11)).await;
    server.ended().await
}

/// What comes of a [`Deaf`] handler's connection that `begun` was sent on, and then perhaps the end.
fn deaf(begun: Vec<u8>, ends: bool) {
    on_one_thread(true, async move {
        let (server, connector) = in_memory(Limits::default(), Deaf);
        let mut client = connector.connect().await.unwrap();
        client.write_all(&begun).await.unwrap();
        if ends {
            client.shutdown().await.unwrap();
        }
        settle().await;
        // Longer than any limit of a connection.
        advance(Duration::from_secs(3600)).await;
        settle().await;
        assert_eq!(buckets(cut(server).await.drained), [0, 0, 1, 0, 0], "it is open until then");
    });
}

#[test]
fn after_the_peers_end() {
    deaf(echo(b"last"), true);
}

#[test]
fn after_an_end_inside_a_frame() {
    deaf(echo(b"last")[..6].to_vec(), true);
}

#[test]
fn after_the_idle_timeout() {
    deaf(echo(b"first"), false);
}

#[test]
fn after_a_frame_that_is_refused() {
    deaf(vec![0, 0xff, 0xff, 0xff], false);
}

#[test]
fn after_a_kind_without_a_place() {
    deaf([hello(), frame(Kind(0x42), b"")].concat(), false);
}

#[test]
fn in_a_drain() {
    on_one_thread(true, async {
        let (server, connector) = in_memory(Limits::default(), Deaf);
        let mut client = connector.connect().await.unwrap();
        client.write_all(&echo(b"first")).await.unwrap();
        settle().await;
        assert_eq!(buckets(cut(server).await.drained), [0, 0, 1, 0, 0]);
        assert_eq!(read_all(&mut client).await, echo(b"first"));
    });
}

/// Calls what is refused, or what has come to its end, as often as its number says how.
struct Absurd(u8);

impl Handler for Absurd {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        let header = |len| Header { kind: Kind::ECHO, len };
        if self.0 < 4 {
            connection.send_header(header(1)).await?;
        }
        let too_long = vec![0; MAX_PAYLOAD_LEN as usize + 1];
        loop {
            let refused = match self.0 {
                0 => connection.recv().await.is_err(),
                1 => connection.send(b"inside another").await.is_err(),
                2 => connection.send_header(header(0)).await.is_err(),
                3 => connection.send_chunk(b"longer than said").await.is_err(),
                4 => connection.send(&too_long).await.is_err(),
                5 => connection.send_header(header(MAX_PAYLOAD_LEN + 1)).await.is_err(),
                6 => connection.chunk().await?.is_none(),
                _ => connection.read_payload(&mut [0; 10]).await? == 0,
            };
            assert!(refused);
        }
    }
}

#[test]
fn what_is_refused_at_once() {
    for call in 0..8 {
        on_one_thread(true, async move {
            let (server, connector) = in_memory(Limits::default(), Absurd(call));
            let _client = connector.connect().await.unwrap();
            assert_eq!(buckets(cut(server).await.drained), [0, 0, 1, 0, 0], "{call}");
        });
    }
}

/// Writes what nobody takes any more.
struct Stubborn;

impl Handler for Stubborn {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        let _ = connection.send(&[7; 8 << 20]).await;
        loop {
            let _ = connection.flush().await;
        }
    }
}

#[test]
fn after_the_peer_has_reset() {
    on_one_thread(false, async {
        let (server, addr) = on_tcp(Limits::default(), Stubborn);
        let client = TcpStream::connect(addr).await.unwrap();
        client.readable().await.unwrap();
        // With unread input it is a reset.
        drop(client);
        let report = server.stop(Duration::from_millis(10)).await;
        assert_eq!(buckets(report.drained), [0, 0, 1, 0, 0]);
    });
}

/// Tells what its first flush says whose peer has reset, after so much else that the task has almost had its turn.
struct Spent(u32, mpsc::Sender<io::ErrorKind>);

impl Handler for Spent {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.send(b"queued").await?;
        while !connection.has_hung_up() {
            yield_now().await;
        }
        yield_now().await;
        for _ in 0..self.0 {
            consume_budget().await;
        }
        let error = connection.flush().await.unwrap_err();
        if let Error::Io(error) = &error {
            self.1.send(error.kind()).unwrap();
        }
        Err(error)
    }
}

/// The socket tells it once: a second look would find another one.
#[test]
fn the_error_of_a_reset_is_told_as_it_was() {
    on_one_thread(false, async {
        for spent in 100..130 {
            let (tell, told) = mpsc::channel();
            let (server, addr) = on_tcp(Limits::default(), Spent(spent, tell));
            let client = TcpStream::connect(addr).await.unwrap();
            client.set_zero_linger().unwrap();
            drop(client);
            assert_eq!(server.stop(PATIENCE).await.accepted, 1);
            assert_eq!(told.recv().unwrap(), io::ErrorKind::ConnectionReset, "{spent}");
        }
    });
}

/// A client that is at its end says so at once, and as often as it is asked.
#[test]
fn a_client_that_is_asked_after_its_end() {
    on_one_thread(false, async {
        let (server, connector) = in_memory(Limits::default(), Deaf);
        server.stop(PATIENCE).await;
        let asking = tokio::spawn(async move {
            let mut client = Client::new(connector, Options::default());
            loop {
                let _ = client.next().await;
            }
        });
        settle().await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
    });
}

/// Nor does a dialogue go past what is no answer.
#[test]
fn a_dialogue_that_is_asked_after_its_end() {
    on_one_thread(false, async {
        let (mut listener, connector) = Listener::memory();
        let script = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 10]).await.unwrap();
            let answer = b"\x80\0\0\x0c\0\x01\0\x10\0\0\0\0\0\x05\0\0";
            stream.write_all(&[&answer[..], b"\x97\xff\xff\xff"].concat()).await.unwrap();
            stream
        };
        let options = Options::default();
        let (dialogue, _stream) = tokio::join!(Dialogue::connect(connector, &options), script);
        let mut dialogue = dialogue.unwrap();
        let asking = tokio::spawn(async move {
            loop {
                assert!(dialogue.recv().await.is_err());
            }
        });
        settle().await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn a_client_of_datagrams_that_is_asked_after_its_end() {
    on_one_thread(false, async {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let uri = format!("udp://{}", server.local_addr().unwrap());
        for fails in [false, true] {
            let endpoint = if fails { "udp://127.0.0.1:0" } else { &uri }.parse().unwrap();
            let asking = tokio::spawn(async move {
                let mut client = DatagramClient::new(&endpoint, Options::default());
                client.finish();
                loop {
                    let _ = client.next().await;
                }
            });
            settle().await;
            asking.abort();
            assert!(asking.await.unwrap_err().is_cancelled(), "{fails}");
        }
    });
}

/// What no header can say is an error, as it is of `send`, and nothing of it is sent.
#[tokio::test]
async fn a_header_over_the_limit() {
    struct TooMuch;
    impl Handler for TooMuch {
        async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
            let header = Header { kind: Kind::ECHO, len: MAX_PAYLOAD_LEN + 1 };
            let error = connection.send_header(header).await.unwrap_err();
            assert!(matches!(error, Error::FrameTooLong { max: MAX_PAYLOAD_LEN, .. }));
            connection.send(b"fine").await
        }
    }
    let (_server, connector) = in_memory(Limits::default(), TooMuch);
    let mut client = connector.connect().await.unwrap();
    assert_eq!(read_all(&mut client).await, echo(b"fine"));
}

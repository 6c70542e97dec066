//! What goes in comes out, in whatever pieces.

use std::io::Read;
use std::sync::{Arc, Mutex};

use echo_core::client::{Client, Event};
use echo_core::tls::Policy;
use echo_core::{Connection, Endpoint, Error, Handler, Limits};

use crate::support::{Authority, Running, all, blocking, quick, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_lengths_come_back() {
    let authority = Authority::new();
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let mut client = Client::connect(running.target(), authority.options()).await.unwrap();
    for len in [0, 1, 2, 100, 16_383, 16_384, 16_385, 65_536, 1 << 20] {
        let message: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        assert_eq!(client.echo(&message).await.unwrap().payload, message, "{len}");
    }
    // All at once: both directions are full most of the time.
    let message = vec![7; 300_000];
    let mut answered = 0;
    let mut pushed = 0;
    while answered < 60 {
        while pushed < 60 && client.push(&message).is_ok() {
            pushed += 1;
        }
        if let Some(Event::Reply(_)) = client.next().await.unwrap() {
            answered += 1;
        }
    }
    client.finish();
    assert!(client.next().await.unwrap().is_none());
    let stats = running.service.stats();
    assert_eq!((stats.tls.handshakes, stats.tls.truncated, stats.tls.broken), (1, 0, 0));
    assert_eq!(running.drain().await.drained.failed, 0);
}

/// Records of one byte each, and all of a stream before anything is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_client_gets_its_bytes_back() {
    let authority = Arc::new(Authority::new());
    let running = Running::start(Policy::Detect(authority.server()), Limits::default());
    let (addr, known) = (running.addr, Arc::clone(&authority));
    blocking(move || {
        let mut stream = known.other_client(addr);
        for byte in b"hello" {
            write(&mut stream, &[*byte]);
            let mut back = [0];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, [*byte]);
        }
        let text = vec![b'x'; 100_000];
        write(&mut stream, &text);
        stream.conn.send_close_notify();
        write(&mut stream, b"");
        assert_eq!(all(&mut stream).unwrap(), text, "all of it, then close_notify");
    })
    .await;
    running.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_and_secured_share_a_port() {
    let authority = Authority::new();
    let running = Running::start(Policy::Detect(authority.server()), Limits::default());
    let plain: Endpoint = format!("tcp://{}", running.addr).parse().unwrap();
    for _ in 0..3 {
        let mut plain = Client::connect(plain.clone(), quick()).await.unwrap();
        let mut secured = Client::connect(running.target(), authority.options()).await.unwrap();
        assert_eq!(plain.echo(b"plain").await.unwrap().payload, b"plain");
        assert_eq!(secured.echo(b"secured").await.unwrap().payload, b"secured");
    }
    let addr = running.addr;
    let raw = blocking(move || {
        let stream = std::net::TcpStream::connect(addr).unwrap();
        write(&stream, b"hello\n");
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        all(stream).unwrap()
    });
    assert_eq!(raw.await, b"hello\n");
    assert_eq!(running.service.stats().tls.handshakes, 3);
    running.drain().await;
}

/// Notes what a connection knows of its channel and its peer.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Option<Known>>>);

/// The channel's binding, and the peer's certificate.
type Known = ([u8; 32], Vec<u8>);

impl Handler for Noting {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        let binding = connection.channel_binding().unwrap();
        let certificate = connection.peer_certificate().unwrap_or_default().to_vec();
        *self.0.lock().unwrap() = Some((binding, certificate));
        while let Some(message) = connection.recv().await? {
            connection.send(&message).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_know_their_channel() {
    let authority = Arc::new(Authority::new());
    let noting = Noting::default();
    let running =
        Running::with(Policy::Always(authority.server()), Limits::default(), noting.clone());
    let (addr, known) = (running.addr, Arc::clone(&authority));
    let other = blocking(move || {
        let mut stream = known.other_client(addr);
        write(&mut stream, b"\0\0\0\x01x");
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        stream.conn.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).unwrap()
    });
    let other = other.await;
    let (binding, certificate) = noting.0.lock().unwrap().take().unwrap();
    assert_eq!(binding, other);
    assert!(certificate.is_empty(), "nobody asked for one");
    running.drain().await;

    let server =
        echo_core::tls::Server::new(authority.identity(), Some(authority.trusted())).unwrap();
    let running = Running::with(Policy::Always(server), Limits::default(), noting.clone());
    let identity = authority.client_identity();
    let options = authority.options_with(Some(identity.clone()));
    let mut client = Client::connect(running.target(), options).await.unwrap();
    client.echo(b"x").await.unwrap();
    let (binding, certificate) = noting.0.lock().unwrap().take().unwrap();
    assert_eq!(certificate, identity.certificate());
    assert_ne!(binding, other, "each connection has its own");
    running.drain().await;
}

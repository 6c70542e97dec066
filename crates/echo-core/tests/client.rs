//! The client over real sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use echo_core::client::{Client, Error, Event, Family, Options};
use echo_core::{Drain, Echo, Endpoint, Limits, Listener, Mode, Report, Service, SocketOptions};
use tokio::task::JoinSet;

/// Serves `endpoint`; where that is.
async fn serve(endpoint: &str) -> (Endpoint, Drain, JoinSet<Report>) {
    let options = SocketOptions::default();
    let given: Endpoint = endpoint.parse().unwrap();
    let listener = Listener::bind(&given, &options).await.unwrap().remove(0);
    let bound = Endpoint::with_bound(endpoint, listener.local_addr()).parse().unwrap();
    let drain = Drain::new();
    let service = Service::new(Limits::default(), drain.clone());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        echo_core::serve(listener, service, Arc::new(Echo::new(Mode::Auto))).await.unwrap()
    });
    (bound, drain, serving)
}

#[tokio::test]
async fn every_address_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("socket").display());
    let name = format!("unix:@echo-core-client-{}", std::process::id());
    for endpoint in ["tcp://127.0.0.1:0", "tcp://[::1]:0", &path, &name] {
        let (endpoint, drain, mut serving) = serve(endpoint).await;
        let mut client = Client::connect(&endpoint, Options::default()).await.unwrap();
        for size in [0, 1, 300_000] {
            let payload = vec![7; size];
            assert!(client.echo(&payload).await.unwrap().payload == payload, "{endpoint}");
        }
        assert_eq!(client.probe(b"").await.unwrap().payload, b"");
        client.finish();
        assert!(client.next().await.unwrap().is_none());
        drop(client);
        drain.start(Duration::from_secs(30));
        let report = serving.join_next().await.unwrap().unwrap();
        assert_eq!((report.drained.forced, report.drained.failed), (0, 0), "{endpoint}");
    }
}

/// A client may live in a task of its own on any worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_move_between_threads() {
    let (endpoint, _drain, _serving) = serve("tcp://127.0.0.1:0").await;
    let mut clients = JoinSet::new();
    for number in 0..16u8 {
        let endpoint = endpoint.clone();
        clients.spawn(async move {
            let mut client = Client::connect(endpoint, Options::default()).await.unwrap();
            for round in 0..50u8 {
                let payload = [number, round];
                assert_eq!(client.echo(&payload).await.unwrap().payload, payload);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}

/// A name with addresses of both families, of which one is served.
#[tokio::test]
async fn a_name_is_tried_at_each_of_its_addresses() {
    let (endpoint, _drain, _serving) = serve("tcp://127.0.0.1:0").await;
    let name: Endpoint = endpoint.to_string().replace("127.0.0.1", "localhost").parse().unwrap();
    let mut client = Client::connect(&name, Options::default()).await.unwrap();
    assert_eq!(client.echo(b"hello").await.unwrap().payload, b"hello");
    let options = Options { family: Family::V4, ..Options::default() };
    Client::connect(&name, options).await.unwrap();
    let options = Options { family: Family::V6, ..Options::default() };
    let error = Client::connect(&endpoint, options).await.unwrap_err();
    assert!(matches!(error, Error::Unresolved(_)), "{error}");
}

/// What the server sent before it stopped reading is taken, and says why.
#[tokio::test]
async fn a_broken_write_is_no_end_of_reading() {
    for (last, told) in [
        (&b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\x01"[..], "the server drains: 0 of 1 frames answered"),
        (b"", "Broken pipe: 300000 bytes unanswered"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let (up, connected) = channel();
        let script = thread::spawn(move || {
            let mut stream: UnixStream = listener.accept().unwrap().0;
            stream.read_exact(&mut [0; 10]).unwrap();
            stream.shutdown(Shutdown::Read).unwrap();
            stream.write_all(b"\x80\0\0\x0c\0\x01\0\x10\0\0\0\0\0\0\0\0").unwrap();
            connected.recv().unwrap();
            stream.write_all(last).unwrap();
        });
        let endpoint: Endpoint = format!("unix:{}", path.display()).parse().unwrap();
        let mut client = Client::connect(&endpoint, Options::default()).await.unwrap();
        client.push(&[7; 300_000]).unwrap();
        up.send(()).unwrap();
        let error = loop {
            match client.next().await {
                Ok(event) => assert!(matches!(event, Some(Event::Goaway(_))), "{event:?}"),
                Err(error) => break error.to_string(),
            }
        };
        script.join().unwrap();
        assert_eq!(error, format!("closed early: {told}"));
    }
}

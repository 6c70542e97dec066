//! The accept loop: its limits, its errors and its pauses (faults 14 to 17 and 40).

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use echo_core::{
    Connection, Connector, Drain, Echo, Error, Handler, Limits, Listener, Mode, Service,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};
use tracing::span;

use crate::support::{Running, buckets, echo, expect, in_memory, read_all, settle};
use crate::{millis, secs, took};

const EBADF: i32 = 9;
const EMFILE: i32 = 24;
const ECONNABORTED: i32 = 103;

fn fail(connector: &Connector, errno: i32) {
    connector.fail(io::Error::from_raw_os_error(errno));
}

async fn is_served(connector: &Connector) {
    let mut client = connector.connect().await.unwrap();
    client.write_all(b"x").await.unwrap();
    expect(&mut client, b"x").await;
}

fn places(places: usize) -> Limits {
    Limits { max_connections: NonZeroUsize::new(places).unwrap(), ..Limits::default() }
}

/// Fault 14: descriptors run out, and come back.
#[tokio::test(start_paused = true)]
async fn exhaustion_pauses_for_10_20_and_40_ms() {
    let (server, connector) = in_memory(Limits::default(), Echo::new(Mode::Raw));
    settle().await;
    for _ in 0..2 {
        let start = Instant::now();
        (0..3).for_each(|_| fail(&connector, EMFILE));
        is_served(&connector).await;
        // After a success the pauses begin anew.
        took(start, millis(70));
        settle().await;
    }
    assert_eq!(server.service.stats().accept_exhausted, 6);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_at_most_a_second() {
    let (_server, connector) = in_memory(Limits::default(), Echo::new(Mode::Raw));
    settle().await;
    let start = Instant::now();
    (0..10).for_each(|_| fail(&connector, EMFILE));
    is_served(&connector).await;
    took(start, millis(10 + 20 + 40 + 80 + 160 + 320 + 640) + 3 * secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_interrupts_the_pause() {
    let (server, connector) = in_memory(Limits::default(), Echo::new(Mode::Raw));
    settle().await;
    (0..8).for_each(|_| fail(&connector, EMFILE));
    sleep(millis(2000)).await;
    let start = Instant::now();
    server.stop(secs(30)).await;
    took(start, secs(0));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_interrupts_the_pause() {
    let (_server, connector) = in_memory(Limits::default(), Echo::new(Mode::Raw));
    let client = connector.connect().await.unwrap();
    settle().await;
    // Of these pauses 1270 ms have passed: the next is of a second.
    (0..8).for_each(|_| fail(&connector, EMFILE));
    sleep(millis(1300)).await;
    let start = Instant::now();
    drop(client);
    is_served(&connector).await;
    took(start, secs(0));
}

/// Fault 16: what happened to one connection in the queue concerns no other.
#[tokio::test(start_paused = true)]
async fn a_connection_that_died_in_the_queue_is_passed_over() {
    let (server, connector) = in_memory(Limits::default(), Echo::new(Mode::Raw));
    settle().await;
    let start = Instant::now();
    (0..1000).for_each(|_| fail(&connector, ECONNABORTED));
    is_served(&connector).await;
    took(start, secs(0));
    assert_eq!(server.service.stats().accept_connection, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_broken_listener_drains_its_connections_and_is_an_error() {
    let service = Service::new(Limits::default(), Drain::new());
    let (listener, connector) = Listener::memory();
    let (other, to_other) = Listener::memory();
    let server = Running::start(listener, &service.child(), Echo::new(Mode::Framed));
    let _other = Running::start(other, &service.child(), Echo::new(Mode::Raw));
    let mut client = connector.connect().await.unwrap();
    client.write_all(&echo(b"a")).await.unwrap();
    settle().await;
    client.write_all(&echo(b"b")).await.unwrap();
    fail(&connector, EBADF);
    assert_eq!(read_all(&mut client).await, [echo(b"a"), echo(b"b")].concat());
    drop(client);
    let error = server.task.await.unwrap().unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(EBADF));
    assert!(error.to_string().starts_with("the listener failed: "), "{error}");
    assert_eq!((error.report.accepted, buckets(error.report.drained)), (1, [1, 0, 0, 0, 0]));
    is_served(&to_other).await;
}

/// Counts how many connections it has at once.
#[derive(Default)]
struct Counting {
    now: AtomicUsize,
    most: AtomicUsize,
    served: [AtomicUsize; 2],
}

struct CountingAt(Arc<Counting>, usize);

impl Handler for CountingAt {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        let now = self.0.now.fetch_add(1, SeqCst) + 1;
        self.0.most.fetch_max(now, SeqCst);
        let payload = connection.recv().await?;
        sleep(millis(10)).await;
        self.0.now.fetch_sub(1, SeqCst);
        self.0.served[self.1].fetch_add(1, SeqCst);
        connection.send(&payload.unwrap_or_default()).await
    }
}

/// Fault 17: at the limit the rest waits in the queues, and both listeners get their turn.
#[tokio::test(start_paused = true)]
async fn two_listeners_and_one_place() {
    let service = Service::new(places(1), Drain::new());
    let counting = Arc::new(Counting::default());
    let mut clients = tokio::task::JoinSet::new();
    for index in 0..2 {
        let (listener, connector) = Listener::memory();
        tokio::spawn({
            let (service, counting) = (service.clone(), counting.clone());
            async move {
                let handler = Arc::new(CountingAt(counting, index));
                echo_core::serve(listener, service.clone(), handler).await.unwrap();
            }
        });
        for _ in 0..50 {
            let connector = connector.clone();
            clients.spawn(async move {
                let mut client = connector.connect().await.unwrap();
                client.write_all(&echo(b"hi")).await.unwrap();
                assert_eq!(read_all(&mut client).await, echo(b"hi"));
            });
        }
    }
    let start = Instant::now();
    while counting.served[0].load(SeqCst) + counting.served[1].load(SeqCst) < 20 {
        sleep(millis(1)).await;
    }
    for served in &counting.served {
        assert!(served.load(SeqCst) > 2, "one listener starves: {:?}", counting.served);
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert!(start.elapsed() < secs(2), "{:?}", start.elapsed());
    assert_eq!(counting.most.load(SeqCst), 1);
    settle().await;
    assert_eq!(service.stats().active, 0);
}

/// An idle listener holds no place.
#[tokio::test(start_paused = true)]
async fn idle_listeners_leave_the_place_to_others() {
    let service = Service::new(places(1), Drain::new());
    let connectors: Vec<_> = (0..10)
        .map(|_| {
            let (listener, connector) = Listener::memory();
            Running::start(listener, &service, Echo::new(Mode::Raw));
            connector
        })
        .collect();
    settle().await;
    for connector in connectors.iter().chain(connectors.iter().rev()) {
        is_served(connector).await;
        settle().await;
    }
    assert_eq!(service.stats().accepted, 20);
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_lets_in_who_waits() {
    let (server, connector) = in_memory(places(1), Echo::new(Mode::Raw));
    let _first = connector.connect().await.unwrap();
    settle().await;
    let mut second = connector.connect().await.unwrap();
    second.write_all(b"x").await.unwrap();
    settle().await;
    assert_eq!((server.service.stats().active, server.service.stats().gate_full), (1, 1));
    server.service.set_limits(&places(2));
    expect(&mut second, b"x").await;
}

/// In a drain the queue is served as far as there are places; the rest is reset, and counted.
#[tokio::test(start_paused = true)]
async fn what_the_drain_has_no_place_for_is_reset_and_counted() {
    let (server, connector) = in_memory(places(2), Echo::new(Mode::Raw));
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"x").await.unwrap();
        clients.push(client);
    }
    settle().await;
    server.drain(secs(30));
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(read_all(client).await, if index < 2 { &b"x"[..] } else { b"" });
    }
    drop(clients);
    let report = server.ended().await;
    assert_eq!((report.accepted, report.drained.completed, report.reset_in_queue), (2, 2, 3));
}

struct Panicking;

impl Handler for Panicking {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        match connection.recv().await?.as_deref() {
            Some(b"panic") => std::panic::panic_any("on purpose"),
            Some(payload) => connection.send(payload).await,
            None => Ok(()),
        }
    }
}

/// Fault 40: a panic ends its own connection only, and gives its place back.
#[tokio::test(start_paused = true)]
async fn a_panic_is_counted_and_others_are_served() {
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref() != Some(&"on purpose") {
            eprintln!("{info}");
        }
    }));
    let (server, connector) = in_memory(places(1), Panicking);
    for _ in 0..20 {
        let mut client = connector.connect().await.unwrap();
        client.write_all(&echo(b"panic")).await.unwrap();
        assert!(read_all(&mut client).await.is_empty());
        let mut client = connector.connect().await.unwrap();
        client.write_all(&echo(b"fine")).await.unwrap();
        assert_eq!(read_all(&mut client).await, echo(b"fine"));
    }
    settle().await;
    assert_eq!(buckets(server.service.stats().ended), [20, 0, 0, 0, 20]);
}

#[tokio::test(start_paused = true)]
async fn dropping_serve_ends_everything() {
    let (server, connector) = in_memory(Limits::default(), Echo::new(Mode::Raw));
    let mut client = connector.connect().await.unwrap();
    settle().await;
    server.task.abort();
    assert!(read_all(&mut client).await.is_empty());
    assert!(connector.connect().await.is_err());
    settle().await;
    assert_eq!(server.service.stats().active, 0);
}

/// Counts the lines of at least this level.
struct Lines(tracing::Level, Arc<AtomicUsize>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("echo_core") && *metadata.level() <= self.0
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.1.fetch_add(1, SeqCst);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Faults 14 and 67: trouble that lasts is logged once a minute, what peers do is not.
#[tokio::test(start_paused = true)]
async fn lasting_trouble_is_logged_once_a_minute() {
    let lines = Arc::new(AtomicUsize::new(0));
    let _guard = tracing::subscriber::set_default(Lines(tracing::Level::INFO, lines.clone()));
    let (_server, connector) = in_memory(Limits::default(), Panicking);
    settle().await;
    for _ in 0..150 {
        // Where another test comes by the same line for the first time just while the subscriber is set, tracing
        // takes it that nobody wants it.
        tracing::callsite::rebuild_interest_cache();
        fail(&connector, EMFILE);
        fail(&connector, ECONNABORTED);
        let mut client = connector.connect().await.unwrap();
        client.write_all(&[0x01, 2, 3, 4]).await.unwrap();
        assert!(read_all(&mut client).await.is_empty());
        sleep(secs(1)).await;
    }
    assert_eq!(lines.load(SeqCst), 3);
}

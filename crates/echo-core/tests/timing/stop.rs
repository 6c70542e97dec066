//! The drain of a service: its deadlines, its order, and what it does to handlers.

use echo_core::{
    Connection, Drain, Echo, Error, Handler, Kind, Listener, Mode, Reason, Report, Service,
};
use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::support::{
    Running, after_hello, buckets, echo, expect, goaway, header, hello, in_memory, read_all,
    say_hello, settle,
};
use crate::{COMPLETED, FORCED, limits, millis, secs, took};

/// Never looks at its connection.
struct Stuck;

impl Handler for Stuck {
    async fn run(&self, _: &mut Connection) -> Result<(), Error> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_handler_is_aborted_at_the_deadline() {
    let (server, connector) = in_memory(limits(), Stuck);
    let mut client = connector.connect().await.unwrap();
    settle().await;
    let start = Instant::now();
    let report = server.stop(secs(4)).await;
    assert!((secs(4)..=millis(4152)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(buckets(report.drained), FORCED);
    assert!(read_all(&mut client).await.is_empty());
}

/// A second signal: whatever was agreed before.
#[tokio::test(start_paused = true)]
async fn a_cut_ends_everything_now() {
    for drained_before in [true, false] {
        let (server, connector) = in_memory(limits(), Stuck);
        let _client = connector.connect().await.unwrap();
        settle().await;
        if drained_before {
            server.drain(secs(600));
            sleep(secs(1)).await;
        }
        let start = Instant::now();
        server.service.drain().cut();
        assert_eq!(buckets(server.ended().await.drained), FORCED);
        took(start, secs(0));
    }
}

/// Out of descriptors a drain waits for some, to take in what its listener's queue holds: not after a cut, nor past
/// the deadline of a drain above it.
#[tokio::test(start_paused = true)]
async fn no_queue_keeps_a_service_that_is_cut() {
    for cut in [true, false] {
        let (listener, connector) = Listener::memory();
        let service = Service::new(limits(), Drain::new());
        let server = Running::start(listener, &service.child(), Echo::new(Mode::Raw));
        (0..500).for_each(|_| connector.fail(Errno::MFILE.into()));
        settle().await;
        server.drain(secs(600));
        sleep(millis(100)).await;
        let start = Instant::now();
        if cut {
            service.drain().cut();
        } else {
            service.drain().start(millis(50));
        }
        server.ended().await;
        assert!(start.elapsed() <= millis(62), "{cut}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_ends_only_its_own_listener() {
    let service = Service::new(limits(), Drain::new());
    let (one, to_one) = Listener::memory();
    let (other, to_other) = Listener::memory();
    let child = service.child();
    let one = Running::start(one, &child, Echo::new(Mode::Raw));
    let other = Running::start(other, &service.child(), Echo::new(Mode::Raw));
    let mut client_of_one = to_one.connect().await.unwrap();
    let mut client_of_other = to_other.connect().await.unwrap();
    settle().await;
    child.drain().start(secs(30));
    assert!(read_all(&mut client_of_one).await.is_empty());
    drop(client_of_one);
    assert_eq!(buckets(one.ended().await.drained), COMPLETED);
    assert!(to_one.connect().await.is_err());
    client_of_other.write_all(b"still served").await.unwrap();
    expect(&mut client_of_other, b"still served").await;
    service.drain().start(secs(30));
    drop(client_of_other);
    assert_eq!(buckets(other.ended().await.drained), COMPLETED);
}

/// A listener that is being drained ends with its service if that has less patience.
#[tokio::test(start_paused = true)]
async fn the_earlier_deadline_of_child_and_parent_counts() {
    for state in [header(Kind::ECHO, 100), vec![]] {
        let service = Service::new(limits(), Drain::new());
        let (listener, connector) = Listener::memory();
        let child = service.child();
        let server = if state.is_empty() {
            Running::start(listener, &child, Stuck)
        } else {
            Running::start(listener, &child, Echo::new(Mode::Framed))
        };
        let mut client = connector.connect().await.unwrap();
        client.write_all(&state).await.unwrap();
        settle().await;
        child.drain().start(secs(9));
        sleep(secs(1)).await;
        let start = Instant::now();
        service.drain().start(secs(2));
        assert_eq!(buckets(server.ended().await.drained), FORCED);
        assert!(start.elapsed() <= millis(2152), "{:?}", start.elapsed());
    }
}

/// Those who connected before `serve` was called are served, drain or not.
#[tokio::test(start_paused = true)]
async fn a_drain_before_serve() {
    let service = Service::new(limits(), Drain::new());
    let (listener, connector) = Listener::memory();
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = connector.connect().await.unwrap();
        client.write_all(&[hello(), echo(b"early")].concat()).await.unwrap();
        clients.push(client);
    }
    service.drain().start(secs(30));
    let server = Running::start(listener, &service, Echo::new(Mode::Auto));
    for mut client in clients {
        let all = read_all(&mut client).await;
        assert_eq!(after_hello(&all), [echo(b"early"), goaway(Reason::Drain, 2)].concat());
    }
    let report = server.ended().await;
    assert_eq!((report.accepted, buckets(report.drained)), (10, [10, 0, 0, 0, 0]));
    assert!(connector.connect().await.is_err());
}

/// With nobody connected there is nothing to wait for.
#[tokio::test(start_paused = true)]
async fn an_empty_drain_takes_no_time() {
    let (server, _connector) = in_memory(limits(), Echo::new(Mode::Auto));
    settle().await;
    let start = Instant::now();
    assert_eq!(server.stop(secs(30)).await, Report::default());
    took(start, secs(0));
}

/// Sends a line a second until the drain, and never reads.
struct Ticker;

impl Handler for Ticker {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        while !connection.is_draining() {
            connection.send(b"tick").await?;
            connection.flush().await?;
            sleep(secs(1)).await;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_only_sends_can_see_the_drain() {
    let (server, connector) = in_memory(limits(), Ticker);
    let mut client = connector.connect().await.unwrap();
    sleep(millis(2500)).await;
    server.drain(secs(30));
    assert_eq!(read_all(&mut client).await, echo(b"tick").repeat(3));
    drop(client);
    assert_eq!(buckets(server.ended().await.drained), COMPLETED);
}

#[tokio::test(start_paused = true)]
async fn many_in_all_states_make_up_the_sum() {
    let (server, connector) = in_memory(limits(), Echo::new(Mode::Framed));
    let mut clients = Vec::new();
    for index in 0..200 {
        let mut client = connector.connect().await.unwrap();
        if index % 3 == 0 {
            say_hello(&mut client).await;
        }
        let begun = echo(&[1; 90]);
        client.write_all(&begun[..index % 94]).await.unwrap();
        clients.push(client);
    }
    settle().await;
    clients.truncate(150);
    settle().await;
    let left = server.service.stats().active as u64;
    let report = server.stop(secs(3)).await;
    assert_eq!(report.accepted, 200);
    assert_eq!(report.drained.total(), left, "{report:?}");
    assert!(report.took <= millis(3152));
}

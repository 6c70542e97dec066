//! What can be seen of a service from outside: states, ends, service time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use echo_core::{Connection, Echo, Ending, Error, Handler, Kind, Limits, Mode, Open, Snapshot};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::support::{Running, echo, expect, header, in_memory, read_all, settle};
use crate::{limits, millis, secs};

/// What is told of each connection: its end, bytes in and out, frames, and how long it was there.
type Told = Arc<Mutex<Vec<(Ending, u64, u64, u64, Duration)>>>;

fn told(server: &Running) -> Told {
    let told = Told::default();
    let tell = Arc::clone(&told);
    server.service.on_close(move |closed| {
        let line = (closed.ending, closed.bytes_in, closed.bytes_out, closed.frames, closed.took);
        tell.lock().unwrap().push(line);
    });
    told
}

#[tokio::test(start_paused = true)]
async fn every_end_is_told_once() {
    let (server, connector) = in_memory(limits(), Echo::new(Mode::Auto));
    let told = told(&server);
    let mut completed = connector.connect().await.unwrap();
    completed.write_all(&[echo(b"one"), echo(b"two")].concat()).await.unwrap();
    sleep(secs(3)).await;
    completed.shutdown().await.unwrap();
    assert_eq!(read_all(&mut completed).await.len(), 14);
    let mut stalled = connector.connect().await.unwrap();
    stalled.write_all(&header(Kind::ECHO, 10)).await.unwrap();
    expect(&mut stalled, &header(Kind::ECHO, 10)).await;
    sleep(secs(11)).await;
    settle().await;
    let quiet = connector.connect().await.unwrap();
    let mut cut = connector.connect().await.unwrap();
    cut.write_all(&header(Kind::ECHO, 90)).await.unwrap();
    settle().await;
    server.stop(secs(2)).await;
    let told = std::mem::take(&mut *told.lock().unwrap());
    let took: Vec<_> = told.iter().map(|it| it.4.as_millis() / 10).collect();
    let told: Vec<_> = told.into_iter().map(|it| (it.0, it.1, it.2, it.3)).collect();
    assert_eq!(told[0], (Ending::Completed, 14, 14, 2));
    assert_eq!(told[1], (Ending::Failed, 4, 4, 0));
    assert_eq!((took[0], took[1]), (300, 1000));
    let mut rest = told[2..].to_vec();
    rest.sort_by_key(|it| it.1);
    assert_eq!(rest, [(Ending::Quiet, 0, 0, 0), (Ending::Forced, 4, 4, 0)]);
    drop((quiet, cut));
}

struct Panicking;

impl Handler for Panicking {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.recv().await?;
        std::panic::resume_unwind(Box::new("on purpose, without a word"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_an_abort_are_told_too() {
    let (server, connector) = in_memory(limits(), Panicking);
    let told = told(&server);
    let mut client = connector.connect().await.unwrap();
    client.write_all(&echo(b"panic")).await.unwrap();
    assert!(read_all(&mut client).await.is_empty());
    let aborted = connector.connect().await.unwrap();
    settle().await;
    server.task.abort();
    settle().await;
    let endings: Vec<_> = told.lock().unwrap().iter().map(|it| it.0).collect();
    assert_eq!(endings, [Ending::Panicked, Ending::Forced]);
    drop(aborted);
}

/// Every connection is counted under one state, from its accept to its end.
#[tokio::test(start_paused = true)]
async fn a_connection_is_in_one_state() {
    let (server, connector) = in_memory(limits(), Echo::new(Mode::Auto));
    let open = || {
        let listeners = server.service.listeners();
        let Open { undecided, raw, framed, closing, .. } = listeners[0].open;
        [undecided, raw, framed, closing]
    };
    let mut framed = connector.connect().await.unwrap();
    settle().await;
    assert_eq!(open(), [1, 0, 0, 0]);
    framed.write_all(&header(Kind::ECHO, 0)).await.unwrap();
    let mut raw = connector.connect().await.unwrap();
    raw.write_all(b"raw").await.unwrap();
    settle().await;
    assert_eq!(open(), [0, 1, 1, 0]);
    // A kind that has no place: FIN, and then the wait for the peer's end.
    framed.write_all(&[1, 0, 0, 0]).await.unwrap();
    settle().await;
    assert_eq!(open(), [0, 1, 0, 1]);
    drop((framed, raw));
    settle().await;
    assert_eq!(open(), [0; 4]);
    assert_eq!(server.service.listeners()[0].accepted, 2);
}

/// Takes 3 ms for each message.
struct Slow;

impl Handler for Slow {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        while let Some(message) = connection.recv().await? {
            sleep(millis(3)).await;
            connection.send(&message).await?;
        }
        Ok(())
    }
}

/// From the read to the write; of one turn in 61, the first one among them.
#[tokio::test(start_paused = true)]
async fn service_time_is_what_the_handler_takes() {
    let (server, connector) = in_memory(Limits::default(), Slow);
    let mut client = connector.connect().await.unwrap();
    for _ in 0..61 * 2 {
        client.write_all(&echo(b"x")).await.unwrap();
        expect(&mut client, &echo(b"x")).await;
        sleep(millis(100)).await;
    }
    let times = server.service.stats().service_time;
    let within = |bound| times.at_most().find(|it| it.0 == bound).map(|it| it.1);
    assert_eq!((within(millis(2)), within(millis(5)), times.count()), (Some(0), Some(2), 2));
    assert!(times.sum >= millis(6) && times.sum <= millis(10), "{:?}", times.sum);
}

/// Each bound that a connection runs into is counted once, under its own name.
#[tokio::test(start_paused = true)]
async fn every_bound_has_its_counter() {
    type Count = fn(&Snapshot) -> u64;
    let flood = echo(&[7; 100]).repeat(4000);
    let cases: [(&str, Vec<u8>, Duration, Count); 8] = [
        ("frame length", header(Kind::ECHO, 101), millis(1), |it| it.too_long),
        ("control length", header(Kind::HELLO, 5000), millis(1), |it| it.control_too_long),
        ("idle", vec![], secs(601), |it| it.idle),
        ("frame time", vec![0], secs(11), |it| it.frame_timeouts),
        ("write time", flood.clone(), secs(200), |it| it.write_timeouts),
        ("write buffer", flood.clone(), secs(1), |it| it.writes_blocked),
        ("linger", vec![1, 0, 0, 0], secs(6), |it| it.linger_timeouts),
        ("drain", header(Kind::ECHO, 90), secs(1), |it| it.drain_timeouts),
    ];
    for (name, sent, wait, count) in cases {
        let (server, connector) = in_memory(limits(), Echo::new(Mode::Framed));
        let mut client = connector.connect().await.unwrap();
        assert_eq!(count(&server.service.stats()), 0, "{name}");
        let writing = tokio::time::timeout(wait, client.write_all(&sent)).await;
        assert!(writing.is_ok() || sent.len() > 1000, "{name}");
        sleep(wait).await;
        let service = server.service.clone();
        if name == "drain" {
            server.drain(secs(2));
            sleep(secs(3)).await;
        }
        assert_eq!(count(&service.stats()), 1, "{name}: {:?}", service.stats());
        drop(client);
        server.stop(secs(30)).await;
    }
}

/// Over the limit, where it is to be refused: counted as such, and out of time after a second.
#[tokio::test(start_paused = true)]
async fn the_refused_are_counted_and_have_a_second() {
    let one = std::num::NonZeroUsize::MIN;
    let limits = Limits { max_connections: one, refuse: true, ..limits() };
    let (server, connector) = in_memory(limits, Echo::new(Mode::Auto));
    let mut open = connector.connect().await.unwrap();
    open.write_all(b"open").await.unwrap();
    expect(&mut open, b"open").await;
    let mut silent = connector.connect().await.unwrap();
    let began = tokio::time::Instant::now();
    assert!(read_all(&mut silent).await.is_empty());
    crate::took(began, secs(1));
    let mut asks = connector.connect().await.unwrap();
    asks.write_all(&crate::support::hello()).await.unwrap();
    let told = read_all(&mut asks).await;
    assert_eq!((told[0], &told[4..7]), (0x82, &[0, 4, 1][..]), "{told:02x?}");
    let stats = server.service.stats();
    assert_eq!((stats.busy, stats.gate_full, stats.accepted, stats.ended.failed), (2, 1, 3, 1));
    drop((open, silent, asks));
    server.stop(secs(30)).await;
}

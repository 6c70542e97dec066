//! One absolute deadline for each wait: no byte that trickles in moves it.

use std::num::NonZeroU32;
use std::time::Duration;

use echo_core::{Connection, Echo, Error, Handler, Kind, Limits, Mode, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

use crate::support::{
    buckets, echo, expect, goaway, header, hello, in_memory, read_all, say_hello, settle,
};
use crate::{millis, secs, took};

/// 10 s for a frame and its bytes at 1 KiB/s, like the defaults; written out, as the tests count on
/// it.
fn limits() -> Limits {
    Limits {
        idle_timeout: secs(600),
        frame_timeout: secs(10),
        write_timeout: secs(10),
        min_rate: NonZeroU32::new(1024).unwrap(),
        linger: secs(5),
        ..Limits::default()
    }
}

/// Sends one byte a second until the server closes; the time when it does.
async fn trickle(stream: &mut DuplexStream, byte: u8) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut got = Vec::new();
    let write = async {
        while writer.write_all(&[byte]).await.is_ok() {
            sleep(secs(1)).await;
        }
    };
    tokio::select! {
        _ = reader.read_to_end(&mut got) => {}
        () = write => {}
    }
    got
}

#[tokio::test(start_paused = true)]
async fn idle_ends_with_goaway_for_hello_and_fin_for_others() {
    for greeted in [true, false] {
        let (server, connector) = in_memory(limits(), Echo::new(Mode::Framed));
        let mut client = connector.connect().await.unwrap();
        sleep(secs(100)).await;
        if greeted {
            say_hello(&mut client).await;
        } else {
            client.write_all(&echo(b"a")).await.unwrap();
            expect(&mut client, &echo(b"a")).await;
        }
        let start = Instant::now();
        let rest = read_all(&mut client).await;
        took(start, secs(600));
        assert_eq!(rest, if greeted { goaway(Reason::Idle, 1) } else { vec![] });
        drop(client);
        settle().await;
        assert_eq!(buckets(server.service.stats().ended), [1, 0, 0, 0, 0]);
        assert_eq!(server.service.stats().idle, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn raw_traffic_renews_idleness() {
    let (_server, connector) = in_memory(limits(), Echo::new(Mode::Raw));
    let mut client = connector.connect().await.unwrap();
    for _ in 0..5 {
        sleep(secs(599)).await;
        client.write_all(b"x").await.unwrap();
        expect(&mut client, b"x").await;
    }
    let start = Instant::now();
    assert!(read_all(&mut client).await.is_empty());
    took(start, secs(600));
}

/// Fault 7: one byte a second in a header.
#[tokio::test(start_paused = true)]
async fn a_trickled_header_has_its_base_time() {
    for mode in [Mode::Framed, Mode::Auto] {
        // Half a second a byte would be a frame; none is complete within ten.
        let (server, connector) = in_memory(limits(), Echo::new(mode));
        let mut client = connector.connect().await.unwrap();
        sleep(secs(50)).await;
        client.write_all(&[0]).await.unwrap();
        let start = Instant::now();
        sleep(secs(4)).await;
        client.write_all(&[0]).await.unwrap();
        sleep(secs(5)).await;
        client.write_all(&[0]).await.unwrap();
        assert!(read_all(&mut client).await.is_empty(), "undecided bytes are not answered");
        took(start, secs(10));
        drop(client);
        settle().await;
        assert_eq!(server.service.stats().frame_timeouts, 1);
        assert_eq!(buckets(server.service.stats().ended), [0, 0, 0, 1, 0]);
    }
}

/// The header after a long frame has no more time than any other.
#[tokio::test(start_paused = true)]
async fn a_long_frame_before_gives_a_header_no_time() {
    let (_server, connector) = in_memory(limits(), Echo::new(Mode::Framed));
    let mut client = connector.connect().await.unwrap();
    let long = echo(&[7; 60_000]);
    client.write_all(&long).await.unwrap();
    expect(&mut client, &long).await;
    client.write_all(&[0, 0]).await.unwrap();
    let start = Instant::now();
    assert!(read_all(&mut client).await.is_empty());
    took(start, secs(10));
}

/// Fault 7: one byte a second in a payload that passes through, is collected, or is discarded.
#[tokio::test(start_paused = true)]
async fn a_trickled_payload_has_its_base_time_and_its_bytes_at_the_slowest_rate() {
    let limits = Limits { max_frame: 100 << 10, ..limits() };
    for (kind, len, greeted) in [
        (Kind::ECHO, 100 << 10, false),
        (Kind::ECHO, 100 << 10, true),
        (Kind::ECHO, 200 << 10, true),
        (Kind::PROBE, 50 << 10, false),
        (Kind::HELLO, 4 << 10, true),
        (Kind::HELLO, 4097, true),
    ] {
        let (server, connector) = in_memory(limits.clone(), Echo::new(Mode::Framed));
        let mut client = connector.connect().await.unwrap();
        if greeted {
            say_hello(&mut client).await;
        }
        sleep(secs(7)).await;
        client.write_all(&header(kind, len)).await.unwrap();
        let start = Instant::now();
        let got = trickle(&mut client, 0).await;
        took(start, secs(10) + Duration::from_millis(len as u64 * 1000 / 1024));
        let passed = kind == Kind::PROBE || len == 100 << 10;
        let end = goaway(Reason::Stalled, if len == 200 << 10 || len == 4097 { 2 } else { 1 });
        assert_eq!(got.ends_with(&end), greeted && !passed, "{kind:?} {len}: {got:02x?}");
        drop(client);
        sleep(millis(1)).await;
        assert_eq!(server.service.stats().frame_timeouts, 1);
        assert_eq!(buckets(server.service.stats().ended), [0, 0, 0, 1, 0]);
    }
}

/// A frame that comes at just more than the slowest rate is not a stall (fault 21).
#[tokio::test(start_paused = true)]
async fn a_slow_frame_that_keeps_the_rate_passes() {
    let (_server, connector) = in_memory(limits(), Echo::new(Mode::Framed));
    let mut client = connector.connect().await.unwrap();
    let sent = echo(&[1; 64 << 10]);
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let write = async {
        for chunk in sent.chunks(1024) {
            writer.write_all(chunk).await.unwrap();
            sleep(millis(1100)).await;
        }
    };
    let read = async { expect(&mut reader, &sent).await };
    tokio::join!(write, read);
}

/// Fault 9: a peer that never reads ends after the write timeout; what it sends is not taken in.
#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_cut_after_the_write_timeout() {
    for mode in [Mode::Raw, Mode::Framed] {
        let (server, connector) = in_memory(limits(), Echo::new(mode));
        let mut client = connector.connect().await.unwrap();
        let start = Instant::now();
        let flood = echo(&[0; 1020]);
        let mut sent = 0;
        while client.write_all(&flood).await.is_ok() {
            sent += flood.len();
        }
        // The stream in memory holds 64 KiB each way, and the connection as much again.
        assert!((128 << 10..=256 << 10).contains(&sent), "took in {sent}");
        assert!(start.elapsed() >= secs(10) && start.elapsed() <= secs(74) + millis(2));
        settle().await;
        assert_eq!(server.service.stats().write_timeouts, 1);
        assert_eq!(buckets(server.service.stats().ended), [0, 0, 0, 1, 0]);
    }
}

/// Fault 10: reading one byte a second does not move the deadline of what is unwritten.
#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_a_byte_a_second_is_cut() {
    let (server, connector) = in_memory(limits(), Echo::new(Mode::Raw));
    let client = connector.connect().await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(client);
    let start = Instant::now();
    let flood = async { while writer.write_all(&[0; 1024]).await.is_ok() {} };
    let sip = async {
        while reader.read_u8().await.is_ok() {
            sleep(secs(1)).await;
        }
    };
    tokio::select! {
        () = flood => {}
        () = sip => {}
    }
    assert!(start.elapsed() <= secs(75), "{:?}", start.elapsed());
    settle().await;
    assert_eq!(server.service.stats().write_timeouts, 1);
}

/// Fills both directions so that the server is blocked in a write, with the start of another frame
/// read already, and leaves it so for 15 s: longer than the frame may take, not the write.
#[tokio::test(start_paused = true)]
async fn the_time_blocked_in_writing_is_not_the_frames() {
    let (server, connector) = in_memory(limits(), Echo::new(Mode::Framed));
    let mut client = connector.connect().await.unwrap();
    let full = echo(&[3; (64 << 10) - 4]);
    // The first fills what the client does not read. Of the second the server reads 64 KiB - 50
    // and the first 50 bytes of the third, which then has 50 to come.
    let mut sent = full.clone();
    sent.extend(echo(&[4; (64 << 10) - 54]));
    let third = echo(&[5; 96]);
    sent.extend_from_slice(&third[..50]);
    client.write_all(&sent).await.unwrap();
    settle().await;
    sleep(secs(15)).await;
    expect(&mut client, &sent).await;
    settle().await;
    sleep(secs(5)).await;
    client.write_all(&third[50..]).await.unwrap();
    expect(&mut client, &third[50..]).await;
    assert_eq!(server.service.stats().frame_timeouts, 0);
}

/// The peer was not idle while it read.
#[tokio::test(start_paused = true)]
async fn the_time_blocked_in_writing_is_not_idleness() {
    let (server, connector) =
        in_memory(Limits { idle_timeout: secs(5), ..limits() }, Echo::new(Mode::Raw));
    let mut client = connector.connect().await.unwrap();
    let sent = vec![1; 100 << 10];
    client.write_all(&sent).await.unwrap();
    settle().await;
    sleep(secs(7)).await;
    expect(&mut client, &sent).await;
    let start = Instant::now();
    settle().await;
    sleep(secs(3)).await;
    client.write_all(b"still here").await.unwrap();
    expect(&mut client, b"still here").await;
    took(start, secs(3));
    assert_eq!(server.service.stats().idle, 0);
}

/// Works on each frame for a while before it answers.
struct Worker(Duration);

impl Handler for Worker {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        while let Some(payload) = connection.recv().await? {
            sleep(self.0).await;
            connection.send(&payload).await?;
        }
        Ok(())
    }
}

/// A timer that went off while the handler waited for something else is armed again.
#[tokio::test(start_paused = true)]
async fn idleness_is_seen_after_a_handlers_own_wait() {
    let (_server, connector) = in_memory(limits(), Worker(secs(20)));
    let mut client = connector.connect().await.unwrap();
    sleep(secs(590)).await;
    client.write_all(&echo(b"a")).await.unwrap();
    expect(&mut client, &echo(b"a")).await;
    let start = Instant::now();
    let end = tokio::time::timeout(secs(6000), read_all(&mut client)).await;
    assert!(end.is_ok(), "still open after {:?}", start.elapsed());
}

/// Who waits for a slow answer is not idle.
#[tokio::test(start_paused = true)]
async fn a_handlers_work_is_not_the_peers_idleness() {
    let (server, connector) = in_memory(limits(), Worker(secs(700)));
    let mut client = connector.connect().await.unwrap();
    for _ in 0..3 {
        client.write_all(&echo(b"a")).await.unwrap();
        expect(&mut client, &echo(b"a")).await;
        settle().await;
        sleep(secs(100)).await;
    }
    assert_eq!(server.service.stats().idle, 0);
}

/// Limits swapped while running are seen at the next wait.
#[tokio::test(start_paused = true)]
async fn swapped_limits_count_from_the_next_wait() {
    let (server, connector) = in_memory(limits(), Echo::new(Mode::Framed));
    let mut client = connector.connect().await.unwrap();
    say_hello(&mut client).await;
    server.service.set_limits(&Limits {
        idle_timeout: secs(5),
        max_frame: 3,
        linger: secs(1),
        ..limits()
    });
    client.write_all(&[echo(b"abc"), echo(b"abcd")].concat()).await.unwrap();
    expect(&mut client, &echo(b"abc")).await;
    let start = Instant::now();
    let rest = read_all(&mut client).await;
    took(start, secs(5));
    assert_eq!(rest[0], Kind::ERROR.0);
    assert!(rest.ends_with(&goaway(Reason::Idle, 3)));
    // The linger is the new one as well.
    let start = Instant::now();
    while server.service.stats().active > 0 {
        sleep(millis(1)).await;
    }
    took(start, secs(1));
    client.write_all(&hello()).await.unwrap_err();
}

/// Ends at once, whatever its peer does.
struct Curt;

impl Handler for Curt {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.send(b"bye").await
    }
}

#[tokio::test(start_paused = true)]
async fn a_linger_ends_with_the_peer_or_in_time() {
    // The peer closes.
    let (server, connector) = in_memory(limits(), Curt);
    let mut client = connector.connect().await.unwrap();
    assert_eq!(read_all(&mut client).await, echo(b"bye"));
    drop(client);
    settle().await;
    assert_eq!(buckets(server.service.stats().ended), [1, 0, 0, 0, 0]);

    // It never closes, and is silent.
    let start = Instant::now();
    let mut client = connector.connect().await.unwrap();
    assert_eq!(read_all(&mut client).await, echo(b"bye"));
    while server.service.stats().active > 0 {
        sleep(millis(1)).await;
    }
    took(start, secs(5));
    assert_eq!(buckets(server.service.stats().ended), [1, 1, 0, 0, 0]);

    // It never stops sending: fault 7, the linger is not renewed.
    let start = Instant::now();
    let mut client = connector.connect().await.unwrap();
    while client.write_all(b"more").await.is_ok() {
        sleep(millis(100)).await;
    }
    assert!(start.elapsed() <= secs(5) + millis(101), "{:?}", start.elapsed());
    settle().await;
    assert_eq!(buckets(server.service.stats().ended), [1, 1, 1, 0, 0]);
}

/// The time that a handler works is not the peer's: its write deadline starts when the peer first
/// lets us wait.
#[tokio::test(start_paused = true)]
async fn a_handlers_work_is_not_the_peers_reading() {
    struct Slow;
    impl Handler for Slow {
        async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
            while connection.recv().await?.is_some() {
                sleep(secs(3600)).await;
                // More than a stream in memory takes.
                connection.send(&vec![7; 200_000]).await?;
            }
            Ok(())
        }
    }
    let (server, connector) = in_memory(limits(), Slow);
    let mut client = connector.connect().await.unwrap();
    client.write_all(&echo(b"a")).await.unwrap();
    sleep(secs(3601)).await;
    expect(&mut client, &echo(&vec![7; 200_000])).await;
    assert_eq!(server.service.stats().write_timeouts, 0);
}

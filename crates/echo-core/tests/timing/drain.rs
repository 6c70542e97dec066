//! The drain, for a connection in each state: what it still gets, how long that takes, and in which
//! bucket it ends (fault 79).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use echo_core::{Echo, Kind, Mode, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

use crate::support::{
    Running, after_hello, buckets, echo, frames, goaway, header, hello, in_memory, read_all, settle,
};
use crate::{COMPLETED, FAILED, FORCED, QUIET, limits, millis, secs, took};

/// A framed service and a client that has sent `sent`, all of which the server has taken in.
async fn client_that_sent(mode: Mode, sent: &[u8]) -> (Running, DuplexStream) {
    let (server, connector) = in_memory(limits(), Echo::new(mode));
    let mut client = connector.connect().await.unwrap();
    client.write_all(sent).await.unwrap();
    settle().await;
    (server, client)
}

#[tokio::test(start_paused = true)]
async fn between_frames_it_ends_at_once() {
    for (mode, sent, rest) in [
        (Mode::Raw, vec![], vec![]),
        (Mode::Auto, vec![], vec![]),
        (Mode::Framed, vec![], vec![]),
        (Mode::Auto, b"text".to_vec(), b"text".to_vec()),
        (Mode::Framed, echo(b"a"), echo(b"a")),
        // One to three bytes of a header are no frame, nor do they decide a mode.
        (Mode::Auto, vec![0, 0, 0], vec![]),
        (Mode::Framed, vec![0x83], vec![]),
        (Mode::Framed, [echo(b"a"), vec![0, 0]].concat(), echo(b"a")),
    ] {
        let (server, mut client) = client_that_sent(mode, &sent).await;
        let start = Instant::now();
        server.drain(secs(30));
        assert_eq!(read_all(&mut client).await, rest, "{mode:?} {sent:?}");
        drop(client);
        let report = server.ended().await;
        took(start, secs(0));
        assert_eq!((buckets(report.drained), report.took), (COMPLETED, secs(0)));
    }
}

#[tokio::test(start_paused = true)]
async fn goaway_counts_every_frame_that_was_answered() {
    let probe = [header(Kind::PROBE, 40), vec![1; 40]].concat();
    let too_long = [header(Kind::ECHO, 101), vec![1; 101]].concat();
    for (sent, answered) in [
        (hello(), 1),
        ([hello(), hello()].concat(), 2),
        ([echo(b""), echo(b"a"), hello(), probe.clone()].concat(), 4),
        ([hello(), too_long.clone(), echo(b"a")].concat(), 3),
        ([hello(), too_long, probe, header(Kind::PROBE, 3), vec![0; 3], vec![0, 0, 0]].concat(), 4),
    ] {
        let (server, mut client) = client_that_sent(Mode::Framed, &sent).await;
        server.drain(secs(30));
        let all = read_all(&mut client).await;
        assert!(all.ends_with(&goaway(Reason::Drain, answered)), "{sent:02x?}: {all:02x?}");
        assert_eq!(frames(&all).len() as u64, answered + 1);
        drop(client);
        assert_eq!(buckets(server.ended().await.drained), COMPLETED);
    }
}

/// What had arrived is answered although the server has read none of it.
#[tokio::test(start_paused = true)]
async fn what_had_arrived_is_answered() {
    for mode in [Mode::Raw, Mode::Auto, Mode::Framed] {
        let (server, mut client) = client_that_sent(mode, &echo(b"first")).await;
        let burst: Vec<u8> = (0..3000).flat_map(|_| echo(b"burst")).collect();
        client.write_all(&burst).await.unwrap();
        server.drain(secs(30));
        let all = read_all(&mut client).await;
        assert!(all == [echo(b"first"), burst].concat(), "{} came", all.len());
        drop(client);
        assert_eq!(buckets(server.ended().await.drained), COMPLETED);
    }
}

/// Inside a frame exactly the rest of it is read: it may finish, what follows is not begun.
#[tokio::test(start_paused = true)]
async fn a_frame_under_way_may_finish() {
    let hello_6 = [&header(Kind::HELLO, 6)[..], &[0, 1, 0, 0, 0, 0]].concat();
    let probe = [header(Kind::PROBE, 64), vec![1; 64]].concat();
    for (begun, at, answered) in [
        (echo(b"payload"), 4, 2),
        (echo(b"payload"), 8, 2),
        ([header(Kind::ECHO, 500), vec![1; 500]].concat(), 4, 2),
        ([header(Kind::ECHO, 500), vec![1; 500]].concat(), 300, 2),
        (hello_6.clone(), 4, 2),
        (hello_6, 9, 2),
        (probe.clone(), 4, 2),
        (probe.clone(), 20, 2),
        (probe, 50, 2),
        ([header(Kind::PROBE, 3), vec![1; 3]].concat(), 5, 2),
    ] {
        let sent = [hello(), begun[..at].to_vec()].concat();
        let (server, mut client) = client_that_sent(Mode::Framed, &sent).await;
        let start = Instant::now();
        server.drain(secs(30));
        sleep(secs(4)).await;
        let more = [&begun[at..], &echo(b"too late")].concat();
        client.write_all(&more).await.unwrap();
        let all = read_all(&mut client).await;
        let rest = after_hello(&all);
        assert!(rest.ends_with(&goaway(Reason::Drain, answered)), "{begun:02x?}: {rest:02x?}");
        assert_eq!(frames(rest).len(), 2, "{rest:02x?}");
        took(start, secs(4));
        drop(client);
        assert_eq!(buckets(server.ended().await.drained), COMPLETED);
    }
}

/// A frame under way that never finishes ends by its own deadline, or at the drain's.
#[tokio::test(start_paused = true)]
async fn a_frame_under_way_that_stalls() {
    let over_long = header(Kind::ECHO, 1024);
    for (begun, deadline, time, bucket, end) in [
        // Part of it went out: reset, nothing more is said.
        (header(Kind::ECHO, 50), secs(60), millis(10_048), FAILED, header(Kind::ECHO, 50)),
        (header(Kind::ECHO, 50), secs(3), secs(3), FORCED, header(Kind::ECHO, 50)),
        // Nothing of it went out.
        (header(Kind::HELLO, 6), secs(60), millis(10_005), FAILED, goaway(Reason::Stalled, 1)),
        (header(Kind::HELLO, 6), secs(3), secs(3), FORCED, vec![]),
        (over_long.clone(), secs(60), secs(11), FAILED, goaway(Reason::Stalled, 2)),
        (over_long, secs(3), secs(3), FORCED, vec![]),
    ] {
        let sent = [hello(), begun.clone()].concat();
        let (server, mut client) = client_that_sent(Mode::Framed, &sent).await;
        let start = Instant::now();
        server.drain(deadline);
        let all = read_all(&mut client).await;
        took(start, time);
        assert!(after_hello(&all).ends_with(&end), "{begun:02x?}: {all:02x?}");
        drop(client);
        let report = server.ended().await;
        assert_eq!(buckets(report.drained), bucket, "{begun:02x?} {deadline:?}");
    }
}

/// A peer whose replies are blocked gets them all if it reads them before the deadline.
#[tokio::test(start_paused = true)]
async fn blocked_in_a_write() {
    for mode in [Mode::Raw, Mode::Framed] {
        for patient in [true, false] {
            let sent: Vec<u8> = (0..1000).flat_map(|_| echo(&[7; 96])).collect();
            let (server, mut client) = client_that_sent(mode, &sent).await;
            let start = Instant::now();
            server.drain(secs(8));
            if patient {
                sleep(secs(6)).await;
                assert!(read_all(&mut client).await == sent, "{mode:?}: replies are missing");
                took(start, secs(6));
                drop(client);
                assert_eq!(buckets(server.ended().await.drained), COMPLETED);
            } else {
                assert_eq!(buckets(server.ended().await.drained), FORCED);
                took(start, secs(8));
            }
        }
    }
}

/// Who does not close after our FIN is waited for; who goes on sending is cut.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_close() {
    for (deadline, sends, time, bucket) in [
        (secs(30), false, secs(5), QUIET),
        (secs(2), false, secs(2), QUIET),
        (secs(30), true, secs(5), FORCED),
        (secs(2), true, secs(2), FORCED),
    ] {
        let (server, mut client) = client_that_sent(Mode::Framed, &echo(b"a")).await;
        let start = Instant::now();
        server.drain(deadline);
        assert_eq!(read_all(&mut client).await, echo(b"a"));
        let ended = tokio::spawn(async move { (server.ended().await, start.elapsed()) });
        while sends && client.write_all(b"past the end").await.is_ok() {
            sleep(millis(10)).await;
        }
        let (report, elapsed) = ended.await.unwrap();
        assert_eq!(buckets(report.drained), bucket, "{deadline:?} {sends}");
        assert!(elapsed >= time && elapsed <= time + millis(2), "{elapsed:?}");
        assert!(report.took >= time && report.took <= time + millis(2), "{report:?}");
    }
}

/// The drain neither prolongs a linger nor begins it anew.
#[tokio::test(start_paused = true)]
async fn in_linger_already() {
    for (deadline, time) in [(secs(30), secs(5)), (millis(500), millis(3500))] {
        let (server, mut client) = client_that_sent(Mode::Framed, &[0x01, 0, 0, 0]).await;
        let start = Instant::now();
        assert!(read_all(&mut client).await.is_empty());
        sleep(secs(3)).await;
        let report = server.stop(deadline).await;
        took(start, time);
        assert_eq!(buckets(report.drained), FAILED, "it broke the protocol before");
    }
}

/// A sender that never pauses cannot hold the drain up: the last pass is bounded.
#[tokio::test(start_paused = true)]
async fn a_sender_that_never_pauses() {
    for mode in [Mode::Raw, Mode::Framed] {
        let (server, client) = client_that_sent(mode, &[]).await;
        let (mut reader, mut writer) = tokio::io::split(client);
        // Paused time moves only when everybody waits, so the flood ebbs once the stream has ended.
        let ended = Arc::new(AtomicBool::new(false));
        let ebbs = ended.clone();
        let flood = tokio::spawn(async move {
            let frame = echo(&[9; 96]);
            let mut sent = 0;
            while writer.write_all(&frame).await.is_ok() {
                sent += frame.len();
                if ebbs.load(SeqCst) {
                    sleep(millis(1)).await;
                }
            }
            sent
        });
        let mut got = vec![0; 1 << 20];
        reader.read_exact(&mut got).await.unwrap();
        let start = Instant::now();
        server.drain(secs(30));
        let rest = read_all(&mut reader).await;
        took(start, secs(0));
        ended.store(true, SeqCst);
        assert!(rest.len() < 2 << 20, "{} bytes after the drain's start", rest.len());
        if mode == Mode::Framed {
            got.extend(rest);
            frames(&got);
        }
        let report = server.ended().await;
        assert_eq!(buckets(report.drained), FORCED, "it sends past our FIN");
        took(start, secs(5));
        assert!(flood.await.unwrap() > 1 << 20);
    }
}

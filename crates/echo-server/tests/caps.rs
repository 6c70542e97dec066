//! The bounds on how many, and the greeting.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::time::{Duration, Instant};

use support::Server;
use support::process::{descriptors, eventually, ticks};
use support::traffic::*;

const TCP: &str = "--listen=tcp://127.0.0.1:0";

/// Long enough for a server that would answer, short enough for a test.
const A_WHILE: Duration = Duration::from_millis(300);

/// Fault 17: at the cap the kernel's queue holds, and whoever waits there is served next.
#[test]
fn connections_beyond_the_cap_wait_in_the_queue() {
    let mut server = Server::start(&[TCP, "--max-connections=2"]);
    let uri = server.uris()[0].clone();
    let mut open = [Peer::connect(&uri), Peer::connect(&uri)];
    open.iter().for_each(|peer| peer.round_trip(b"open"));
    let waiting: Vec<_> = (0..10).map(|_| Peer::connect(&uri)).collect();
    waiting.iter().for_each(|peer| peer.send(b"waiting"));
    assert!(waiting.iter().all(|peer| peer.is_silent_for(A_WHILE / 10)), "beyond the cap");
    open.iter().for_each(|peer| peer.round_trip(b"still open"));
    for next in waiting {
        open.rotate_left(1);
        open[0] = next;
        assert_eq!(open[0].read_exact(7).as_deref(), Some(&b"waiting"[..]));
    }
    drop(open);
    assert_eq!(server.stop(), Some(0));
}

/// Those that wait beyond the cap when the drain comes are reset, not forgotten: the server ends.
#[test]
fn a_drain_at_the_cap_ends() {
    let mut server = Server::start(&[TCP, "--max-connections=1", "--drain-timeout=10min"]);
    let open = Peer::connect(&server.uris()[0]);
    open.round_trip(b"open");
    let waiting = Peer::connect(&server.uris()[0]);
    waiting.send(b"waiting");
    server.signal(support::Signal::TERM);
    assert_eq!(open.read_to_end(), (Vec::new(), End::Fin));
    drop(open);
    let (got, end) = waiting.read_to_end();
    assert!(got == b"waiting" && end == End::Fin || got.is_empty() && end == End::Reset);
    drop(waiting);
    assert_eq!(server.wait(support::PATIENCE).code(), Some(0));
}

/// Fault 18: a source has its share. Loopback is spared unless the limit is set.
#[test]
fn a_source_has_a_share() {
    let directory = tempfile::tempdir().unwrap();
    let unix = format!("--listen=unix:{}/echo", directory.path().display());
    let mut server = Server::start(&[TCP, &unix, "--max-per-source=3"]);
    let uri = server.uris()[0].clone();
    let mut open: Vec<_> = (0..3).map(|_| Peer::connect(&uri)).collect();
    open.iter().for_each(|peer| peer.round_trip(b"open"));
    for _ in 0..5 {
        let beyond = Peer::connect(&uri);
        let _ = beyond.try_send(b"beyond");
        let (got, _) = beyond.read_to_end();
        assert_eq!(got, b"", "beyond the share");
    }
    let local: Vec<_> = (0..5).map(|_| Peer::connect(&server.uris()[1])).collect();
    local.iter().for_each(|peer| peer.round_trip(b"a Unix peer has no source"));
    drop(open.pop());
    eventually("the place is free again", || {
        let peer = Peer::connect(&uri);
        peer.try_send(b"next").is_ok() && peer.read_exact(4).as_deref() == Some(b"next")
    });
    open.iter().for_each(|peer| peer.round_trip(b"still open"));
    drop((open, local));
    assert_eq!(server.stop(), Some(0));
}

/// The greeting is for people: raw connections get it as a line, HELLO clients in the answer, and
/// nobody else.
#[test]
fn the_greeting_is_a_line_in_raw_mode() {
    let raw = "--listen=tcp://127.0.0.1:0?mode=raw";
    let framed = "--listen=tcp://127.0.0.1:0?mode=framed";
    let mut server = Server::start(&[raw, framed, TCP, "--greeting=good day"]);
    let uris = server.uris().to_vec();
    let line = Peer::connect(&uris[0]).read_exact(9).expect("a line");
    assert_eq!((&line[..8], line[8] == b'\n' || line[8] == b'\r'), (&b"good day"[..], true));
    let (got, end) = exchange(&uris[0], b"text");
    assert!(got.starts_with(b"good day") && got.ends_with(b"\ntext"), "{}", got.escape_ascii());
    assert_eq!(end, End::Fin);
    for uri in &uris[1..] {
        assert_eq!(exchange(uri, &echo(b"frame")), (echo(b"frame"), End::Fin));
        let reply = Peer::connect(uri).hello();
        assert!(reply.payload.ends_with(b"good day"), "{reply:02x?}");
        assert!(Peer::connect(uri).is_silent_for(A_WHILE), "not asked for");
    }
    assert_eq!(exchange(&uris[2], b"text"), (b"text".to_vec(), End::Fin));
    assert_eq!(server.stop(), Some(0));
}

/// Who asks for control is told that the server is busy, the others get FIN, and those inside notice nothing.
#[test]
fn beyond_the_cap_peers_are_refused_when_asked() {
    let raw = "--listen=tcp://127.0.0.1:0?mode=raw";
    let framed = "--listen=tcp://127.0.0.1:0?mode=framed";
    let args =
        [TCP, framed, raw, "--max-connections=1", "--at-limit=refuse", "--admin=127.0.0.1:0"];
    let mut server = Server::start(&args);
    let uris = server.uris().to_vec();
    let admin = support::http::Admin::of(&server);
    let open = Peer::connect(&uris[0]);
    open.round_trip(&echo(b"open"));
    let hello = frame(HELLO, &[]);
    let mut refused = 0;
    // A slow machine may miss the second that there is to say something.
    let mut turned_away = |uri: &str, first: &[u8]| {
        let mut answer = None;
        eventually("what is sent comes within a second", || {
            let (began, peer) = (Instant::now(), Peer::connect(uri));
            refused += 1;
            if peer.try_send(first).is_ok() && began.elapsed() < Duration::from_secs(1) {
                answer = Some(peer.read_to_end());
            }
            answer.is_some()
        });
        answer.expect("an answer")
    };
    for (uri, first, is_told) in [
        (&uris[0], &hello[..], true),
        (&uris[0], &frame(PROBE, &[0; 40]), true),
        (&uris[0], &echo(b"x"), false),
        (&uris[0], b"text", false),
        (&uris[1], &hello, true),
        (&uris[1], &frame(0x84, b""), true),
        (&uris[1], &echo(b"x"), false),
        (&uris[1], &[0xff; 100], false),
        (&uris[2], &hello, false),
    ] {
        let (got, end) = turned_away(uri, first);
        let (frames, rest) = frames(&got);
        assert!(end == End::Fin && rest.is_empty(), "{uri}, {first:02x?}: {got:02x?}, {end:?}");
        let errors: Vec<_> = frames.iter().map(Frame::error).collect();
        assert_eq!(errors, if is_told { vec![(4, true)] } else { vec![] }, "{uri}, {first:02x?}");
    }
    // One that says nothing is not waited for long.
    let silent = Peer::connect(&uris[0]);
    assert_eq!(silent.read_to_end().0, b"");
    open.round_trip(&echo(b"still open"));
    let limit =
        |limit| admin.metrics().get(&format!("echo_limit_reached_total{{limit=\"{limit}\"}}"));
    assert_eq!(limit("busy"), refused + 1);
    assert!(limit("connections") >= 1);
    drop(open);
    eventually("there is a place again", || {
        let peer = Peer::connect(&uris[0]);
        peer.send(&hello);
        peer.read_frame().is_some_and(|frame| frame.kind == HELLO)
    });
    assert_eq!(server.stop(), Some(0));
}

/// However many come and say nothing, those with a place are served, few descriptors are taken, and the
/// processor idles.
#[test]
fn refusals_are_bounded() {
    let mut server = Server::start(&[TCP, "--max-connections=2", "--at-limit=refuse"]);
    let (uri, pid) = (server.uris()[0].clone(), server.pid());
    let open = [Peer::connect(&uri), Peer::connect(&uri)];
    open.iter().for_each(|peer| peer.round_trip(b"open"));
    let before = descriptors(pid);
    let silent: Vec<_> = (0..200).map(|_| Peer::connect(&uri)).collect();
    let (began, ticks_before) = (Instant::now(), ticks(pid));
    let mut most = 0;
    while began.elapsed() < 4 * A_WHILE {
        open.iter().for_each(|peer| peer.round_trip(b"still open"));
        most = most.max(descriptors(pid) - before);
    }
    println!("{most} refused at once, {} ticks", ticks(pid) - ticks_before);
    assert!((1..=34).contains(&most), "{most} at once");
    // Each has its second at most, and nobody is forgotten.
    drop(silent);
    eventually("all are gone", || descriptors(pid) == before);
    drop(open);
    assert_eq!(server.stop(), Some(0));
}

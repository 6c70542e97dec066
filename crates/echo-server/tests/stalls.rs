//! Peers that are slow, silent or never pause: each wait of the server has one bound, which
//! progress by a byte does not move, and nobody else notices.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::process::{kib, long, need_descriptors};
use support::traffic::*;
use support::{PATIENCE, Server};

const AUTO: usize = 0;
const FRAMED: usize = 1;

/// Why a GOAWAY came.
const STALLED: u16 = 3;

/// A server whose base times are as given, and whose slowest rate is too fast to matter.
fn server(directory: &tempfile::TempDir, timeouts: &[&str]) -> Server {
    let unix = format!("--listen=unix:{}/echo?mode=framed", directory.path().display());
    let listeners = ["--listen=tcp://127.0.0.1:0", "--listen=tcp://127.0.0.1:0?mode=framed", &unix];
    Server::start(&[&listeners[..], &["--min-rate=1MiB"], timeouts].concat())
}

/// Sends the bytes one after the other, 30 ms apart, until the server has had enough.
fn trickle(peer: &Peer, bytes: &[u8], enough: &AtomicBool) {
    let started = Instant::now();
    for byte in bytes {
        assert!(started.elapsed() < PATIENCE, "each byte buys more time");
        if enough.load(Relaxed) || peer.try_send(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(30)); // The rate of the attack.
    }
}

/// Trickles until the server ends the connection; gives what came and how long it took.
fn outlast(peer: &Peer, bytes: &[u8]) -> (Vec<u8>, End, Duration) {
    let (started, enough) = (Instant::now(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| trickle(peer, bytes, &enough));
        let (got, end) = peer.read_to_end();
        enough.store(true, Relaxed);
        (got, end, started.elapsed())
    })
}

/// Runs an attack on each listener, all at once.
fn on_each(server: &Server, attack: impl Fn(&str) + Sync) {
    thread::scope(|scope| {
        for uri in server.uris() {
            let attack = &attack;
            scope.spawn(move || attack(uri));
        }
    });
}

/// Fault 7: slowloris inside a header, where nothing has been passed on.
#[test]
fn a_header_that_does_not_arrive_ends_in_fin() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory, &["--frame-timeout=600ms"]);
    on_each(&server, |uri| {
        for len in 1..4 {
            let (got, end, took) = outlast(&Peer::connect(uri), &header(ECHO, 0)[..len]);
            assert_eq!((got, end), (Vec::new(), End::Fin), "{uri} after {len} bytes");
            assert!(took >= Duration::from_millis(600), "{took:?}");
        }
        let peer = Peer::connect(uri);
        peer.hello();
        peer.round_trip(&echo(b"in time"));
        let (got, end, _) = outlast(&peer, &header(ECHO, 0)[..3]);
        let (last, cut) = frames(&got);
        assert_eq!((last.len(), cut, end), (1, &[][..], End::Fin), "{uri}");
        assert_eq!(last[0].goaway(), (STALLED, 2), "{uri}");
    });
    assert_clean_end(server);
}

/// Fault 7: slowloris inside a frame. Bytes keep coming for minutes, but the deadline stands.
#[test]
fn a_frame_that_trickles_is_reset() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory, &["--frame-timeout=600ms"]);
    let frame = echo(&[b'z'; 16 << 10]);
    on_each(&server, |uri| {
        let (got, end, took) = outlast(&Peer::connect(uri), &frame);
        assert!(frame.starts_with(&got) && got.len() < frame.len(), "{} bytes", got.len());
        assert!(end == End::Reset || uri.starts_with("unix:"), "{uri}");
        assert!(took >= Duration::from_millis(600), "{took:?}");
    });
    assert_clean_end(server);
}

/// Fault 7: the same inside a payload of which nothing is passed on: one that is collected, one
/// that will be stamped, and one that is discarded (which is answered at its header).
#[test]
fn a_payload_that_is_not_passed_on_and_trickles_ends_in_fin() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory, &["--frame-timeout=600ms", "--max-frame=4KiB"]);
    for (begun, answered) in
        [(frame(HELLO, &[3; 4000]), 1), (frame(PROBE, &[2; 40]), 1), (echo(&[1; 5000]), 2)]
    {
        let peer = Peer::connect(&server.uris()[FRAMED]);
        peer.hello();
        let (got, end, _) = outlast(&peer, &begun[..20]);
        let (replies, cut) = frames(&got);
        assert_eq!((cut, end), (&[][..], End::Fin));
        assert_eq!(replies.last().map(Frame::goaway), Some((STALLED, answered)));
        assert_eq!(replies.len() as u64, answered, "{replies:02x?}");
    }
    assert_clean_end(server);
}

/// Fault 9: a peer that never reads costs a bounded amount of memory, a frame of the maximum length
/// being under way; it holds nobody up, and is reset at the write timeout.
#[test]
fn a_peer_that_never_reads_is_bounded_and_reset() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory, &["--write-timeout=3s"]);
    let count = if long() { 1000 } else { 100 };
    need_descriptors(count + 100);
    assert_serves(&server.uris()[FRAMED]);
    let before = kib(server.pid(), "VmRSS");
    let message = echo(&vec![b'd'; 1 << 20]);
    let deaf: Vec<_> = (0..count)
        .map(|number| Peer::connect_narrow(&server.uris()[number as usize % 3]))
        .collect();
    thread::scope(|scope| {
        for deaf in deaf.chunks(count as usize / 4) {
            let message = &message;
            scope.spawn(move || {
                for peer in deaf {
                    // Ends early for one that the server has reset already.
                    let _ = peer.flood(message, Duration::from_millis(1));
                }
            });
        }
    });
    let grown = kib(server.pid(), "VmRSS").saturating_sub(before);
    println!("{count} peers that never read: {} KiB each", grown / count);
    assert!(grown <= 64 * count + 4096, "{grown} KiB for {count} peers");
    assert_serves(&server.uris()[FRAMED]);
    for peer in deaf {
        // Ends when the server resets the connection, and fails if it never does.
        let result =
            thread::scope(|scope| scope.spawn(|| while peer.try_send(&message).is_ok() {}).join());
        assert!(result.is_ok(), "not reset within {PATIENCE:?}");
    }
    assert_clean_end(server);
}

/// Fault 10: a peer that reads a byte now and then makes progress, but not at the slowest rate.
#[test]
fn a_peer_that_reads_a_byte_now_and_then_is_reset() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory, &["--write-timeout=800ms"]);
    for uri in &server.uris()[..2] {
        let peer = Peer::connect_narrow(uri);
        let message = echo(&[b'b'; 60_000]);
        let gone = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while peer.try_send(&message).is_ok() {}
                gone.store(true, Relaxed);
            });
            let started = Instant::now();
            while !gone.load(Relaxed) {
                assert!(started.elapsed() < PATIENCE, "{uri} still writes");
                let _ = peer.read(&mut [0]);
                thread::sleep(Duration::from_millis(50)); // The rate of the attack.
            }
        });
    }
    assert_clean_end(server);
}

/// Who is slow but not too slow is served: 40 frames, each in pieces.
#[test]
fn a_slow_peer_in_time_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory, &["--frame-timeout=20s", "--idle-timeout=20s"]);
    let peer = Peer::connect(&server.uris()[AUTO]);
    for number in 0..40 {
        let frame = echo(&[number; 3]);
        for piece in frame.chunks(3) {
            peer.send(piece);
            thread::sleep(Duration::from_millis(5)); // Its rate.
        }
        assert_eq!(peer.read_exact(frame.len()), Some(frame));
    }
    drop(peer);
    assert_clean_end(server);
}

#[test]
fn an_idle_connection_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(&directory, &["--idle-timeout=2s"]);
    let connected = Instant::now();
    let (silent, framed, raw) = {
        let connect = |listener: usize| Peer::connect(&server.uris()[listener]);
        (connect(AUTO), connect(FRAMED), connect(AUTO))
    };
    framed.hello();
    raw.round_trip(b"text");
    // Traffic renews the time: this one outlives the others.
    let active = Peer::connect(&server.uris()[AUTO]);
    let others_closed = AtomicBool::new(false);
    thread::scope(|scope| {
        let (active, done) = (&active, &others_closed);
        scope.spawn(move || {
            while !done.load(Relaxed) || connected.elapsed() < Duration::from_secs(3) {
                active.round_trip(&echo(b"active"));
                thread::sleep(Duration::from_millis(20)); // Its rate.
            }
        });
        assert_eq!(silent.read_to_end(), (Vec::new(), End::Fin));
        assert!(connected.elapsed() >= Duration::from_secs(2), "{:?}", connected.elapsed());
        assert_eq!(framed.read_frame().expect("a GOAWAY").goaway(), (1, 1));
        assert_eq!(framed.read_to_end(), (Vec::new(), End::Fin));
        assert_eq!(raw.read_to_end(), (Vec::new(), End::Fin));
        others_closed.store(true, Relaxed);
    });
    active.round_trip(&echo(b"still there"));
    drop((silent, framed, raw, active));
    assert_clean_end(server);
}

/// Peers that never pause leave room for the others, even on one worker: what passes by while one
/// small frame waits is a matter of turns, whatever the machine's speed.
#[test]
fn peers_that_never_pause_starve_nobody() {
    let server = Server::start(&["--listen=tcp://127.0.0.1:0", "--workers=1"]);
    let uri = &server.uris()[AUTO];
    let floods: Vec<_> = (0..4).map(|_| Peer::connect(uri)).collect();
    let (message, passed) = (echo(&[b'f'; 50_000]), AtomicU64::new(0));
    let mut by: Vec<u64> = thread::scope(|scope| {
        for peer in &floods {
            scope.spawn(|| while peer.try_send(&message).is_ok() {});
            scope.spawn(|| {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(read @ 1..) = peer.read(&mut buffer) {
                    passed.fetch_add(read as u64, Relaxed);
                }
            });
        }
        let quiet = Peer::connect(uri);
        let round_trip = |number: u64| {
            let before = passed.load(Relaxed);
            quiet.round_trip(&echo(&number.to_be_bytes()));
            passed.load(Relaxed) - before
        };
        let by = (0..50).map(round_trip).collect();
        for peer in &floods {
            let _ = peer.socket().shutdown(std::net::Shutdown::Both);
        }
        by
    });
    by.sort_unstable();
    let (median, most) = (by[25] >> 10, by[49] >> 10);
    println!("4 floods on one worker: {median} KiB pass by a small frame, at most {most} KiB");
    assert!(median <= 32 << 10, "{median} KiB in the median");
    drop(floods);
    assert_clean_end(server);
}

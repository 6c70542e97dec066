//! What a drain does with the listening sockets: new connections, `--drain-delay`, Unix paths.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::process::eventually;
use support::traffic::*;
use support::{PATIENCE, Server, Signal};

const TCP: &str = "--listen=tcp://127.0.0.1:0";

/// Connects and exchanges one message again and again, until the server takes no more. Whoever
/// connects while a listener closes is served, refused, reset, or told by FIN that the message came
/// too late; nobody gets half an answer.
fn race(uri: &str, served: &AtomicU64) {
    let message = echo(b"a message of its own");
    while let Ok(peer) = Peer::try_connect(uri, |_| Ok(())) {
        let _ = peer.try_send(&message);
        let _ = peer.socket().shutdown(std::net::Shutdown::Write);
        let (got, end) = peer.read_to_end();
        assert!(got.is_empty() || (got == message && end == End::Fin), "{end:?} after {got:02x?}");
        served.fetch_add(u64::from(!got.is_empty()), Relaxed);
    }
}

#[test]
fn connections_that_race_the_drain_are_served_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let unix = format!("--listen=unix:{}/echo", directory.path().display());
    for round in 0..5 {
        let mut server = Server::start(&[TCP, &unix]);
        let served = AtomicU64::new(0);
        thread::scope(|scope| {
            for number in 0..8 {
                let uri = &server.uris()[number % 2];
                let served = &served;
                scope.spawn(move || race(uri, served));
            }
            eventually("some are served", || served.load(Relaxed) > 20 * round);
            server.signal(Signal::TERM);
        });
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        server.summary();
    }
}

/// A load balancer learns from the readiness that it is to send nobody else; until it has, whoever
/// comes is served.
#[test]
fn drain_delay_goes_on_serving() {
    let delay = Duration::from_secs(2);
    let mut server = Server::start(&[TCP, "--drain-delay=2s"]);
    let uri = server.uris()[0].clone();
    let old = Peer::connect(&uri);
    old.hello();
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    let (mut told, mut served) = (0, 0);
    let last = loop {
        old.send(&echo(b"old"));
        let reply = old.read_frame().expect("an echo or a GOAWAY");
        if reply.kind == GOAWAY {
            break reply;
        }
        told += 1;
        let new = Peer::try_connect(&uri, |_| Ok(()));
        let echoed = new.is_ok_and(|new| {
            new.try_send(b"new").is_ok() && new.read_exact(3).as_deref() == Some(b"new")
        });
        assert!(echoed || signalled.elapsed() >= delay, "turned away during the delay");
        served += u64::from(echoed);
        thread::sleep(Duration::from_millis(20)); // The rate of the traffic.
    };
    assert!(signalled.elapsed() >= delay, "after {:?}", signalled.elapsed());
    assert_eq!(last.goaway(), (0, 1 + told));
    drop(old);
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
    assert!(served > 0, "nobody came during the delay");
}

#[test]
fn a_second_signal_ends_the_delay() {
    let mut server = Server::start(&[TCP, "--drain-delay=10min", "--drain-timeout=10min"]);
    let peer = Peer::connect(&server.uris()[0]);
    peer.round_trip(b"here");
    server.signal(Signal::TERM);
    eventually("the first signal is taken", || !is_pending(&server, Signal::TERM));
    server.signal(Signal::INT);
    assert!(matches!(server.wait(PATIENCE).code(), Some(130 | 143)));
}

fn is_pending(server: &Server, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).expect("a mask");
    let mask = u64::from_str_radix(pending.trim(), 16).expect("a mask in hexadecimal");
    mask >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn a_unix_path_is_gone_with_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo");
    let mut server = Server::start(&[&format!("--listen=unix:{}", path.display())]);
    Peer::connect(&server.uris()[0]).round_trip(b"here");
    assert_eq!(server.stop(), Some(0));
    assert!(!path.exists(), "the path is left behind");
}

#[test]
fn a_unix_path_that_another_took_over_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo");
    let mut server = Server::start(&[&format!("--listen=unix:{}", path.display())]);
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    assert_eq!(server.stop(), Some(0));
    assert!(path.exists(), "the path of another was removed");
    drop(other);
}

/// What a crash leaves behind is replaced; what somebody listens on is not.
#[test]
fn only_a_dead_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("--listen=unix:{}/echo", directory.path().display());
    let mut first = Server::start(&[&uri]);
    first.signal(Signal::KILL);
    first.wait(PATIENCE);
    assert!(directory.path().join("echo").exists(), "a killed server leaves its path");
    let mut second = Server::start(&[&uri]);
    Peer::connect(&second.uris()[0]).round_trip(b"replaced");
    let mut command = support::command();
    command.arg(&uri);
    let mut third = Server::spawn(command);
    assert_eq!(third.wait(PATIENCE).code(), Some(69));
    Peer::connect(&second.uris()[0]).round_trip(b"still there");
    assert_eq!(second.stop(), Some(0));
}

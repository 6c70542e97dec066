//! What the kernel refuses: descriptors that run out and come back, and each error that accept,
//! receive and send may give.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Resource;
use support::http::Admin;
use support::injection::{can_inject, each, start_injected, wait_until_injected};
use support::process::{descriptors, eventually, leave_room, limit, long, ticks};
use support::traffic::*;
use support::{Server, Signal};

const TCP: &str = "--listen=tcp://127.0.0.1:0";

/// Faults 14 and 15: at the descriptor limit the queue holds, connections that are open go on, the
/// processor idles, the log is short, and whoever waits is served when descriptors are back.
#[test]
fn descriptors_run_out_and_come_back() {
    for workers in ["--workers=1", "--workers=2"] {
        let mut server = Server::start(&[TCP, workers]);
        let (pid, uri) = (server.pid(), server.uris()[0].clone());
        leave_room(pid, 6);
        let mut open: Vec<_> = (0..6).map(|_| Peer::connect(&uri)).collect();
        open.iter().for_each(|peer| peer.round_trip(b"open"));
        let waiting: Vec<_> = (0..20).map(|_| Peer::connect(&uri)).collect();
        waiting.iter().for_each(|peer| peer.send(b"waiting"));

        let (before, window) = (ticks(pid), Instant::now());
        while window.elapsed() < Duration::from_millis(1500) {
            open.iter().for_each(|peer| peer.round_trip(b"still open"));
            thread::sleep(Duration::from_millis(100)); // The rate of the traffic.
        }
        let busy = (ticks(pid) - before) as f64 / (window.elapsed().as_secs_f64() * 100.0);
        println!("{workers}: {:.1} % of a core at the limit", busy * 100.0);
        assert!(busy < 0.2, "busy for {busy} of the time");
        assert!(waiting.iter().all(|peer| peer.is_silent_for(Duration::from_millis(1))));

        // One that ends makes room for one.
        drop(open.remove(0));
        assert_eq!(waiting[0].read_exact(7).as_deref(), Some(&b"waiting"[..]));
        limit(pid, Resource::Nofile, 1024);
        let given_back = Instant::now();
        for peer in &waiting[1..] {
            assert_eq!(peer.read_exact(7).as_deref(), Some(&b"waiting"[..]));
        }
        println!("{workers}: all served {:?} after descriptors were back", given_back.elapsed());
        let log = server.stderr();
        assert!(log.lines().count() <= 3, "{log}"); // The first says how to try it.
        drop((open, waiting));
        assert_eq!(server.stop(), Some(0));
    }
}

/// Fault 14: descriptors run out again and again. Whoever waits is served as soon as one is free, nothing leaks,
/// the admin endpoint answers all the while, and the log keeps to a line a minute.
#[test]
fn descriptors_run_out_a_hundred_times() {
    let (rounds, window) = if long() { (100, 500) } else { (10, 50) };
    let mut server = Server::start(&[TCP, "--admin=127.0.0.1:0"]);
    let (pid, uri, admin) = (server.pid(), server.uris()[0].clone(), Admin::of(&server));
    admin.get("/readyz");
    // Its connection may not have ended yet.
    let idle = descriptors(pid);
    leave_room(pid, 2);
    let (began, mut slowest, mut busiest) = (Instant::now(), Duration::ZERO, 0.0_f64);
    for _ in 0..rounds {
        let mut open: Vec<_> = (0..2).map(|_| Peer::connect(&uri)).collect();
        open.iter().for_each(|peer| peer.round_trip(b"open"));
        let mut waiting: Vec<_> = (0..6).map(|_| Peer::connect(&uri)).collect();
        waiting.iter().for_each(|peer| peer.send(b"waiting"));
        let (before, full) = (ticks(pid), Instant::now());
        thread::sleep(Duration::from_millis(window)); // What is measured is how little happens in it.
        let busy = (ticks(pid) - before) as f64 / (full.elapsed().as_secs_f64() * 100.0);
        busiest = busiest.max(busy);
        assert_eq!(admin.get("/healthz").body, "ok\n");
        while !waiting.is_empty() {
            open = {
                let given_back = Instant::now();
                drop(open);
                let next: Vec<_> = waiting.drain(..2).collect();
                for peer in &next {
                    assert_eq!(peer.read_exact(7).as_deref(), Some(&b"waiting"[..]));
                }
                slowest = slowest.max(given_back.elapsed());
                next
            };
        }
        drop(open);
        // The first answer may have been on its way still when they were counted.
        eventually("descriptors are back", || descriptors(pid) <= idle);
    }
    let limit = "echo_limit_reached_total{limit=\"descriptors\"}";
    println!(
        "{rounds} times: {} failed accepts, at most {:.1} % of a core, the next served {slowest:?} after one was free",
        admin.metrics().get(limit),
        busiest * 100.0
    );
    assert!(admin.metrics().get(limit) >= rounds, "they did not run out");
    assert!(
        !long() || (busiest <= 0.05 && slowest <= Duration::from_secs(1)),
        "{busiest}, {slowest:?}"
    );
    assert_eq!(server.stop(), Some(0));
    let log = server.stderr();
    let said = log.lines().filter(|line| line.contains("cannot accept")).count();
    let minutes = began.elapsed().as_secs() as usize / 60 + 1;
    assert!((1..=2 * minutes).contains(&said), "{said} lines in {minutes} minutes: {log}");
}

/// Faults 14 and 16: while accept goes on failing, for whatever is used up, the loop pauses. Its system calls are
/// counted.
#[test]
fn a_loop_that_cannot_accept_does_not_spin() {
    if !can_inject("a_loop_that_cannot_accept_does_not_spin") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    each(&["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"], |error| {
        let trace = directory.path().join(error);
        let injection = format!("accept4:error={error}");
        let mut server = start_injected(&trace, &injection, &[TCP, "--workers=2"]);
        let peer = Peer::connect(&server.uris()[0]);
        wait_until_injected(&trace);
        let calls = |name: &str| {
            let trace = fs::read_to_string(&trace).unwrap_or_default();
            trace.lines().filter(|line| line.contains(name)).count()
        };
        let (accepts, all, began) = (calls("accept4("), calls("("), Instant::now());
        thread::sleep(Duration::from_secs(2)); // What is measured is how little happens in it.
        let (accepts, all) = (calls("accept4(") - accepts, calls("(") - all);
        let seconds = began.elapsed().as_secs_f64();
        println!("{error}: {accepts} of {all} system calls in {seconds:.1} s");
        // Pauses of 10 ms that double to a second, and for each a timer, a wait and what wakes them.
        assert!(accepts as f64 <= 8.0 + 1.5 * seconds, "{accepts} in {seconds} s");
        assert!(all <= 20 * (accepts + 5), "{all} system calls for {accepts} accepts");
        drop(peer);
        // What waits in the queue cannot be accepted, and is reset.
        server.signal(Signal::TERM);
        assert_eq!(server.wait(support::PATIENCE).code(), Some(0));
    });
}

/// A drain out of descriptors ends; what the queue holds and cannot be accepted is reset.
#[test]
fn a_drain_without_descriptors_ends() {
    let mut server = Server::start(&[TCP, "--drain-timeout=10min"]);
    let (pid, uri) = (server.pid(), server.uris()[0].clone());
    leave_room(pid, 1);
    let open = Peer::connect(&uri);
    open.round_trip(b"open");
    let waiting: Vec<_> = (0..5).map(|_| Peer::connect(&uri)).collect();
    waiting.iter().for_each(|peer| peer.send(b"waiting"));
    server.signal(Signal::TERM);
    assert_eq!(open.read_to_end(), (Vec::new(), End::Fin));
    drop(open);
    for peer in waiting {
        let (got, end) = peer.read_to_end();
        let served = got == b"waiting" && end == End::Fin;
        assert!(served || (got.is_empty() && end == End::Reset), "{end:?} after {got:?}");
    }
    assert_eq!(server.wait(support::PATIENCE).code(), Some(0));
}

/// Fault 16: every error that accept may give before the descriptor is there. Five times in each
/// thread, then it goes well: all that have connected are served.
#[test]
fn accept_errors_do_not_stop_the_server() {
    if !can_inject("accept_errors_do_not_stop_the_server") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let errors = [
        "EMFILE",
        "ENFILE",
        "ENOBUFS",
        "ENOMEM",
        "ECONNABORTED",
        "EPROTO",
        "EPERM",
        "EINTR",
        "ENETDOWN",
        "EHOSTUNREACH",
        "ENETUNREACH",
        "EHOSTDOWN",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "ETIMEDOUT",
    ];
    each(&errors, |error| {
        let trace = directory.path().join(error);
        let unix = format!("--listen=unix:{}.sock", trace.display());
        let injection = format!("accept4:error={error}:when=1..3");
        let mut server = start_injected(&trace, &injection, &[TCP, &unix, "--workers=2"]);
        for uri in server.uris() {
            let peers: Vec<_> = (0..5).map(|_| Peer::connect(uri)).collect();
            peers.iter().for_each(|peer| peer.round_trip(b"served"));
        }
        assert_eq!(server.stop(), Some(0), "after {error}");
        assert!(server.stderr().lines().count() < 20, "{}", server.stderr());
        wait_until_injected(&trace);
    });
}

/// Fault 16: an error of a receive or a send ends the connection it belongs to, or is tried again.
#[test]
fn errors_of_a_connection_end_that_connection() {
    if !can_inject("errors_of_a_connection_end_that_connection") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for error in ["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOMEM", "ENOBUFS", "EIO", "EINTR"] {
        cases.push(("recvfrom", error));
        cases.push(("sendto", error));
    }
    cases.extend([("sendto", "EPIPE"), ("sendto", "EPERM")]);
    each(&cases, |(call, error)| {
        let trace = directory.path().join(format!("{call}-{error}"));
        let injection = format!("{call}:error={error}:when=2..3");
        let mut server = start_injected(&trace, &injection, &[TCP, "--workers=2"]);
        let uri = server.uris()[0].clone();
        let serves = |number: u8| {
            let peer = Peer::connect(&uri);
            let message = echo(&[number; 100]);
            peer.try_send(&message).is_ok()
                && peer.read_exact(message.len()).inspect(|got| assert_eq!(got, &message)).is_some()
        };
        let mut failed = (0..20).filter(|number| !serves(*number)).count();
        // Twice in each thread: two workers and, if it runs tasks at all, the main thread. One that had
        // nothing to do so far may have its failures yet to come.
        while failed <= 6 && !serves(20) {
            failed += 1;
        }
        assert!(failed <= 6, "{failed} connections failed after {call} gave {error}");
        assert!(error != "EINTR" || failed == 0, "{failed} failed after {call} gave EINTR");
        // Not by a signal that it handles: a runtime wakes itself by a send, which may fail here.
        server.signal(Signal::KILL);
        server.wait(support::PATIENCE);
        let log = server.stderr();
        // The hint at the start, and of trouble on this side one line a minute.
        assert!(log.lines().count() <= 2, "after {call} gave {error}: {log}");
        wait_until_injected(&trace);
    });
}

/// Faults 14 and 16: without a pipe, or on a socket that knows no splice, long frames are copied.
#[test]
fn bulk_goes_on_without_a_pipe() {
    if !can_inject("bulk_goes_on_without_a_pipe") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let cases = ["pipe2:error=EMFILE", "splice:error=EINVAL", "splice:error=EINTR:when=1..9+2"];
    each(&cases, |injection| {
        let trace = directory.path().join(injection);
        let mut server =
            start_injected(&trace, injection, &[TCP, "--workers=2", "--admin=127.0.0.1:0"]);
        let admin = Admin::of(&server);
        let address = server.uris()[0].trim_start_matches("tcp://").to_owned();
        let mut reader = TcpStream::connect(address).unwrap();
        reader.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let mut writer = reader.try_clone().unwrap();
        let frames: Vec<u8> =
            (1..=15).flat_map(|n| echo(&vec![n; 65_536 * usize::from(n)])).collect();
        let sent = frames.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        assert!(got == frames, "{injection}: {} of {} bytes", got.len(), frames.len());
        let without = admin.metrics().get("echo_limit_reached_total{limit=\"pipes\"}");
        assert_eq!(without > 0, injection.starts_with("pipe2"), "{injection}: {without}");
        assert_eq!(server.stop(), Some(0), "{injection}");
        wait_until_injected(&trace);
    });
}

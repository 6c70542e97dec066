//! What the system may say to a receive or a send of datagrams: the loop goes on, counts, and logs at
//! most once a minute.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use support::injection::{can_inject, each, start_injected, wait_until_injected};
use support::process::ticks;
use support::traffic::*;
use support::{PATIENCE, Server};

const UDP: &str = "--listen=udp://127.0.0.1:0";
const TCP: &str = "--listen=tcp://127.0.0.1:0";

/// After so long without an answer the question is sent again. An answer that is only late is welcome
/// too.
const LOST_AFTER: Duration = Duration::from_millis(100);

fn client(server: &Server) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.connect(server.address()).expect("an address");
    client
}

/// Asks until it is answered, again after each `patience`.
fn persist(client: &UdpSocket, message: &[u8], patience: Duration) {
    client.set_read_timeout(Some(patience)).expect("a timeout");
    let began = Instant::now();
    let mut reply = [0; 2000];
    loop {
        client.send(message).expect("it is sent");
        match client.recv(&mut reply) {
            Ok(len) => return assert_eq!(&reply[..len], message),
            Err(_) => assert!(began.elapsed() < PATIENCE, "no answer"),
        }
    }
}

/// Faults 45 and 46: each error three times in a row in each thread, then all goes well.
#[test]
fn errors_are_got_over() {
    if !can_inject("errors_are_got_over") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for error in ["ECONNREFUSED", "EMSGSIZE", "EHOSTUNREACH", "ENETDOWN", "ENOBUFS", "ENOMEM"] {
        cases.extend([("recvmmsg", error), ("sendmmsg", error)]);
    }
    for error in ["EINTR", "EAGAIN", "EPERM", "EIO", "ENOSYS"] {
        cases.extend([("recvmmsg", error), ("sendmmsg", error)]);
    }
    cases.extend([("sendmmsg", "EINVAL"), ("sendmmsg", "ENETUNREACH"), ("sendmmsg", "EACCES")]);
    each(&cases, |(call, error)| {
        let trace = directory.path().join(format!("{call}-{error}"));
        let injection = format!("{call}:error={error}:when=2..4");
        let mut server = start_injected(&trace, &injection, &[UDP, "--workers=4"]);
        // What fails to be received stays in the queue, and what goes one by one fails no more (ENOSYS
        // and EPERM are what a filter of system calls says): asking once is enough. But a queue that is
        // said to be empty (EAGAIN) is looked at again when the next datagram comes.
        let unbatched = error == "ENOSYS" || (call, error) == ("recvmmsg", "EPERM");
        let asks_once = unbatched || (call == "recvmmsg" && error != "EAGAIN");
        let patience = if asks_once { PATIENCE } else { LOST_AFTER };
        for _ in 0..10 {
            persist(&client(&server), b"persistent", patience);
        }
        assert_eq!(server.stop(), Some(0), "after {call} gave {error}");
        let datagrams = server.datagrams();
        let answered = datagrams.get("answered");
        assert!(answered >= 10, "after {call} gave {error}: {datagrams:?}");
        // An error of an earlier answer is not this one's: each answer goes out or is counted.
        let dropped = ["failed", "blocked", "refused_address"];
        let dropped = dropped.iter().map(|why| datagrams.get(why)).sum::<u64>();
        assert_eq!(answered + dropped, datagrams.get("received"), "{error}: {datagrams:?}");
        // No more of them than calls failed: thrice in each thread, which are the workers and the one
        // that started them.
        assert!(dropped <= 15, "after {call} gave {error}: {datagrams:?}");
        if unbatched {
            server.wait_for_stderr("datagrams go one by one");
            assert_eq!(dropped, 0, "nothing is lost for want of batches: {datagrams:?}");
        } else if call == "recvmmsg" && error != "EAGAIN" {
            assert!(datagrams.get("receive_errors") > 0, "{error}: {datagrams:?}");
        }
        // How to try it, that it drains, the counters, the summary, and one of trouble.
        let log = server.stderr();
        assert!(log.lines().count() <= 5, "after {call} gave {error}: {log}");
        wait_until_injected(&trace);
    });
}

/// An error that does not go away takes no processor and no log, and does not touch the streams.
#[test]
fn errors_that_stay_cost_nothing() {
    if !can_inject("errors_that_stay_cost_nothing") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        ("recvmmsg", "ENOMEM"),
        ("recvmmsg", "ECONNREFUSED"),
        ("sendmmsg", "EPERM"),
        ("sendmmsg", "ECONNREFUSED"),
        ("sendmmsg", "EAGAIN"),
    ];
    each(&cases, |(call, error)| {
        let trace = directory.path().join(format!("{call}-{error}-stays"));
        let injection = format!("{call}:error={error}");
        let mut server = start_injected(&trace, &injection, &[UDP, TCP, "--workers=1"]);
        let client = client(&server);
        for _ in 0..50 {
            client.send(b"?").unwrap();
        }
        let (before, window) = (ticks(server.pid()), Instant::now());
        let peer = Peer::connect(&server.uris()[1]);
        while window.elapsed() < Duration::from_secs(1) {
            peer.round_trip(b"the stream goes on");
            thread::sleep(Duration::from_millis(50)); // The rate of the traffic.
        }
        let busy = (ticks(server.pid()) - before) as f64 / window.elapsed().as_secs_f64() / 100.0;
        println!("{call} {error}: {:.1} % of a core", busy * 100.0);
        assert!(busy < 0.2, "busy for {busy} of the time while {call} gives {error}");
        drop(peer);
        assert_eq!(server.stop(), Some(0), "while {call} gives {error}");
        let datagrams = server.datagrams();
        assert_eq!(datagrams.get("answered"), 0, "{datagrams:?}");
        if call == "sendmmsg" {
            let dropped = datagrams.get("failed") + datagrams.get("blocked");
            assert_eq!(dropped, 50, "while {call} gives {error}: {datagrams:?}");
        }
        let log = server.stderr();
        assert!(log.lines().count() <= 5, "while {call} gives {error}: {log}");
    });
}

/// A socket that is no socket any more drains the server, as a listener does.
#[test]
fn a_broken_socket_drains_the_server() {
    if !can_inject("a_broken_socket_drains_the_server") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut server = start_injected(&trace, "recvmmsg:error=EBADF", &[UDP, TCP]);
    let peer = Peer::connect(&server.uris()[1]);
    peer.round_trip(b"here");
    client(&server).send(b"?").unwrap();
    assert_eq!(peer.read_to_end(), (Vec::new(), End::Fin));
    drop(peer);
    assert_eq!(server.wait(PATIENCE).code(), Some(74));
    let stderr = server.stderr();
    assert!(stderr.contains("a datagram socket failed"), "{stderr}");
}

/// Fault 45: answers to ports that are closed by then bring ICMP errors, which nobody answers and
/// nobody waits for.
#[test]
fn peers_that_are_gone_touch_nobody() {
    let mut server = Server::start(&[UDP]);
    let stays = client(&server);
    for _ in 0..200 {
        client(&server).send(b"gone before the answer").unwrap();
        persist(&stays, b"still there", PATIENCE);
    }
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    assert_eq!(datagrams.get("receive_errors"), 0, "{datagrams:?}");
    assert_eq!(datagrams.get("answered"), datagrams.get("received"), "{datagrams:?}");
}

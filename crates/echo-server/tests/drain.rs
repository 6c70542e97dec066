//! How the server ends: what a drain owes to connections in each state, when it is over, and what
//! the exit code says. Times are only judged under `LONG=1`, best of three.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, clippy::print_stdout, reason = "helpers of tests fail as tests do")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use support::process::{descriptors, eventually, is_stopped, long, settle};
use support::traffic::*;
use support::{PATIENCE, Server, Signal};

const TCP: &str = "--listen=tcp://127.0.0.1:0";

/// A HELLO client with nothing to say: its GOAWAY tells when the drain has begun.
struct Herald(Peer);

impl Herald {
    fn connect(server: &Server) -> Self {
        let peer = Peer::connect(&server.uris()[0]);
        peer.hello();
        Self(peer)
    }

    fn wait_for_drain(self) {
        let last = self.0.read_frame().expect("a GOAWAY at the drain");
        assert_eq!(last.goaway(), (0, 1));
        assert_eq!(self.0.read_to_end(), (Vec::new(), End::Fin));
    }
}

/// Runs once; under `LONG=1` the best of three runs must not take longer than `limit`.
fn within(name: &str, limit: Duration, run: impl Fn() -> Duration) {
    let rounds = if long() { 3 } else { 1 };
    let best = (0..rounds).map(|_| run()).min().expect("a round");
    println!("{name}: {best:?}, best of {rounds}, limit {limit:?}");
    assert!(!long() || best <= limit, "{name} took {best:?}, the limit is {limit:?}");
}

/// How many connections of a drain ended in order.
fn in_order(server: &mut Server) -> u64 {
    let summary = server.summary();
    // A client that is slow to close is an ordinary end as well.
    summary["completed"] + summary["quiet"]
}

#[test]
fn a_drain_with_nobody_connected_ends_at_once() {
    within("empty drain", Duration::from_millis(50), || {
        let mut server = Server::start(&[TCP, "--drain-timeout=10min"]);
        let idle = descriptors(server.pid());
        Peer::connect(&server.uris()[0]).round_trip(b"gone before the drain");
        eventually("the connection is closed", || descriptors(server.pid()) == idle);
        let signalled = Instant::now();
        assert_eq!(server.stop(), Some(0));
        signalled.elapsed()
    });
}

#[test]
fn a_drain_ends_with_the_last_connection() {
    within("last connection to exit", Duration::from_millis(50), || {
        let mut server = Server::start(&[TCP, "--drain-timeout=10min"]);
        let (herald, last) = (Herald::connect(&server), Peer::connect(&server.uris()[0]));
        last.round_trip(&echo(b"whole")[..8]);
        server.signal(Signal::TERM);
        herald.wait_for_drain();
        assert!(server.is_running(), "a frame is under way");
        last.round_trip(b"e");
        assert_eq!(last.read_to_end(), (Vec::new(), End::Fin));
        let closed = Instant::now();
        drop(last);
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        let took = closed.elapsed();
        assert_eq!(in_order(&mut server), 2);
        took
    });
}

#[test]
fn a_stuck_peer_is_cut_at_the_deadline() {
    let timeout = Duration::from_millis(800);
    within("end after the deadline", Duration::from_millis(250), || {
        let directory = tempfile::tempdir().unwrap();
        let unix = format!("--listen=unix:{}/echo", directory.path().display());
        let mut server = Server::start(&[TCP, &unix, "--drain-timeout=800ms"]);
        let peers = [0, 1].map(|listener| Peer::connect(&server.uris()[listener]));
        let begun = &echo(b"whole")[..8];
        peers.iter().for_each(|peer| peer.round_trip(begun));
        let signalled = Instant::now();
        server.signal(Signal::TERM);
        let [tcp, unix] = peers.map(|peer| peer.read_to_end());
        assert_eq!(server.wait(PATIENCE).code(), Some(3));
        let took = signalled.elapsed();
        // The end inside the frame tells the Unix peer, which no reset can reach.
        assert_eq!((tcp, unix.0), ((Vec::new(), End::Reset), Vec::new()));
        assert_eq!(server.summary()["forced"], 2);
        took.checked_sub(timeout).expect("not before the deadline")
    });
}

#[test]
fn a_second_signal_stops_it_hard() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        within("second signal to exit", Duration::from_millis(250), || {
            let mut server = Server::start(&[TCP, "--drain-timeout=10min"]);
            let (herald, stuck) = (Herald::connect(&server), Peer::connect(&server.uris()[0]));
            stuck.round_trip(&echo(b"whole")[..8]);
            server.signal(signal);
            herald.wait_for_drain();
            assert!(server.is_running(), "a frame is under way");
            let signalled = Instant::now();
            server.signal(signal);
            assert_eq!(server.wait(PATIENCE).code(), Some(code));
            signalled.elapsed()
        });
    }
}

/// What a closed listener would reset: connections that wait in its queue when the signal comes.
#[test]
fn a_backlog_filled_while_stopped_is_served() {
    // The server grants its queue a tenth of a second, which a busy machine may use up.
    let resets = (0..5).map(|_| drain_a_backlog()).find(|resets| *resets == 0);
    assert_eq!(resets, Some(0), "each of five drains reset some");
}

/// Fills the queues of a stopped server, drains it, and gives how many it says it reset: they had
/// been told nothing, and are not among the connections of the drain.
fn drain_a_backlog() -> u64 {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let unix = format!("--listen=unix:{}/echo", directory.path().display());
    let mut server = Server::start(&[TCP, &unix]);
    server.signal(Signal::STOP);
    eventually("the server has stopped", || is_stopped(server.pid()));
    let requests = [
        Vec::new(),
        b"text".to_vec(),
        echo(b"framed"),
        [frame(HELLO, &[]), echo(b"with HELLO"), echo(&[7; 3000])].concat(),
        [echo(b"and"), header(ECHO, 2)[..3].to_vec()].concat(),
    ];
    let uris = server.uris().to_vec();
    let peers: Vec<_> = (0..400)
        .map(|number| (Peer::connect(&uris[number % 2]), &requests[number / 2 % requests.len()]))
        .collect();
    peers.iter().for_each(|(peer, request)| peer.send(request));
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for (peer, request) in peers {
        match peer.read_to_end() {
            (got, End::Fin) => assert_answered(request, &got),
            (got, End::Reset) => assert_eq!(got, b"", "a reset after an answer"),
        }
    }
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
    let resets = server.summary().get("reset_in_queue").copied().unwrap_or(0);
    assert_eq!(in_order(&mut server), 400 - resets);
    resets
}

/// Whole frames, and all of a raw stream, have been answered; HELLO clients know how many.
fn assert_answered(request: &[u8], got: &[u8]) {
    if request.first() == Some(&HELLO) {
        let (replies, rest) = frames(got);
        assert_eq!((replies[0].kind, rest), (HELLO, &[][..]));
        assert_eq!(frame(replies[1].kind, &replies[1].payload), echo(b"with HELLO"));
        assert_same(&frame(replies[2].kind, &replies[2].payload), &echo(&[7; 3000]));
        assert_eq!(replies[3].goaway(), (0, 3));
    } else if request.starts_with(&[ECHO]) {
        let begun = frames(request).1.len();
        assert_eq!(got, &request[..request.len() - begun]);
    } else {
        assert_eq!(got, request);
    }
}

#[test]
fn a_sender_that_never_pauses_cannot_hold_the_drain_up() {
    // One that stops when it reads FIN, and one that goes on for as long as it is let.
    for (polite, code, linger) in [(true, 0, "--linger=1min"), (false, 3, "--linger=500ms")] {
        let mut server = Server::start(&[TCP, "--drain-timeout=10min", linger]);
        let (herald, peer) = (Herald::connect(&server), Peer::connect(&server.uris()[0]));
        let message = echo(&[b'x'; 10_000]);
        thread::scope(|scope| {
            let sender = scope.spawn(|| while peer.try_send(&message).is_ok() {});
            assert_same(&peer.read_exact(message.len()).expect("an echo"), &message);
            server.signal(Signal::TERM);
            let (rest, end) = peer.read_to_end();
            assert_eq!((frames(&rest).1.len(), end), (0, End::Fin), "cut");
            if polite {
                let _ = peer.socket().shutdown(std::net::Shutdown::Both);
            }
            sender.join().expect("the sender ends");
        });
        herald.wait_for_drain();
        assert_eq!(server.wait(PATIENCE).code(), Some(code), "polite: {polite}");
        assert_eq!(server.summary()["forced"], u64::from(!polite));
    }
}

#[test]
fn a_frame_under_way_is_finished_and_nothing_after_it() {
    let mut server = Server::start(&[TCP, "--drain-timeout=10min"]);
    let (herald, peer) = (Herald::connect(&server), Peer::connect(&server.uris()[0]));
    peer.hello();
    peer.round_trip(&echo(b"first"));
    let long = echo(&[b'y'; 100_000]);
    let (begun, rest) = long.split_at(50_000);
    peer.round_trip(begun);
    server.signal(Signal::TERM);
    herald.wait_for_drain();
    peer.send(rest);
    peer.send(&echo(b"too late"));
    let (got, end) = peer.read_to_end();
    assert_eq!(end, End::Fin);
    assert_same(&got[..got.len().min(rest.len())], rest);
    let (last, cut) = frames(&got[rest.len()..]);
    let goaway = last.last().expect("a GOAWAY").goaway();
    // HELLO, the first, the long one; and what came before the server looked for the last time.
    assert_eq!((goaway, cut), ((0, 3 + last.len() as u64 - 1), &[][..]));
    drop(peer);
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
}

#[test]
fn a_header_under_way_is_not_a_frame() {
    let mut server = Server::start(&[TCP, "--listen=tcp://127.0.0.1:0?mode=framed"]);
    let begin = |listener: usize, len: usize, hello: bool| {
        let peer = Peer::connect(&server.uris()[listener]);
        let answered = hello.then(|| peer.hello()).map(|_| (0, 1));
        peer.send(&header(ECHO, 0)[..len]);
        (peer, answered)
    };
    let peers: Vec<_> = (1..4)
        .flat_map(|len| [begin(0, len, false), begin(1, len, false), begin(0, len, true)])
        .collect();
    settle(peers.iter().map(|(peer, _)| peer));
    server.signal(Signal::TERM);
    for (peer, answered) in peers {
        let (got, end) = peer.read_to_end();
        let (last, cut) = frames(&got);
        assert_eq!(last.first().map(Frame::goaway), answered);
        assert_eq!((cut, end), (&[][..], End::Fin));
    }
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
    assert_eq!(in_order(&mut server), 9);
}

/// Fault 1: megabytes that the server will not read any more must not cut the replies before them.
#[test]
fn unread_input_does_not_cut_replies() {
    let data: Vec<u8> = (0..2_u32 << 20).flat_map(|word| (word | 1 << 30).to_be_bytes()).collect();
    for _ in 0..if long() { 20 } else { 3 } {
        let mut server = Server::start(&[TCP]);
        let peer = Peer::connect_narrow(&server.uris()[0]);
        thread::scope(|scope| {
            scope.spawn(|| peer.try_send(&data));
            let mut got = peer.read_exact(100_000).expect("the echo begins");
            server.signal(Signal::TERM);
            let (rest, end) = peer.read_to_end();
            got.extend(rest);
            assert_eq!(end, End::Fin, "after {} bytes", got.len());
            assert_same(&got, &data[..got.len()]);
            let _ = peer.socket().shutdown(std::net::Shutdown::Both);
        });
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
    }
}

//! Peers in great numbers and of bad manners: resets, storms, garbage, empty promises. The server
//! goes on, keeps nothing, and says nothing.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Resource;
use support::Server;
use support::process::{descriptors, eventually, kib, limit, long, need_descriptors, settle};
use support::traffic::*;

const AUTO: usize = 0;
const FRAMED: usize = 1;
const RAW: usize = 2;

/// A server that is watched: what it holds before its peers come is what it holds when they are
/// gone, and in between it says nothing.
struct Watched {
    server: Server,
    descriptors: usize,
}

impl Watched {
    fn start(options: &[&str]) -> Self {
        let listeners = [
            "--listen=tcp://127.0.0.1:0",
            "--listen=tcp://127.0.0.1:0?mode=framed",
            "--listen=tcp://127.0.0.1:0?mode=raw",
        ];
        let mut server = Server::start(&[&listeners[..], options].concat());
        let hint = server.wait_for_stderr("try: ");
        let idle = descriptors(server.pid());
        assert_serves(&server.uris()[AUTO]);
        eventually("the first connection is gone", || descriptors(server.pid()) == idle);
        assert_eq!(server.stderr(), hint, "a line of its own for each start, and no more");
        Self { server, descriptors: idle }
    }

    fn uri(&self, listener: usize) -> &str {
        &self.server.uris()[listener]
    }

    fn assert_unharmed(mut self) {
        assert_serves(self.uri(AUTO));
        let pid = self.server.pid();
        eventually("descriptors are back", || descriptors(pid) == self.descriptors);
        assert_eq!(self.server.stderr().lines().count(), 1, "peers made it speak");
        assert_eq!(self.server.stop(), Some(0));
        assert_eq!(self.server.summary()["panicked"], 0);
    }
}

/// Fault 6: a reset after every byte of a session, at once and after the server has read it.
#[test]
fn a_reset_at_every_byte_is_the_end_of_one_connection() {
    let watched = Watched::start(&[]);
    let session = [
        frame(HELLO, &[]),
        echo(b"abc"),
        frame(PROBE, &[1; 40]),
        header(ECHO, 3_000_000).to_vec(),
        vec![2; 20],
    ]
    .concat();
    for listener in [AUTO, FRAMED, RAW] {
        for settled in [false, true] {
            let peers: Vec<_> = (0..=session.len())
                .map(|cut| {
                    let peer = Peer::connect(watched.uri(listener));
                    peer.send(&session[..cut]);
                    peer
                })
                .collect();
            if settled {
                settle(&peers);
            }
            peers.into_iter().for_each(Peer::reset);
        }
    }
    watched.assert_unharmed();
}

/// Fault 1: the replies before a refused frame arrive whole, although the client goes on sending
/// and reads slowly. A plain close would cut all of them.
#[test]
fn unread_input_does_not_cut_the_replies_before_it() {
    let watched = Watched::start(&["--max-frame=64KiB", "--linger=1min"]);
    let replies: Vec<u8> = (0..64).flat_map(|number| echo(&[number; 4096])).collect();
    let refused = [&header(ECHO, 100_000)[..], &vec![0xEE; 1 << 20]].concat();
    let rounds = if long() { 10_000 } else { 50 };
    for round in 0..rounds {
        let peer = Peer::connect_narrow(watched.uri(FRAMED));
        thread::scope(|scope| {
            scope.spawn(|| {
                peer.send(&replies);
                peer.send(&refused);
            });
            let (mut got, mut buffer) = (Vec::new(), [0; 3000]);
            let end = loop {
                match peer.read(&mut buffer) {
                    Ok(0) => break End::Fin,
                    Ok(read) => got.extend_from_slice(&buffer[..read]),
                    Err(end) => break end,
                }
                thread::sleep(Duration::from_micros(100)); // Its rate.
            };
            assert_eq!(end, End::Fin, "in round {round}");
            assert_same(&got, &replies);
        });
    }
    println!("0 of {rounds} replies cut");
    watched.assert_unharmed();
}

/// Fault 26: a thousand frames of the maximum length are declared, and four bytes of each are sent;
/// then a bit more. Memory follows what arrived.
#[test]
fn declared_lengths_cost_nothing() {
    const PEERS: u64 = 1000;
    need_descriptors(PEERS + 100);
    let watched = Watched::start(&["--max-frame=16777215"]);
    let pid = watched.server.pid();
    limit(pid, Resource::As, 1 << 30);
    let before = (kib(pid, "VmRSS"), kib(pid, "VmSize"));
    let peers: Vec<_> = (0..PEERS)
        .map(|number| {
            let peer = Peer::connect(watched.uri(number as usize % 2));
            peer.round_trip(&header(ECHO, (1 << 24) - 1));
            peer
        })
        .collect();
    let grown = |name, before| kib(pid, name).saturating_sub(before);
    let declared = (grown("VmRSS", before.0), grown("VmSize", before.1));
    println!("{PEERS} declared: {} KiB resident, {} KiB mapped", declared.0, declared.1);
    assert!(declared.0 <= 16 * PEERS && declared.1 <= 64 * PEERS, "{declared:?}");
    peers.iter().for_each(|peer| peer.round_trip(&[5; 10_000]));
    let under_way = (grown("VmRSS", before.0), grown("VmSize", before.1));
    println!("{PEERS} under way: {} KiB resident, {} KiB mapped", under_way.0, under_way.1);
    assert!(under_way.0 <= 16 * PEERS && under_way.1 <= 64 * PEERS, "{under_way:?}");
    drop(peers);
    watched.assert_unharmed();
}

/// Fault 12: connections that are closed as soon as they are there.
#[test]
fn a_connection_storm_leaves_nothing_behind() {
    let watched = Watched::start(&[]);
    let storm = if long() { 100_000 } else { 5_000 };
    let started = Instant::now();
    thread::scope(|scope| {
        for worker in 0..4 {
            let watched = &watched;
            scope.spawn(move || {
                for number in 0..storm / 4 {
                    let peer = Peer::connect(watched.uri((number + worker) % 3));
                    match number % 8 {
                        0 => drop(peer),
                        1 => peer.half_close(),
                        _ => peer.reset(), // Most, as this leaves no socket in TIME_WAIT.
                    }
                }
            });
        }
    });
    println!("{storm} connections in {:.1?}", started.elapsed());
    watched.assert_unharmed();
}

/// Random bytes, but often such that begin like frames.
fn garbage(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..6) {
        let mut piece = vec![0; random.usize(..150)];
        random.fill(&mut piece);
        let kinds = [ECHO, HELLO, GOAWAY, ERROR, PROBE, 0x84, 0x90, random.u8(..)];
        bytes.extend(match random.u8(..4) {
            0 => piece,
            1 => echo(&piece),
            2 => frame(kinds[random.usize(..kinds.len())], &piece),
            _ => header(random.u8(..), random.usize(..1 << 24)).to_vec(),
        });
    }
    bytes
}

/// One connection of garbage: in pieces, ended in any way.
fn garbage_session(uri: &str, raw: bool, random: &mut fastrand::Rng) {
    let bytes = garbage(random);
    let peer = Peer::connect(uri);
    let cut = random.usize(..=bytes.len());
    let sent = peer.try_send(&bytes[..cut]).and_then(|()| peer.try_send(&bytes[cut..]));
    match random.u8(..4) {
        0 => peer.reset(),
        1 => drop(peer),
        _ if sent.is_ok() && peer.socket().shutdown(Shutdown::Write).is_ok() => {
            let (got, end) = peer.read_to_end();
            if raw {
                assert_eq!((got, end), (bytes, End::Fin));
            }
        }
        _ => {}
    }
}

/// Fault 29: whole sessions of garbage.
#[test]
fn garbage_hurts_nobody() {
    let watched = Watched::start(&[]);
    let before = kib(watched.server.pid(), "VmRSS");
    let sessions = if long() { 200_000 } else { 2_000 };
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("{sessions} sessions, SEED={seed}");
    thread::scope(|scope| {
        for worker in 0..4 {
            let watched = &watched;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed * 4 + worker);
                for number in 0..sessions / 4 {
                    let listener = number % 3;
                    garbage_session(watched.uri(listener), listener == RAW, &mut random);
                }
            });
        }
    });
    let grown = kib(watched.server.pid(), "VmRSS").saturating_sub(before);
    assert!(grown <= 16 << 10, "{grown} KiB");
    watched.assert_unharmed();
}

//! Streams beside a flood of datagrams (fault 43).

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use support::process::long;
use support::traffic::*;
use support::{Server, command_under};

/// The server has the first core, who floods and who measures share the second, so that what the flood
/// costs its sender counts alike in every run.
const SERVER_CORE: &str = "0";
const CLIENT_CORE: usize = 1;

/// Ten times what is answered by default, in bursts.
const FLOOD: usize = 100_000;
const BURST: usize = 100;

fn stay_on_the_clients_core() {
    let mut core = CpuSet::new();
    core.set(CLIENT_CORE);
    sched_setaffinity(None, &core).expect("there are two cores");
}

/// The times of `count` exchanges on a stream while `flooded` gets [`FLOOD`] datagrams a second, and
/// how many those really were.
fn exchanges_beside_a_flood(
    server: &Server,
    flooded: SocketAddr,
    count: usize,
) -> (Vec<Duration>, f64) {
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            stay_on_the_clients_core();
            let flood = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            flood.connect(flooded).expect("an address");
            let mut next = Instant::now();
            while !done.load(Relaxed) {
                for _ in 0..BURST {
                    sent.fetch_add(u64::from(flood.send(&[7; 64]).is_ok()), Relaxed);
                }
                next += Duration::from_secs(1) * BURST as u32 / FLOOD as u32;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        stay_on_the_clients_core();
        let peer = Peer::connect(&server.uris()[0]);
        let began = Instant::now();
        let times = (0..count)
            .map(|_| {
                let asked = Instant::now();
                peer.round_trip(&[7; 64]);
                asked.elapsed()
            })
            .collect();
        let seconds = began.elapsed().as_secs_f64();
        done.store(true, Relaxed);
        (times, sent.load(Relaxed) as f64 / seconds)
    })
}

/// The 99th percentile of exchanges on a stream at most doubles while the other port is flooded with
/// ten times what it answers, compared with a flood that goes past the server.
#[test]
fn streams_go_on_beside_a_flood() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return support::skip("streams_go_on_beside_a_flood", "a second core");
    }
    let (count, tries) = if long() { (50_000, 3) } else { (1_000, 1) };
    let mut command = command_under(&["taskset", "-c", SERVER_CORE]);
    command.args(["--listen=tcp://127.0.0.1:0", "--listen=udp://127.0.0.1:0"]);
    let mut server = Server::start_command(command, 2);
    let past = UdpSocket::bind("127.0.0.1:0").unwrap();
    let past = past.local_addr().unwrap();
    let p99 = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() * 99 / 100]
    };
    let mut best = f64::INFINITY;
    for _ in 0..tries {
        let (calm, _) = exchanges_beside_a_flood(&server, past, count);
        let (flooded, rate) = exchanges_beside_a_flood(&server, server.address_of(1), count);
        let (calm, flooded) = (p99(calm), p99(flooded));
        let ratio = flooded.as_secs_f64() / calm.as_secs_f64();
        println!("p99 of {count}: {calm:.1?} past, {flooded:.1?} beside {rate:.0}/s: {ratio:.2}");
        best = best.min(ratio);
    }
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    println!("{datagrams:?}");
    assert!(datagrams.get("received") > 0, "there was no flood");
    assert!(!long() || best <= 2.0, "p99 grew by a factor of {best:.2}");
}

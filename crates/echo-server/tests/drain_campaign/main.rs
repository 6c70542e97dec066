//! Fault 79: a drain under every state of a connection. 64 connections of mixed kinds talk to one
//! server over TCP and Unix sockets, or all under TLS, SIGTERM comes at a random moment, and every byte
//! that came back is judged. 20 seeds, 500 and 10 million frames under `LONG=1` (under TLS 6 and 100);
//! `SEED=n` runs one.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail as tests do, and a campaign says what it came to"
)]

mod channel;
mod client;
mod judged;
mod script;
#[path = "../support/mod.rs"]
mod support;
mod verdict;

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use channel::Trust;
use client::{Behaviour, Connection, Plan, Stage};
use script::{Pool, Script, Speech};
use support::process::{Queues, long};
use support::{PATIENCE, Server, Signal};
use verdict::{Before, Totals};

const CONNECTIONS: u64 = 64;

#[test]
fn nothing_is_lost_when_the_server_drains() {
    let told = campaign(if long() { (500, 10_000_000) } else { (20, 0) }, None);
    eprintln!("plain: {told}");
}

/// Replies, GOAWAY, close_notify, FIN, in that order.
#[test]
fn nothing_is_lost_under_tls_when_the_server_drains() {
    let told = campaign(if long() { (100, 1_000_000) } else { (6, 0) }, Some(&Trust::new()));
    eprintln!("under TLS: {told}");
}

fn campaign((seeds, frames): (u64, u64), trust: Option<&Trust>) -> String {
    let only = std::env::var("SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = only.map_or(0..seeds, |seed| seed..seed + 1);
    let (pool, started, mut totals) = (Pool::new(), Instant::now(), Totals::default());
    for seed in seeds {
        let run = thread::scope(|scope| scope.spawn(|| drain(seed, &pool, trust)).join());
        match run {
            Ok(run) => totals += run,
            Err(_) => panic!("failed with SEED={seed} (after {totals})"),
        }
    }
    assert!(only.is_some() || totals.frames >= frames, "too few frames for the claim: {totals}");
    format!("{totals}, in {:.1?}", started.elapsed())
}

/// One server, one drain.
fn drain(seed: u64, pool: &Pool, trust: Option<&Trust>) -> Totals {
    let mut random = fastrand::Rng::with_seed(seed);
    // A stuck peer holds the drain up to its deadline; without one, nothing may be cut.
    let stuck = seed % 4 == 3;
    let timeout = if stuck { "1s" } else { "50s" };
    let directory = tempfile::tempdir().unwrap();
    let mut server = serve(directory.path(), trust, timeout);
    let stage = Stage::default();
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|number| plan(number, server.uris(), stuck, &mut random))
        .map(|plan| {
            let script = Script::new(pool, plan.seed, plan.speech);
            Connection::open(plan, trust, script, &stage)
        })
        .collect();
    let frames = random.u64(..if long() { 60_000 } else { 30_000 });
    let (before, outcomes, signalled) = thread::scope(|scope| {
        for connection in &connections {
            scope.spawn(|| connection.write());
        }
        let readers: Vec<_> =
            connections.iter().map(|connection| scope.spawn(|| connection.read())).collect();
        wait_for_traffic(&stage, &connections, frames);
        let before = Before::all(&connections, &Queues::read);
        let signalled = Instant::now();
        server.signal(Signal::TERM);
        stage.draining.update(|draining| *draining = true);
        let outcomes: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        (before, outcomes, signalled)
    });
    let code = server.wait(PATIENCE).code();
    let took = signalled.elapsed();
    let mut totals = Totals::of_server(&server.summary(), code, stuck, &connections);
    let mut cut = Vec::new();
    for ((connection, before), outcome) in connections.iter().zip(&before).zip(outcomes) {
        let judged = outcome.and_then(|outcome| {
            let judged = verdict::judge(connection, before, &outcome, totals.forced > 0)?;
            if judged.cuts > 0 {
                cut.push(format!("{:?}, {before:?}, {outcome:?}", connection.plan));
            }
            Ok(judged)
        });
        match judged {
            Ok(judged) => totals += judged,
            Err(defect) => panic!("{defect}: {:?}, {before:?}", connection.plan),
        }
    }
    // A kernel that runs out of TCP memory resets closed connections too, and says so in its log.
    let forced = totals.forced;
    assert!(totals.cuts <= forced, "more cut than the {forced} forced: {}", cut.join("\n"));
    totals.slowest = if stuck { Duration::ZERO } else { took };
    totals.frames = stage.answers.load(Relaxed);
    totals.bytes = stage.bytes.load(Relaxed);
    totals
}

/// A server with listeners of every mode.
fn serve(directory: &Path, trust: Option<&Trust>, timeout: &str) -> Server {
    let path = |name: &str| directory.join(name).display().to_string();
    let listeners = match trust {
        None => [
            "tcp://127.0.0.1:0".to_owned(),
            "tcp://127.0.0.1:0?mode=framed".to_owned(),
            "tcp://127.0.0.1:0?mode=raw".to_owned(),
            format!("unix:{}", path("auto")),
            format!("unix:{}?mode=framed", path("framed")),
        ],
        // In the places of the same modes. The fourth finds out about TLS by the first byte.
        Some(_) => [
            "tls://127.0.0.1:0",
            "tls://127.0.0.1:0?mode=framed",
            "tls://127.0.0.1:0?mode=raw",
            "tcp://127.0.0.1:0",
            "tls://127.0.0.2:0?mode=framed",
        ]
        .map(str::to_owned),
    };
    let mut args = listeners.map(|uri| format!("--listen={uri}")).to_vec();
    args.push(format!("--drain-timeout={timeout}"));
    // Whoever parks inside a frame, does not read or is slow to close is not at fault here.
    args.extend(["frame", "write"].map(|what| format!("--{what}-timeout=10min")));
    args.push("--linger=10min".to_owned());
    if let Some(trust) = trust {
        for (option, text) in [("cert", &trust.cert), ("key", &trust.key)] {
            fs::write(path(option), text).unwrap();
            args.push(format!("--tls-{option}={}", path(option)));
        }
    }
    Server::start(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Every behaviour meets every way of speaking, each on a listener that understands it.
fn plan(number: u64, uris: &[String], stuck: bool, random: &mut fastrand::Rng) -> Plan {
    use Behaviour::*;
    let behaviours = [Bursts, Flood, Bytewise, HalfClosed, Idle, Deaf, MidFrame, MidHeader];
    let behaviour = behaviours[number as usize % behaviours.len()];
    let framed = matches!(behaviour, MidFrame | MidHeader);
    let speech = match number as usize / behaviours.len() % 3 {
        0 if !framed => Speech::Raw,
        0 | 1 => Speech::Echo,
        _ => Speech::Hello,
    };
    let listeners: &[usize] = if speech == Speech::Raw { &[0, 2, 3] } else { &[0, 1, 3, 4] };
    let uri = uris[listeners[random.usize(..listeners.len())]].clone();
    let stuck = stuck && matches!(behaviour, Deaf | MidFrame) && random.bool();
    Plan { behaviour, speech, uri, seed: random.u64(..), stuck }
}

/// Waits until so many frames have been answered and those that park have parked.
fn wait_for_traffic(stage: &Stage, connections: &[Connection<'_>], frames: u64) {
    let enough = Instant::now() + Duration::from_secs(20);
    while Instant::now() < enough {
        let parked = connections.iter().all(Connection::is_ready);
        if parked && stage.answers.load(Relaxed) >= frames {
            return;
        }
        thread::sleep(Duration::from_micros(300));
    }
}

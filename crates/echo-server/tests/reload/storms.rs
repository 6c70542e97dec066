//! Reloads under load, one after the other, and in a stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use crate::reloadable::*;
use crate::support::traffic::{Peer, echo};
use crate::support::{PATIENCE, Signal};

/// 200 signals, every other one with a file that is half right: each state that is seen is one of
/// the two whole ones, and the connections under load go on.
#[test]
fn two_hundred_signals_under_load() {
    const ROUNDS: usize = 200;
    let mut it = Reloadable::start(FIRST, 2);
    let stop = AtomicBool::new(false);
    let echoes = AtomicU64::new(0);
    thread::scope(|scope| {
        let uri = &it.server.uris()[0];
        for index in 0..8u8 {
            let (stop, echoes) = (&stop, &echoes);
            scope.spawn(move || {
                let peer = Peer::connect(uri);
                // Not more than the lower of both limits.
                let message = echo(&vec![index; 100 * usize::from(index)]);
                while !stop.load(SeqCst) {
                    peer.round_trip(&message);
                    echoes.fetch_add(1, SeqCst);
                }
                peer.half_close();
                assert_eq!(peer.read(&mut [0]), Ok(0), "it ends in order");
            });
        }
        let mut failed = 0;
        for round in 1..=ROUNDS {
            let to_second = round / 2 % 2 == 1;
            let (good, greeting) = if to_second { (SECOND, "second") } else { (FIRST, "first") };
            let before = it.told();
            if round % 2 == 0 {
                it.write(good);
                it.server.signal(Signal::HUP);
                it.server.wait_for_stderr_times("reloaded: ", round / 2);
                let max_frame = if to_second { 2000 } else { 1000 };
                assert_eq!(it.told(), (max_frame, greeting.to_owned()), "round {round}");
            } else {
                // All of the other state, and one mistake at the end.
                let other = if before.1 == "first" { SECOND } else { FIRST };
                it.write(&format!("{other}mistake-{round} = 1\n"));
                it.server.signal(Signal::HUP);
                it.server.wait_for_stderr(&format!("\"mistake-{round}\""));
                failed += 1;
                assert_eq!(it.told(), before, "round {round}");
            }
            match it.told().1 == "first" {
                true => it.listens_only("first", "second"),
                false => it.listens_only("second", "first"),
            }
        }
        assert_eq!(failed, ROUNDS / 2);
        stop.store(true, SeqCst);
    });
    assert!(echoes.load(SeqCst) > ROUNDS as u64, "{echoes:?} echoes are no load");
    assert_eq!(it.server.stop(), Some(0));
    assert_eq!(it.server.summary()["forced"], 0);
    assert_eq!(it.server.stderr().matches("not reloaded, nothing").count(), ROUNDS / 2);
}

/// Fault 71: signals come together, the one that ends it wins.
#[test]
fn a_storm_of_signals_ends_in_a_clean_stop() {
    let mut it = Reloadable::start(FIRST, 2);
    for _ in 0..1000 {
        it.server.signal(Signal::HUP);
    }
    it.server.signal(Signal::TERM);
    assert_eq!(it.server.wait(PATIENCE).code(), Some(0));
    it.server.summary();
}

/// What nobody asked for by name is told once, as long as it stays the same; each who asks is told.
#[test]
fn a_storm_of_failing_reloads_is_told_once() {
    let mut it = Reloadable::start(FIRST, 2);
    it.write("max-farme = 5\n");
    for _ in 0..100 {
        it.server.signal(Signal::HUP);
        // One that was handled: signals that come together are one.
        it.told();
    }
    it.server.wait_for_stderr("not reloaded, nothing has changed");
    it.write("max-framme = 5\n");
    for _ in 0..2 {
        let (code, words) = it.reload();
        assert!(code == Some(1) && words.contains("\"max-framme\""), "{words}");
    }
    assert_eq!(it.server.stop(), Some(0));
    let mut count = |text: &str| it.server.stderr().matches(text).count();
    assert_eq!(count("\"max-farme\""), 1);
    // The last signal may have seen the second file already.
    assert!((2..=3).contains(&count("\"max-framme\"")));
}

#[test]
fn a_reload_during_a_drain_is_told_so() {
    let mut it = Reloadable::start(FIRST, 2);
    let peer = Peer::connect(&it.server.uris()[0]);
    peer.hello();
    it.server.signal(Signal::TERM);
    it.server.wait_for_stderr("draining for at most");
    let (code, words) = it.reload();
    assert!(code == Some(1) && words.contains("not reloaded: the server is stopping"), "{words}");
    drop(peer);
    assert_eq!(it.server.wait(PATIENCE).code(), Some(0));
}

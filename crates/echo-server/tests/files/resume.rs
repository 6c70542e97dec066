//! Uploads that are cut, and go on.

use std::time::Duration;

use tokio::sync::watch::channel;

use super::support::{PATIENCE, Signal, injection};
use super::*;

/// Sends `bytes` in one upload, cut after `at` by `cut`, and resumed.
async fn interrupted(place: &Place, bytes: &[u8], at: usize, cut: impl AsyncFnOnce(Talk)) -> u64 {
    let mut talk = place.connect().await;
    talk.put("a/b", true).await.unwrap();
    for block in bytes[..at].chunks(1 << 20) {
        talk.data(block).await.unwrap();
    }
    cut(talk).await;
    let mut talk = place.connect().await;
    let reply = talk.put("a/b", true).await.unwrap();
    let offset = usize::try_from(reply.offset).unwrap();
    assert_eq!(reply.prefix, sha(&bytes[..offset]));
    for block in bytes[offset..].chunks(1 << 20) {
        talk.data(block).await.unwrap();
    }
    talk.commit(bytes).await.unwrap();
    assert!(fs::read(place.path("a/b")).unwrap() == bytes);
    assert_eq!(place.parts(), 0);
    reply.offset
}

#[test]
fn a_lost_connection_is_resumed_where_it_was() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let bytes = noise(5 << 20, 1);
        for at in [1 << 20, 3 << 20, (4 << 20) + 12_345, 5 << 20] {
            let resumed = interrupted(&place, &bytes, at, async |talk| drop(talk)).await;
            // Less than a block may have been under way.
            assert!(resumed > at as u64 - (512 << 10), "{resumed} of {at}");
        }
    });
}

/// A peer that has gone without a word, as one does whose network has changed, still has its connection here.
#[test]
fn a_silent_connection_is_no_longer_waited_for() {
    let place = Place::new();
    let _server = place.serve_with(&["--anonymous-put", "--files-transfers=1"]);
    run(async {
        let bytes = noise(3 << 20, 7);
        let mut gone = None;
        let at = 2 << 20;
        let resumed = interrupted(&place, &bytes, at, async |talk| gone = Some(talk)).await;
        assert!(resumed > at as u64 - (512 << 10), "{resumed}");
        // Should it come back, it learns so.
        let mut gone = gone.unwrap();
        assert_eq!(gone.data(&bytes[at..]).await, Err(ErrorCode::UnexpectedKind));
        assert_eq!(gone.commit(&bytes).await, Err(ErrorCode::UnexpectedKind));
        assert!(fs::read(place.path("a/b")).unwrap() == bytes);
        gone.store("a/b", b"new").await.unwrap();
        assert!(fs::read(place.path("a/b")).unwrap() == b"new");
    });
}

/// While the disk is slow and blocks wait for it, a peer is not heard, whatever it sends: the thread that writes does not
/// go on for ever with what comes.
#[test]
fn an_upload_on_a_slow_disk_is_taken_over() {
    if !injection::can_inject("an_upload_on_a_slow_disk_is_taken_over") {
        return;
    }
    let place = Place::new();
    // A block is eight of them.
    let _server = place.serve_injected("pwrite64:delay_enter=250000");
    run(async {
        let bytes = noise(64 << 20, 9);
        let mut first = place.connect().await;
        first.put("a", true).await.unwrap();
        let (all, more) = (bytes.clone(), channel(()));
        let mut sending = tokio::task::JoinSet::new();
        sending.spawn(async move {
            for block in all.chunks(512 << 10) {
                if first.data(block).await.is_err() {
                    break;
                }
                more.0.send_replace(());
            }
        });
        // Some blocks have come: one is written, one waits, one fills.
        let mut came = more.1;
        for _ in 0..3 {
            came.changed().await.unwrap();
        }
        let mut second = place.connect().await;
        let reply = second.put("a", true).await.unwrap();
        assert!(reply.offset > 0, "it was waited for in vain");
        assert_eq!(reply.prefix, sha(&bytes[..usize::try_from(reply.offset).unwrap()]));
        sending.join_next().await.unwrap().unwrap();
    });
}

/// But beside one that is heard, another upload of the name is its own.
#[test]
fn a_connection_that_is_heard_keeps_its_upload() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let bytes = noise(2 << 20, 8);
        let (mut first, mut second) = (place.connect().await, place.connect().await);
        first.put("a", true).await.unwrap();
        let mut waiting = tokio::task::JoinSet::new();
        waiting.spawn(async move {
            let reply = second.put("a", true).await.unwrap();
            (second, reply)
        });
        let mut at = 0;
        let (mut second, reply) = loop {
            tokio::select! {
                Some(entered) = waiting.join_next() => break entered.unwrap(),
                sent = first.data(&bytes[at..at + 1000]) => at = usize::try_from(sent.unwrap()).unwrap(),
            }
            // About 1,000 times in the time that the second is patient.
            tokio::time::sleep(Duration::from_millis(3)).await;
            assert!(at < bytes.len() - 1000, "it waits for ever");
        };
        assert_eq!(reply.offset, 0);
        second.data(b"second").await.unwrap();
        second.commit(b"second").await.unwrap();
        let mut rest = place.connect().await;
        assert_eq!(rest.fetch("a").await.unwrap(), b"second");
    });
}

/// Nobody digests for a peer that has left.
#[test]
fn a_prefix_is_digested_only_while_somebody_waits() {
    let place = Place::new();
    // No blocks, and minutes to digest.
    let size = 1 << 40;
    fs::File::create(place.path("a")).unwrap().set_len(size).unwrap();
    let _server = place.serve_with(&["--files-transfers=1"]);
    run(async {
        let mut talk = place.connect().await;
        let get = Get { offset: size, prefix: [0; 32], name: FileName::new(b"a").unwrap() };
        talk.send(Kind::GET, |out| get.put(out)).await;
        talk.0.flush().await.unwrap();
        let mut next = place.connect().await;
        while next.get("a", 0, [0; 32]).await.is_ok() {
            next = place.connect().await;
        }
        drop(talk);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while next.get("a", 0, [0; 32]).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "it goes on for nobody");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn an_upload_outlives_the_servers_restart_and_its_death() {
    let place = Place::new();
    run(async {
        let bytes = noise(5 << 20, 2);
        for signal in [Signal::TERM, Signal::KILL] {
            let mut server = place.serve_with(&["--anonymous-put", "--drain-timeout=200ms"]);
            let mut next = None;
            let resumed = interrupted(&place, &bytes, 3 << 20, async |_talk| {
                server.signal(signal);
                server.wait(PATIENCE);
                next = Some(place.serve());
            });
            // What a block takes that is written, one that waits, and one that fills.
            assert!(resumed.await >= (3 << 20) - 3 * (512 << 10), "{signal:?}");
            drop(next);
        }
    });
}

#[test]
fn a_drain_waits_for_an_upload_and_parks_it_at_its_deadline() {
    let place = Place::new();
    let mut server = place.serve_with(&["--anonymous-put", "--drain-timeout=60s"]);
    let bytes = noise(3 << 20, 3);
    run(async {
        let mut talk = place.connect().await;
        talk.put("a", false).await.unwrap();
        talk.data(&bytes[..1 << 20]).await.unwrap();
        server.signal(Signal::TERM);
        server.wait_for_stderr("draining");
        // The listener is gone; the upload goes on to its end.
        for block in bytes[1 << 20..].chunks(1 << 20) {
            talk.data(block).await.unwrap();
        }
        talk.commit(&bytes).await.unwrap();
        let end = talk.ending().await.to_string();
        assert!(end.contains("the server drains: 5 of 5 frames answered"), "{end}");
    });
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
    assert!(fs::read(place.path("a")).unwrap() == bytes);
}

#[test]
fn a_changed_file_starts_anew() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let (old, new) = (noise(2 << 20, 4), noise(1 << 20, 5));
        let mut talk = place.connect().await;
        talk.put("a", true).await.unwrap();
        talk.data(&old[..1 << 20]).await.unwrap();
        drop(talk);
        let mut talk = place.connect().await;
        let reply = talk.put("a", true).await.unwrap();
        assert!(reply.offset > 0 && reply.prefix != sha(&new[..1000]));
        // The client sees that, and says so.
        assert_eq!(talk.put("a", false).await.unwrap().offset, 0);
        talk.data(&new).await.unwrap();
        talk.commit(&new).await.unwrap();
        assert!(fs::read(place.path("a")).unwrap() == new);
        eventually("nothing is parked", || place.parts() == 0).await;
        assert_eq!(talk.put("a", true).await.unwrap().offset, 0);
    });
}

#[test]
fn leftovers_are_swept_and_broken_states_too() {
    let place = Place::new();
    let bytes = noise(1 << 20, 6);
    let mut server = place.serve();
    run(async {
        for name in ["a", "b", "c", "d"] {
            let mut talk = place.connect().await;
            talk.put(name, true).await.unwrap();
            talk.data(&bytes).await.unwrap();
        }
        eventually("all are parked", || place.parts() == 8).await;
    });
    assert_eq!(server.stop(), Some(0));
    let private = place.path(".echo-server");
    let mut states: Vec<_> = fs::read_dir(&private).unwrap().map(|it| it.unwrap().path()).collect();
    states.retain(|path| path.extension().is_some_and(|it| it == "state"));
    states.sort();
    // One without its state, one with a broken one, one that is old, one that is right; and strangers.
    fs::remove_file(&states[0]).unwrap();
    let mut state = fs::read(&states[1]).unwrap();
    state[30] ^= 1;
    fs::write(&states[1], state).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    fs::File::open(states[2].with_extension("part")).unwrap().set_modified(old).unwrap();
    fs::write(private.join("stray.new"), "x").unwrap();
    fs::write(private.join("9-9.state"), "x").unwrap();
    let _server = place.serve();
    assert_eq!(place.parts(), 2);
    run(async {
        let mut talk = place.connect().await;
        let mut resumed = 0;
        for name in ["a", "b", "c", "d"] {
            resumed += u64::from(talk.put(name, true).await.unwrap().offset > 0);
        }
        assert_eq!(resumed, 1);
    });
}

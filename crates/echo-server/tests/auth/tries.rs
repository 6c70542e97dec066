//! Tries that fail: alike, slower each time, and not for ever.

use std::collections::HashSet;
use std::net::Shutdown;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::house::*;
use crate::support::PATIENCE;
use crate::support::http::Admin;
use crate::support::process::eventually;
use crate::support::traffic::*;

/// A wrong password, an unknown user, a proof of another length: the same bytes, but for nonce and salt.
#[test]
fn what_fails_fails_alike() {
    let house = House::new();
    let mut seen = HashSet::new();
    let (mut salts, mut challenges) = (HashSet::new(), HashSet::new());
    for (user, mangle) in
        [("alice", "password"), ("nobody", "password"), ("alice", "length"), ("nobody", "length")]
    {
        let server = house.open(&[]);
        for _ in 0..2 {
            let peer = meet(&server.uris()[REQUIRED]);
            let (client, first) = client(user, "wrong");
            peer.send(&start(&first));
            let challenge = peer.read_frame().unwrap().payload;
            let text = String::from_utf8(challenge[1..].to_vec()).unwrap();
            let salt = text.split(',').nth(1).unwrap().to_owned();
            salts.insert((user, salt.clone()));
            challenges.insert((text.len(), text.split(',').nth(2).unwrap().to_owned(), salt.len()));
            let (_, proof) = client.answer(text.as_bytes()).unwrap();
            let mut proof = String::from_utf8(proof).unwrap();
            if mangle == "length" {
                proof.truncate(proof.find(",p=").unwrap() + 3);
            }
            peer.send(&response(proof.as_bytes()));
            seen.insert(peer.read_frame().unwrap().payload);
        }
    }
    assert_eq!((seen.len(), challenges.len()), (1, 1), "{seen:?} {challenges:?}");
    assert_eq!(salts.len(), 2, "a salt is always the same for a name: {salts:?}");
}

/// The third failure ends a connection, which is told; the server goes on.
#[test]
fn three_failures_end_a_connection() {
    let house = House::new();
    for listener in [REQUIRED, OPEN] {
        let server = house.open(&[]);
        let peer = meet(&server.uris()[listener]);
        assert_eq!(log_in(&peer, "alice", "x"), Err((5, false)));
        assert_eq!(log_in(&peer, "nobody", PASSWORD), Err((5, false)));
        assert_eq!(log_in(&peer, "alice", "y"), Err((5, true)));
        assert!(peer.read_frame().is_none());
        let peer = meet(&server.uris()[listener]);
        log_in(&peer, "alice", PASSWORD).unwrap();
        peer.round_trip(&echo(b"in"));
    }
}

/// Each failure makes the next try of its source slower, giving up one too; nobody is refused.
#[test]
fn failures_slow_their_source() {
    let house = House::new();
    let mut server = house.open(&["--admin=127.0.0.1:0"]);
    let uri = server.uris()[REQUIRED].clone();
    let took = |password: &str| {
        let (peer, began) = (meet(&uri), Instant::now());
        let _ = log_in(&peer, "alice", password);
        began.elapsed()
    };
    for failures in 0..4 {
        let expected = if failures == 0 { 0 } else { 100 << (failures - 1) };
        if failures == 2 {
            // Given up in the middle: it counts, once the server has seen it.
            drop(challenged(&meet(&uri), "alice", "x"));
            eventually("it has failed", || {
                Admin::of(&server).metrics().get("echo_auth_failure_total") == 3
            });
        } else {
            let took = took("x");
            assert!(took >= Duration::from_millis(expected), "{took:?} after {failures}");
        }
    }
    // Right at last, and not faster for it.
    let right = took(PASSWORD);
    assert!(right >= Duration::from_millis(400), "{right:?}");
    assert_eq!(server.stop(), Some(0));
}

/// What a try costs does not depend on how much of the time to authenticate is left; nor does it take of that.
#[test]
fn each_try_of_a_connection_is_as_slow() {
    let house = House::new();
    let server = house.open(&["--frame-timeout=2500ms"]);
    for _ in 0..3 {
        let _ = log_in(&meet(&server.uris()[REQUIRED]), "alice", "x");
    }
    let peer = meet(&server.uris()[REQUIRED]);
    for (password, millis) in [("x", 400), ("x", 800), (PASSWORD, 1600)] {
        let began = Instant::now();
        assert_eq!(log_in(&peer, "alice", password).is_ok(), password == PASSWORD);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(millis), "{took:?}, not {millis} ms");
    }
    peer.round_trip(&echo(b"in"));
}

/// Or one could go on for ever, as being slowed takes nothing of the time to authenticate.
#[test]
fn an_exchange_that_is_given_up_is_a_failure() {
    let house = House::new();
    let server = house.open(&[]);
    let peer = meet(&server.uris()[REQUIRED]);
    for _ in 0..3 {
        drop(challenged(&peer, "alice", PASSWORD));
    }
    peer.send(&start(&client("alice", PASSWORD).1));
    assert_eq!(peer.read_frame().unwrap().error(), (5, true));
    assert!(peer.read_frame().is_none());
}

/// Who does not authenticate in time is closed.
#[test]
fn authentication_has_a_deadline() {
    let house = House::new();
    let server = house.open(&["--frame-timeout=300ms"]);
    let (began, peer) = (Instant::now(), meet(&server.uris()[REQUIRED]));
    let goaway = peer.read_frame().expect("GOAWAY");
    assert_eq!((goaway.goaway().0, peer.read_frame().is_none()), (3, true));
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < PATIENCE);
    let peer = meet(&server.uris()[OPEN]);
    peer.round_trip(&echo(b"no deadline here"));
}

/// The users of all cases of a random test. The daemon is each one's own: failures slow their source.
fn shared() -> &'static House {
    static SHARED: OnceLock<House> = OnceLock::new();
    SHARED.get_or_init(House::new)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 2_000 } else { 30 }))]

    /// Fault 64: whatever AUTH frames hold, each gets one answer until the third failure, and none of
    /// them is a success.
    #[test]
    fn garbage_gets_one_answer_a_frame(payloads in proptest::collection::vec(prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        "\\x00\\x0dSCRAM-SHA-256[nyp],,n=[a-z=,]{0,6},r=[ -~]{0,9}".prop_map(String::into_bytes),
        "\\x01c=biws,r=[!-~]{0,12},p=[A-Za-z0-9+/]{0,44}".prop_map(String::into_bytes),
    ], 1..3)) {
        let server = shared().open(&[]);
        let peer = meet(&server.uris()[OPEN]);
        for payload in &payloads {
            peer.send(&frame(AUTH, payload));
            let answer = peer.read_frame().expect("one answer for each");
            prop_assert!(answer.kind == ERROR || answer.payload[0] == 0);
        }
        peer.socket().shutdown(Shutdown::Write).unwrap();
        prop_assert!(peer.read_frame().is_none());
    }
}

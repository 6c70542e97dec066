//! Every state of a conversation with every event.

use crate::house::*;
use crate::support::traffic::*;
use crate::support::{Server, Signal};
use crate::trust::{Shown, Trust};

/// What a conversation can have come to. The last two are under TLS, where a certificate was shown: alice's, and
/// one that is nobody's.
const STATES: [&str; 8] = [
    "new",
    "challenged",
    "alice",
    "bob",
    "failed once",
    "failed twice",
    "certificate",
    "stranger's certificate",
];

/// Frames of AUTH's.
const TRIES: [&str; 13] = [
    "start",
    "unknown",
    "mechanism",
    "plus",
    "bad first",
    "right",
    "wrong",
    "short",
    "bad final",
    "empty",
    "op",
    "cut",
    "too long",
];

const OTHERS: [&str; 8] =
    ["ECHO", "empty ECHO", "PROBE", "HELLO", "file", "GOAWAY", "ERROR", "reserved"];

/// An event as it is sent; `proof` answers the challenge, if there is one.
fn sent(event: &str, proof: &[u8]) -> Vec<u8> {
    match event {
        "start" => start(b"n,,n=alice,r=abc"),
        "unknown" => start(b"n,,n=nobody,r=abc"),
        "mechanism" => frame(AUTH, b"\0\x05PLAIN\0alice\0pw"),
        "plus" => frame(AUTH, b"\0\x12SCRAM-SHA-256-PLUSp=tls-exporter,,n=alice,r=abc"),
        "bad first" => start(b"n,,alice"),
        "right" => response(proof),
        "wrong" => response(b"c=biws,r=abc,p=AAAA"),
        "short" => response(b"c=biws,r=abc,p="),
        "bad final" => response(b"c=biws"),
        "empty" => frame(AUTH, b""),
        "op" => frame(AUTH, b"\x02"),
        "cut" => frame(AUTH, b"\0\xffSCRAM"),
        "too long" => frame(AUTH, &[0; 4097]),
        "ECHO" => frame(ECHO, b"x"),
        "empty ECHO" => frame(ECHO, b""),
        "PROBE" => frame(PROBE, &[0; 32]),
        "HELLO" => frame(HELLO, b""),
        "file" => frame(0x90, b"name"),
        "GOAWAY" => frame(GOAWAY, &[0; 10]),
        "ERROR" => frame(ERROR, &[0; 3]),
        _ => frame(0x42, b""),
    }
}

/// What it is answered.
fn expected(required: bool, state: &str, event: &str) -> &'static str {
    let logged_in = matches!(state, "alice" | "bob");
    let inside = logged_in || state == "certificate";
    match event {
        "HELLO" => "0x80",
        "too long" => "ERROR 1",
        "GOAWAY" | "ERROR" | "reserved" => "ERROR 2",
        "ECHO" | "empty ECHO" | "PROBE" if state == "bob" => "ERROR 6",
        "ECHO" | "empty ECHO" | "PROBE" | "file" if required && !inside => "ERROR 5",
        "ECHO" | "empty ECHO" => "0x00",
        "PROBE" => "0x83",
        // This server has none.
        "file" => "ERROR 2",
        _ if logged_in => "ERROR 2",
        "start" | "unknown" => "AUTH 0",
        "plus" if state.ends_with("certificate") => "AUTH 0",
        "mechanism" | "plus" => "ERROR 5",
        "bad first" | "empty" | "op" | "cut" => "ERROR 3",
        "right" if state == "challenged" => "AUTH 1",
        // No exchange is under way.
        "right" | "wrong" | "short" | "bad final" if state != "challenged" => "ERROR 2",
        "bad final" => "ERROR 3",
        _ => "ERROR 5",
    }
}

/// What comes behind that answer, where the conversation is over: after what only servers say or nobody, and after
/// the third failure.
fn end(state: &str, event: &str, answer: &str) -> Option<&'static str> {
    match event {
        "GOAWAY" | "ERROR" | "reserved" | "file" if answer == "ERROR 2" => Some("0x81"),
        _ if !TRIES.contains(&event) || state != "failed twice" => None,
        _ => matches!(answer, "ERROR 3" | "ERROR 5").then_some("end"),
    }
}

/// What has come next: AUTH's status, the code of an ERROR, or the kind.
fn answer(peer: &Peer) -> String {
    match peer.read_frame() {
        None => "end".to_owned(),
        Some(it) if it.kind == ERROR => format!("ERROR {}", it.error().0),
        Some(it) if it.kind == AUTH => format!("AUTH {}", it.payload[0]),
        Some(it) => format!("{:#04x}", it.kind),
    }
}

struct Matrix {
    house: House,
    trust: Trust,
    alice: Shown,
    stranger: Shown,
}

impl Matrix {
    fn new() -> Self {
        let house = House::new();
        let trust = Trust::in_house(&house);
        let (alice, stranger) = (trust.issue_to("alice"), trust.issue_to("stranger"));
        Self { house, trust, alice, stranger }
    }

    /// A connection in that state, and what answers the challenge.
    fn arrive(&self, server: &Server, required: bool, state: &str) -> (Peer, Vec<u8>) {
        let place = if required { REQUIRED } else { OPEN };
        let shown = match state {
            "certificate" => Some(&self.alice),
            "stranger's certificate" => Some(&self.stranger),
            _ => None,
        };
        let peer = match shown {
            None => meet(&server.uris()[place]),
            Some(shown) => self.trust.meet(&server.uris()[place + SECURED], Some(shown)),
        };
        let mut proof = b"c=biws,r=abc,p=AAAA".to_vec();
        match state {
            "challenged" => proof = challenged(&peer, "alice", PASSWORD).0,
            "alice" | "bob" => log_in(&peer, state, PASSWORD).unwrap(),
            "failed once" => assert_eq!(log_in(&peer, "bob", "x"), Err((5, false))),
            "failed twice" => {
                assert_eq!(log_in(&peer, "bob", "x"), Err((5, false)));
                assert_eq!(log_in(&peer, "nobody", "x"), Err((5, false)));
            }
            _ => {}
        }
        (peer, proof)
    }

    /// Runs through all states at both listeners, with a server for each.
    fn for_each_state(&self, mut f: impl FnMut(&Server, bool, &str)) {
        for required in [true, false] {
            for state in STATES {
                let server = self.house.open_secured(&[]);
                f(&server, required, state);
            }
        }
    }
}

/// Every state with every frame of AUTH's and of others', over a real socket.
#[test]
fn every_state_with_every_frame() {
    let matrix = Matrix::new();
    matrix.for_each_state(|shared, required, state| {
        for event in TRIES.into_iter().chain(OTHERS) {
            // What may fail has a server of its own, so that it does not slow the rest.
            let calm = !TRIES.contains(&event) && !state.starts_with("failed");
            let own = (!calm || state == "challenged").then(|| matrix.house.open_secured(&[]));
            let (peer, proof) = matrix.arrive(own.as_ref().unwrap_or(shared), required, state);
            peer.send(&sent(event, &proof));
            let (at, want) = ((required, state, event), expected(required, state, event));
            assert_eq!(answer(&peer), want, "{at:?}");
            match end(state, event, want) {
                Some(end) => assert_eq!(answer(&peer), end, "{at:?}"),
                None => {
                    peer.send(&frame(HELLO, b""));
                    assert_eq!(answer(&peer), "0x80", "in step, {at:?}");
                }
            }
        }
    });
}

/// Every state with the ends that a peer makes: between frames, and inside one of AUTH's.
#[test]
fn every_state_with_every_end() {
    let matrix = Matrix::new();
    matrix.for_each_state(|server, required, state| {
        for cut in [&b""[..], &frame(AUTH, b"\x01c=biws")[..7]] {
            let (peer, _) = matrix.arrive(server, required, state);
            peer.send(cut);
            peer.half_close();
            let at = format!("required {required}, {state}, {cut:?}");
            assert_eq!((peer.read_to_end(), at.clone()), ((Vec::new(), End::Fin), at));
        }
    });
}

/// Every state with a drain: it waits for an exchange that is under way, and for nothing else.
#[test]
fn every_state_with_a_drain() {
    let matrix = Matrix::new();
    matrix.for_each_state(|server, required, state| {
        let (peer, proof) = matrix.arrive(server, required, state);
        server.signal(Signal::TERM);
        server.wait_for_stderr("draining for at most");
        if state == "challenged" {
            peer.send(&response(&proof));
            assert_eq!(answer(&peer), "AUTH 1", "required {required}");
        }
        let goaway = peer.read_frame().expect("GOAWAY");
        assert_eq!(goaway.goaway().0, 0, "required {required}, {state}");
        assert_eq!(answer(&peer), "end", "required {required}, {state}");
    });
}

use proptest::prelude::*;

use super::*;
use crate::frame::mark_probe_reply;

fn sent(messages: &[&[u8]]) -> Pairing {
    let mut pairing = Pairing::new();
    for message in messages {
        pairing.push(message);
        pairing.sent(Instant::now());
    }
    pairing
}

/// What a datagram is taken for, in a word.
fn judged(pairing: &mut Pairing, came: &[u8]) -> String {
    match pairing.judge(came, Instant::now()) {
        Judged::Reply { request, overtaken: false, .. } => format!("reply {}", request.seq),
        Judged::Reply { request, .. } => format!("overtaken {}", request.seq),
        Judged::Late { seq, .. } => format!("late {seq}"),
        Judged::Doubled { seq } => format!("doubled {seq}"),
        Judged::Stale { seq } => format!("stale {seq}"),
        Judged::Different { seq, at, what } => format!("different {seq} at {at}: {what}"),
        Judged::Unexpected => "unexpected".to_owned(),
    }
}

#[test]
fn each_is_told_from_the_others() {
    let mut pairing = sent(&[b"zero", b"one", b"two", b"", b"four"]);
    assert_eq!(judged(&mut pairing, b"two"), "reply 2");
    assert_eq!(judged(&mut pairing, b"two"), "doubled 2");
    assert_eq!(judged(&mut pairing, b"one"), "overtaken 1");
    assert_eq!(judged(&mut pairing, b""), "reply 3");
    assert_eq!(pairing.take_oldest().unwrap().seq, 0);
    assert_eq!(judged(&mut pairing, b"zero"), "late 0");
    assert_eq!(judged(&mut pairing, b"zero"), "doubled 0");
    assert_eq!(judged(&mut pairing, b"fo"), "different 4 at 2: the reply is cut to 2 of 4 bytes");
    let long = "different 4 at 4: the reply has 5 bytes, 4 were sent";
    assert_eq!(judged(&mut pairing, b"four."), long);
    let other = "different 4 at 1: the reply has 0x75 where 0x6f was sent";
    assert_eq!(judged(&mut pairing, b"fuor"), other);
    assert_eq!(judged(&mut pairing, b"four"), "reply 4");
    assert_eq!(judged(&mut pairing, b"fuor"), "unexpected");
    assert_eq!((pairing.unanswered(), pairing.cost), (0, 0));
}

/// What has not been sent cannot be answered.
#[test]
fn nothing_is_answered_before_it_is_sent() {
    let mut pairing = Pairing::new();
    pairing.push(b"early");
    assert_eq!(judged(&mut pairing, b"early"), "unexpected");
    assert!(pairing.oldest().is_none() && pairing.take_oldest().is_none());
    pairing.sent(Instant::now());
    assert_eq!(judged(&mut pairing, b"early"), "reply 0");
}

#[test]
fn of_equal_messages_the_first_is_answered_first() {
    let mut pairing = sent(&[b"same", b"same"]);
    assert_eq!(judged(&mut pairing, b"same"), "reply 0");
    assert_eq!(judged(&mut pairing, b"same"), "reply 1");
    assert_eq!(judged(&mut pairing, b"same"), "doubled 1");
}

/// A reply to a PROBE as a server that stamps makes it.
fn stamped(probe: &[u8], received: u64, sent: u64) -> Vec<u8> {
    let mut reply = probe.to_vec();
    mark_probe_reply(reply[HEADER_LEN..].first_chunk_mut().unwrap(), received, sent);
    reply
}

#[test]
fn probes_are_known_whatever_they_carry() {
    let mut pairing = Pairing::new();
    let mut wire = Vec::new();
    for _ in 0..4 {
        pairing.push_probe(b"same");
        wire.push(pairing.unsent().unwrap().datagram.clone());
        pairing.sent(Instant::now());
    }
    match pairing.judge(&stamped(&wire[1], 5, 7), Instant::now()) {
        Judged::Reply { request, stamps, .. } => {
            assert_eq!((request.seq, request.len()), (1, 4));
            assert_eq!(stamps, Some(Stamps { received: 5, sent: 7 }));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(judged(&mut pairing, &stamped(&wire[1], 6, 8)), "doubled 1");
    // An RFC 862 server changes nothing.
    assert_eq!(judged(&mut pairing, &wire[0]), "overtaken 0");
    let mut wrong = stamped(&wire[3], 5, 7);
    wrong[PROBE_HEAD + 2] = b'X';
    let told = "different 3 at 2: the reply has 0x58 where 0x6d was sent";
    assert_eq!(judged(&mut pairing, &wrong), told);
    let told = "different 3 at 3: the reply is cut to 39 of 40 bytes";
    assert_eq!(judged(&mut pairing, &stamped(&wire[3], 5, 7)[..39]), told);
    let told = judged(&mut pairing, &stamped(&wire[3], 7, 5));
    assert!(told.starts_with("different 3 at 0: a PROBE was sent back before"), "{told}");
    assert_eq!(judged(&mut pairing, &stamped(&wire[3], 7, 7)), "reply 3");
    assert_eq!(pairing.take_oldest().unwrap().seq, 2);
    assert_eq!(judged(&mut pairing, &stamped(&wire[2], 1, 2)), "late 2");
    // Those of another client.
    let mut other = Pairing::new();
    other.push_probe(b"same");
    let other = other.unsent().unwrap().datagram.clone();
    assert_eq!(judged(&mut pairing, &other), "unexpected");
}

/// The server's clock may be fast, but not the faster for the datagram's being on its way.
#[test]
fn times_outside_the_round_trip_are_not_believed() {
    let sent = Instant::now();
    let took = Duration::from_millis(10);
    let believed = |in_server: Duration| {
        let mut pairing = Pairing::new();
        pairing.push_probe(b"body");
        let wire = pairing.unsent().unwrap().datagram.clone();
        pairing.sent(sent);
        let came = stamped(&wire, 1, 1 + in_server.as_nanos() as u64);
        match pairing.judge(&came, sent + took) {
            Judged::Reply { .. } => true,
            Judged::Different { seq: 0, at: 0, what } => {
                let told = format!(
                    "a PROBE was with the server for {in_server:?}, its stamps say, and back"
                );
                assert!(what.starts_with(&told), "{what}");
                // It is no reply, and its request still waits.
                assert_eq!(judged(&mut pairing, &wire), "reply 0");
                false
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(believed(Duration::ZERO) && believed(took) && believed(took + took / 1000));
    assert!(!believed(took + took / 900) && !believed(Duration::from_secs(1 << 32)));
}

/// A message that is a PROBE itself is stamped too, and no less the reply for that.
#[test]
fn a_plain_message_may_be_a_probe() {
    let mut message = vec![9; PROBE_HEAD];
    message[..HEADER_LEN].copy_from_slice(&[0x83, 0, 0, 32]);
    message[MARK] = 2;
    let mut pairing = sent(&[&message, &message]);
    assert_eq!(judged(&mut pairing, &stamped(&message, 1, 2)), "reply 0");
    assert_eq!(judged(&mut pairing, &message), "reply 1");
    assert_eq!(judged(&mut pairing, &stamped(&message, 3, 4)), "doubled 1");
}

#[test]
fn memory_is_bounded() {
    let mut pairing = Pairing::new();
    for number in 0..10 * REMEMBERED as u64 {
        pairing.push(&number.to_be_bytes());
        pairing.sent(Instant::now());
        assert!(pairing.take_oldest().is_some());
    }
    assert_eq!((pairing.lost.len(), pairing.waiting.len()), (REMEMBERED, 0));
    assert_eq!(pairing.room(1 << 20), (1 << 20) - ENTRY);
    assert_eq!(judged(&mut pairing, &0u64.to_be_bytes()), "unexpected");
    // A number is known for ever.
    let mut probes = Vec::new();
    for _ in 0..=REMEMBERED {
        pairing.push_probe(b"");
        probes.push(pairing.unsent().unwrap().datagram.clone());
        pairing.sent(Instant::now());
        let came = probes.last().unwrap();
        assert!(judged(&mut pairing, came).starts_with("reply"));
    }
    assert_eq!(pairing.answered.len(), REMEMBERED);
    let seq = 10 * REMEMBERED;
    assert_eq!(judged(&mut pairing, &probes[0]), format!("stale {seq}"));
    assert_eq!(judged(&mut pairing, &probes[1]), format!("doubled {}", seq + 1));
}

proptest! {
    /// Whatever the path drops, doubles and reorders: each request is answered or lost, once, and what
    /// came beyond that is called doubled.
    #[test]
    fn each_request_comes_to_one_end(copies in proptest::collection::vec(0usize..3, 1..40), probes: bool, seed: u64) {
        let mut pairing = Pairing::new();
        let mut network = Vec::new();
        for (seq, copies) in copies.iter().enumerate() {
            // Few contents: equal ones are the hard case.
            let body = [(seq % 3) as u8];
            if probes { pairing.push_probe(&body) } else { pairing.push(&body) };
            let datagram = pairing.unsent().unwrap().datagram.clone();
            pairing.sent(Instant::now());
            network.extend(std::iter::repeat_n(datagram, *copies));
        }
        fastrand::Rng::with_seed(seed).shuffle(&mut network);
        let (mut answered, mut doubled) = (Vec::new(), 0);
        for came in &network {
            match pairing.judge(came, Instant::now()) {
                Judged::Reply { request, .. } => answered.push(request.seq),
                Judged::Doubled { .. } => doubled += 1,
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert_eq!(answered.len() + doubled, network.len());
        if probes {
            let due = copies.iter().filter(|copies| **copies > 0).count();
            prop_assert_eq!(answered.len(), due);
        }
        while let Some(request) = pairing.take_oldest() {
            answered.push(request.seq);
        }
        answered.sort_unstable();
        prop_assert_eq!(answered, (0..copies.len() as u64).collect::<Vec<_>>());
    }

    /// No datagram makes it panic, or is taken for what it is not.
    #[test]
    fn anything_may_come(came in proptest::collection::vec(prop_oneof![Just(0x83u8), 0u8..40, any::<u8>()], 0..80)) {
        let mut pairing = sent(&[b"plain"]);
        pairing.push_probe(b"body");
        pairing.sent(Instant::now());
        if let Judged::Reply { .. } = pairing.judge(&came, Instant::now()) {
            prop_assert_eq!(&came[..], b"plain");
        }
    }
}

//! What comes back, right and wrong.

use proptest::bool;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

#[test]
fn a_difference_is_counted_in_the_payload() {
    for (dialect, at) in [(Dialect::Raw, 6), (Dialect::Framed, 6 + 2 * HEADER_LEN)] {
        let (mut requests, mut sent) = asked(dialect, &[b"abcd", b"efgh", b"i"]);
        sent[at] = 0x20;
        let (verified, outcome) = check(&mut requests, &sent);
        assert_eq!(verified, b"abcdef");
        let behind = if dialect == Dialect::Raw { "abcdef" } else { "ef" };
        let shown = if dialect == Dialect::Raw { ("ghi", " hi") } else { ("gh", " h") };
        let told = format!(
            "different at byte 6: sent 0x67, received 0x20: \"{}\" came back as \"{}\", behind \
             \"{behind}\"",
            shown.0, shown.1
        );
        assert_eq!(outcome, Err(told));
    }
}

/// However long the message is and whatever is in it, what is shown of it is short and on one line.
#[test]
fn a_difference_is_shown_in_its_place() {
    let payload = b"\x1b[31m long \n before, and long behind it as well";
    for at in 0..payload.len() {
        let (mut requests, mut sent) = asked(Dialect::Framed, &[payload]);
        sent[HEADER_LEN + at] = 0x9B;
        let told = check(&mut requests, &sent).1.unwrap_err();
        assert!(told.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{told}");
        let quoted: Vec<_> = told.split('"').skip(1).step_by(2).collect();
        let shown = |from: usize, to: usize| payload[from..to].escape_ascii().to_string();
        assert_eq!(quoted[0], shown(at, payload.len().min(at + 12)), "{told}");
        assert!(quoted[1].starts_with("\\x9b"), "{told}");
        let behind = shown(at.saturating_sub(12), at);
        assert_eq!(quoted.get(2).copied().unwrap_or_default(), behind, "{told}");
    }
}

#[test]
fn a_header_must_come_back_too() {
    for pieces in [1, 2, 6] {
        let (mut requests, mut sent) = asked(Dialect::Framed, &[b"ab"]);
        sent[3] = 1;
        let outcome = sent.chunks(pieces).find_map(|piece| requests.receive(piece).err());
        let told = "different at byte 1: a frame of 2 bytes came back as one of 1";
        assert_eq!(outcome.unwrap().to_string(), told);
    }
    let (mut requests, mut sent) = asked(Dialect::Framed, &[b"ab"]);
    sent[0] = 0x83;
    let outcome = check(&mut requests, &sent).1;
    let told = "different at byte 0: a frame of kind ECHO came back as one of PROBE";
    assert_eq!(outcome, Err(told.to_owned()));
}

/// Doubled and reordered replies, when others are due.
#[test]
fn replies_out_of_their_place_are_differences() {
    for order in [[0, 0, 1], [1, 0, 2], [0, 2, 1]] {
        let payloads: [&[u8]; 3] = [b"first", b"other", b"third"];
        let (mut requests, _) = asked(Dialect::Framed, &payloads);
        let wire: Vec<u8> =
            order.iter().flat_map(|it| control(Kind::ECHO, payloads[*it])).collect();
        let outcome = check(&mut requests, &wire).1.unwrap_err();
        let at = if order[0] == 0 { 5 } else { 0 };
        assert!(outcome.starts_with(&format!("different at byte {at}: sent")), "{outcome}");
    }
}

#[test]
fn what_nobody_asked_for_is_told_apart() {
    let (mut requests, sent) = asked(Dialect::Raw, &[b"ab"]);
    assert_eq!(check(&mut requests, &[&sent[..], b"c"].concat()), (b"ab".to_vec(), Ok(())));
    assert_eq!((requests.unexpected().bytes, requests.unexpected().at), (&b"c"[..], 2));

    // A doubled reply, cut anywhere; what is asked then is answered as ever.
    for cut in 1..11 {
        let (mut requests, sent) = asked(Dialect::Framed, &[b"abcdef"]);
        let twice = [&sent[..], &sent[..]].concat();
        let (now, later) = twice.split_at(sent.len() + cut);
        assert_eq!(check(&mut requests, now), (b"abcdef".to_vec(), Ok(())));
        let mut unexpected = requests.unexpected().bytes.to_vec();
        requests.forget_unexpected();
        requests.push(Kind::ECHO, &[], b"more");
        let sent_more = send_all(&mut requests);
        if cut >= HEADER_LEN {
            let came = [later, &sent_more].concat();
            assert_eq!(check(&mut requests, &came), (b"more".to_vec(), Ok(())), "{cut}");
            unexpected.extend_from_slice(requests.unexpected().bytes);
            assert_eq!(unexpected, sent);
            assert_eq!(requests.unexpected().dialect, Dialect::Framed);
        } else {
            // Its header came when something was due: then it is a wrong reply.
            assert!(
                check(&mut requests, later).1.unwrap_err().starts_with("different at byte 6: ")
            );
        }
    }

    // Not even what is about to be asked.
    for dialect in [Dialect::Raw, Dialect::Framed] {
        let mut requests = fresh(dialect);
        requests.push(Kind::ECHO, &[], b"abc");
        let wire = requests.unsent().to_vec();
        requests.mark_sent(wire.len() - 2, Instant::now());
        let (verified, outcome) = check(&mut requests, &wire[..wire.len() - 1]);
        assert_eq!(verified, b"a");
        assert!(outcome.is_err() || !requests.unexpected().bytes.is_empty());
    }

    for kind in [0x01, 0x80, 0x90, 0xFF] {
        let (mut requests, _) = asked(Dialect::Framed, &[b"ab"]);
        let outcome = check(&mut requests, &control(Kind(kind), b"x")).1;
        assert!(outcome.unwrap_err().contains("nobody asked for"), "{kind:#x}");
    }
}

#[test]
fn an_error_frame_answers_one_request() {
    let (mut requests, sent) = asked(Dialect::Framed, &[b"abcd", b"efgh", b"ijkl"]);
    let error = control(Kind::ERROR, b"\0\x01\0no\x1b[2J");
    let wire = [&sent[..8], &error, &sent[16..]].concat();
    requests.receive(&wire).unwrap();
    assert_eq!(requests.take().unwrap().unwrap().seq, 0);
    let refused = requests.take().unwrap().unwrap();
    let Refused { code, text, closes } = *refused.refused.unwrap();
    assert_eq!((refused.seq, code, &text[..], closes), (1, ErrorCode::TooLong, "no\x1b[2J", false));
    assert_eq!(replies(&mut requests), (vec![(2, b"ijkl".to_vec())], vec![]));
    requests.receive(&goaway(2, 4)).unwrap();
    assert_eq!(requests.goaway().unwrap().answered, 4);
}

/// ERROR comes at a header. What of the payload has not gone out goes out after it.
#[test]
fn a_refused_request_is_still_sent_whole() {
    let mut requests = fresh(Dialect::Framed);
    requests.push(Kind::ECHO, &[], &[7; 300_000]);
    requests.mark_sent(HEADER_LEN, Instant::now());
    requests.receive(&control(Kind::ERROR, b"\0\x01\0")).unwrap();
    assert!(requests.take().unwrap().unwrap().refused.is_some());
    requests.release();
    assert_eq!(requests.unsent().len(), 300_000);
    requests.push(Kind::ECHO, &[], b"next");
    assert_eq!(requests.unsent().len(), 300_000 + HEADER_LEN + 4);
    // Pushing moves nothing that has still to go out.
    for _ in 0..1000 {
        requests.push(Kind::ECHO, &[], &[8; 1000]);
    }
    let wire = send_all(&mut requests);
    assert!(wire[..300_000].iter().all(|byte| *byte == 7));
    requests.receive(&wire[300_000..]).unwrap();
    assert_eq!(replies(&mut requests).0.len(), 1001);
    // On another connection it is not asked again.
    requests.push(Kind::ECHO, &[], &[7; 100]);
    requests.push(Kind::ECHO, &[], b"kept");
    requests.mark_sent(HEADER_LEN, Instant::now());
    requests.receive(&control(Kind::ERROR, b"\0\x01\0")).unwrap();
    assert!(requests.take().unwrap().unwrap().refused.is_some());
    assert_eq!(requests.start_over(Dialect::Framed, 1), 0);
    assert_eq!(requests.unsent(), b"\0\0\0\x04kept");
}

#[test]
fn an_error_frame_without_a_request_is_the_servers_word() {
    let error = control(Kind::ERROR, b"\0\x03\0no\x1b[2J");
    let (mut idle, _) = asked(Dialect::Framed, &[]);
    let told = "refused: the server says: no\\u{1b}[2J (error 3, malformed)";
    assert_eq!(check(&mut idle, &error).1, Err(told.to_owned()));
    let (mut requests, _) = asked(Dialect::Framed, &[b"ab"]);
    assert!(check(&mut requests, &control(Kind::ERROR, b"")).1.is_err());
    let (mut requests, _) = asked(Dialect::Framed, &[b"ab"]);
    let outcome = check(&mut requests, b"\x82\x00\x10\x01").1;
    assert!(outcome.unwrap_err().contains("over the limit of 4096"), "seen at its header");
}

#[test]
fn a_goaway_counts_and_is_the_last_frame() {
    let (mut requests, sent) = asked(Dialect::Framed, &[b"abcd", b"ef"]);
    let wire = [&sent[..8], &goaway(0, 2)].concat();
    assert_eq!(check(&mut requests, &wire), (b"abcd".to_vec(), Ok(())));
    assert_eq!(requests.goaway().unwrap().answered, 2);
    assert!(check(&mut requests, &sent[8..]).1.unwrap_err().contains("goes on after its GOAWAY"));
    // The next connection counts from its own start.
    assert_eq!(requests.start_over(Dialect::Framed, 1), 1);
    assert_eq!(send_all(&mut requests), b"\0\0\0\x02ef");
    let wire = [&sent[8..], &goaway(0, 2)].concat();
    assert_eq!(check(&mut requests, &wire), (b"ef".to_vec(), Ok(())));
}

#[test]
fn a_goaway_that_miscounts_is_a_defect() {
    for said in [0, 1, 3, u64::MAX] {
        let (mut requests, sent) = asked(Dialect::Framed, &[b"abcd", b"ef"]);
        let (verified, outcome) = check(&mut requests, &[&sent[..8], &goaway(1, said)].concat());
        assert_eq!(verified, b"abcd");
        let words = outcome.unwrap_err();
        assert!(words.starts_with("different at byte 4: "), "{words}");
        assert!(words.contains("1 of 2 frames answered, but it counts"), "{words}");
    }
    let (mut requests, _) = asked(Dialect::Framed, &[b"ab"]);
    assert!(check(&mut requests, &control(Kind::GOAWAY, b"\0")).1.is_err());
    // Who has not said HELLO gets none.
    let (mut requests, _) = asked(Dialect::Framed, &[]);
    requests.start_over(Dialect::Framed, 0);
    assert!(check(&mut requests, &goaway(0, 0)).1.unwrap_err().contains("nobody asked for"));
}

/// Stamps of every kind, cut anywhere, between other replies.
#[test]
fn probes_bring_the_servers_times() {
    for (received, sent) in [(0, 0), (1, 2), (5 << 40, 6 << 40), (u64::MAX - 1, u64::MAX)] {
        for cut in 1..60 {
            let mut requests = fresh(Dialect::Framed);
            requests.push(Kind::ECHO, &[], b"ab");
            requests.push(Kind::PROBE, &[0; PROBE_MIN_LEN as usize], b"body");
            requests.push(Kind::ECHO, &[], b"cd");
            let wire = send_all(&mut requests);
            let (echo, rest) = wire.split_at(6);
            let (probe, other) = rest.split_at(40);
            let came = [echo, &stamped(probe, received, sent), other].concat();
            for piece in came.chunks(cut) {
                requests.receive(piece).unwrap();
            }
            assert_eq!(requests.take().unwrap().unwrap().stamps, None);
            let answered = requests.take().unwrap().unwrap();
            assert_eq!(answered.stamps, Some(Stamps { received, sent }));
            assert_eq!(requests.bytes(answered.payload), b"body");
            assert_eq!(requests.take().unwrap().unwrap().seq, 2);
        }
    }
}

/// The first byte that is not as sent is what counts, not that the length is another one.
#[test]
fn another_length_is_told_at_the_byte_that_differs() {
    for (reply, at) in [
        (&b"\0\0\0\x03efg"[..], 7),
        (b"\0\0\0\x05efghi", 8),
        (b"\0\0\0\x03exg", 5),
        (b"\0\0\0\x05xfghi", 4),
        (b"\0\0\0\0", 4),
        (b"\0\xff\0\0efgh", 8),
    ] {
        for pieces in 1..reply.len() {
            let (mut requests, sent) = asked(Dialect::Framed, &[b"abcd", b"efgh", b"i"]);
            let came = [&sent[..8], reply].concat();
            let error = came.chunks(pieces).find_map(|piece| requests.receive(piece).err());
            let words = error.unwrap().to_string();
            let first = format!("different at byte {at}: a frame of 4 bytes came back as one of ");
            assert!(words.starts_with(&first), "{reply:?}: {words}");
        }
    }
    let (mut requests, _) = asked(Dialect::Framed, &[b"a"]);
    let words = requests.receive(b"\0\0\0\0").unwrap_err().to_string();
    assert_eq!(words, "different at byte 0: a frame of 1 byte came back as one of 0");
}

#[test]
fn probes_are_judged() {
    let probe = |requests: &mut Requests| {
        requests.push(Kind::PROBE, &[0; PROBE_MIN_LEN as usize], b"body");
        send_all(requests)
    };
    let outcome = |wire: &[u8]| {
        let mut requests = fresh(Dialect::Framed);
        probe(&mut requests);
        requests.receive(wire)?;
        requests.take().map(|answered| assert!(answered.is_none()))
    };
    let wire = probe(&mut fresh(Dialect::Framed));
    // As it was sent, without the server's mark; back before it was there.
    assert!(outcome(&wire).unwrap_err().to_string().starts_with("different at byte 24: "));
    let early = stamped(&wire, 2, 1);
    assert!(outcome(&early).unwrap_err().to_string().starts_with("different at byte 8: "));
    for (at, told) in [(5, 1), (MARK, 24), (MARK + 1, 25), (HEADER_LEN + 33, 33)] {
        let mut wire = stamped(&wire, 1, 2);
        wire[at] ^= 0x40;
        let error = outcome(&wire).unwrap_err().to_string();
        assert!(error.starts_with(&format!("different at byte {told}: ")), "{error}");
    }
    // What a lost connection brought of the stamps does not go out again.
    let mut requests = fresh(Dialect::Framed);
    let wire = probe(&mut requests);
    requests.receive(&stamped(&wire, u64::MAX, u64::MAX)[..wire.len() - 1]).unwrap();
    assert_eq!(requests.start_over(Dialect::Framed, 1), 1);
    assert_eq!(requests.unsent(), wire);
    requests.mark_sent(wire.len(), Instant::now());
    requests.receive(&stamped(&wire, 1, 3)).unwrap();
    let answered = requests.take().unwrap().unwrap();
    assert_eq!((answered.stamps, answered.resent), (Some(Stamps { received: 1, sent: 3 }), true));
}

/// What is changed of the bytes that were sent, before they come back.
#[derive(Clone, Debug)]
enum Lie {
    /// A byte, to this.
    Change(Index, u8),
    /// These bytes between.
    Insert(Index, Vec<u8>),
    /// The rest is cut off.
    Cut(Index),
}

fn lie() -> impl Strategy<Value = Lie> {
    let byte = select(vec![0, 1, 0x80, 0x81, 0x82, 0x83, 0xFF]);
    let inserted = prop_oneof![
        (0..6_u16, 0..7_u64).prop_map(|(reason, answered)| goaway(reason, answered)),
        (0..5_u8, 0..2_u8).prop_map(|(code, on)| control(Kind::ERROR, &[0, code, on, b'x'])),
        Just(control(Kind::ECHO, b"abcdefgh")),
        vec(any::<u8>(), 0..9),
        (any::<u8>(), 0..8_usize).prop_map(|(kind, len)| control(Kind(kind), &[0; 8][..len])),
    ];
    prop_oneof![
        3 => (any::<Index>(), byte).prop_map(|(at, byte)| Lie::Change(at, byte)),
        3 => (any::<Index>(), inserted).prop_map(|(at, bytes)| Lie::Insert(at, bytes)),
        1 => any::<Index>().prop_map(Lie::Cut),
    ]
}

/// A frame's beginning or end is where most can go wrong.
fn place(wire: &[u8], at: Index) -> usize {
    let ends = [0, 12, 16, 31, 39, wire.len()];
    match at.index(2 * (wire.len() + 1)) {
        at if at <= wire.len() => at,
        at => ends[at % ends.len()].min(wire.len()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 10_000_000 } else { 20_000 }))]

    /// Fault 29: whatever a server sends, in whatever pieces, ends in a judgement: no panic, no reply
    /// that is not the request's, none out of order, no memory beyond what came.
    #[test]
    fn random_servers(
        raw in bool::weighted(0.25),
        probes in any::<bool>(),
        sent in any::<Index>(),
        lies in vec(lie(), 0..6),
        pieces in vec(1..100_usize, 1..8),
    ) {
        let dialect = if raw { Dialect::Raw } else { Dialect::Framed };
        let mut requests = fresh(dialect);
        let payloads: [&[u8]; 4] = [b"abcdefgh", b"", b"another one", b"\0\0\0\x01"];
        for payload in payloads {
            requests.push(Kind::ECHO, &[], payload);
        }
        if probes && !raw {
            requests.push(Kind::PROBE, &[0; PROBE_MIN_LEN as usize], b"");
        }
        let mut input = requests.unsent().to_vec();
        requests.mark_sent(sent.index(input.len() + 1), Instant::now());
        for lie in lies {
            match lie {
                Lie::Change(at, byte) if !input.is_empty() => {
                    let at = at.index(input.len());
                    input[at] = byte;
                }
                Lie::Insert(at, bytes) => {
                    let at = place(&input, at);
                    input.splice(at..at, bytes);
                }
                Lie::Cut(at) => input.truncate(at.index(input.len() + 1)),
                Lie::Change(..) => {}
            }
        }
        let (mut rest, mut next_seq) = (&input[..], 0);
        for len in pieces.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*len));
            rest = after;
            let judged = requests.receive(piece);
            while let Ok(Some(answered)) = requests.take() {
                prop_assert_eq!(answered.seq, next_seq);
                next_seq += 1;
                if answered.refused.is_none() && answered.stamps.is_none() {
                    let want = payloads[answered.seq as usize];
                    prop_assert_eq!(requests.bytes(answered.payload), want);
                }
            }
            prop_assert!(requests.unexpected().bytes.len() <= input.len() + HEADER_LEN);
            requests.counts();
            requests.is_inside_frame();
            if judged.is_err() || rest.is_empty() {
                break;
            }
        }
        let (unanswered, answered) = requests.byte_counts();
        prop_assert_eq!(unanswered + answered, requests.asked_bytes);
        requests.start_over(dialect, 1);
    }
}

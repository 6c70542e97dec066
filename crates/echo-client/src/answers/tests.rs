use super::*;

const FRAMED: Dialect = Dialect::Framed { max_frame: NonZeroU32::new(4).unwrap() };

/// Everything that `answers` wants to send, marked as sent.
fn send_all(answers: &mut Answers) -> Vec<u8> {
    let sent = answers.to_send().iter().flat_map(|piece| piece.to_vec()).collect::<Vec<_>>();
    assert_eq!(sent.len(), answers.unsent());
    answers.mark_sent(sent.len());
    sent
}

fn asked(dialect: Dialect, payload: &[u8]) -> (Answers, Vec<u8>) {
    let mut answers = Answers::new(dialect);
    answers.ask(payload);
    let sent = send_all(&mut answers);
    (answers, sent)
}

/// What of `input` is verified, and how the judgement ends.
fn check(answers: &mut Answers, input: &[u8]) -> (Vec<u8>, Result<(), String>) {
    let mut verified = Vec::new();
    let outcome = answers.check(input, &mut verified).map_err(|failure| failure.to_string());
    (verified, outcome)
}

fn control(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, len: payload.len() as u32 };
    [&header.to_bytes()[..], payload].concat()
}

fn goaway(reason: u16, answered: u64) -> Vec<u8> {
    control(Kind::GOAWAY, &[&reason.to_be_bytes()[..], &answered.to_be_bytes()].concat())
}

#[test]
fn frames_are_cut_at_the_servers_limit() {
    let (mut answers, sent) = asked(FRAMED, b"abcdefghi");
    assert_eq!(sent, b"\0\0\0\x04abcd\0\0\0\x04efgh\0\0\0\x01i");
    assert_eq!(check(&mut answers, &sent), (b"abcdefghi".to_vec(), Ok(())));
    assert!(answers.is_complete() && !answers.is_inside_frame());
    assert_eq!((answers.frames_asked, answers.frames_answered), (3, 3));
    assert_eq!((answers.answered(), answers.unanswered()), (9, 0));
}

/// Fault 8: however the answers are cut on their way, and whatever has been asked meanwhile.
#[test]
fn splits_do_not_matter() {
    for dialect in [Dialect::Raw, FRAMED] {
        for seed in 0..if std::env::var_os("LONG").is_some() { 100_000 } else { 1000 } {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut answers = Answers::new(dialect);
            let (mut payload, mut wire, mut back) = (Vec::new(), VecDeque::new(), Vec::new());
            for _ in 0..random.usize(0..40) {
                let chunk: Vec<u8> = (0..random.usize(1..20)).map(|_| random.u8(..)).collect();
                answers.ask(&chunk);
                payload.extend_from_slice(&chunk);
                let pieces = answers.to_send();
                let waiting: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
                let taken = random.usize(..=waiting.len());
                wire.extend(&waiting[..taken]);
                answers.mark_sent(taken);
                let came = random.usize(..=wire.len());
                let came: Vec<u8> = wire.drain(..came).collect();
                answers.check(&came, &mut back).unwrap();
            }
            wire.extend(send_all(&mut answers));
            answers.check(wire.make_contiguous(), &mut back).unwrap();
            assert!(answers.is_complete(), "seed {seed}");
            assert_eq!(back, payload, "seed {seed}");
        }
    }
}

#[test]
fn a_difference_is_counted_in_the_payload() {
    for (dialect, at) in [(Dialect::Raw, 6), (FRAMED, 6 + 2 * HEADER_LEN)] {
        let (mut answers, mut sent) = asked(dialect, b"abcdefghi");
        sent[at] = 0x20;
        let (verified, outcome) = check(&mut answers, &sent);
        assert_eq!(verified, b"abcdef");
        assert_eq!(outcome, Err("different at byte 6: sent 0x67, received 0x20".to_owned()));
    }
}

#[test]
fn a_header_must_come_back_too() {
    let (mut answers, mut sent) = asked(FRAMED, b"ab");
    sent[3] = 1;
    let outcome = Err("different at byte 0: a frame of 2 bytes came back as one of 1".to_owned());
    assert_eq!(check(&mut answers, &sent).1, outcome);
}

#[test]
fn nothing_comes_unasked() {
    let (mut answers, sent) = asked(Dialect::Raw, b"ab");
    let (verified, outcome) = check(&mut answers, &[&sent[..], b"c"].concat());
    assert_eq!(verified, b"ab");
    assert!(outcome.unwrap_err().starts_with("different at byte 2: "));

    let (mut answers, sent) = asked(FRAMED, b"ab");
    let outcome = check(&mut answers, &[&sent[..], &sent[..]].concat()).1;
    assert!(outcome.unwrap_err().starts_with("different at byte 2: "));

    // Not even what is about to be asked.
    let mut answers = Answers::new(Dialect::Raw);
    answers.ask(b"abc");
    answers.mark_sent(1);
    assert_eq!(check(&mut answers, b"ab").0, b"a");

    for kind in [0x01, 0x80, 0x83, 0x90, 0xFF] {
        let (mut answers, _) = asked(FRAMED, b"ab");
        let outcome = check(&mut answers, &control(Kind(kind), b"x")).1;
        assert!(outcome.unwrap_err().contains("nobody asked for"), "{kind:#x}");
    }
}

#[test]
fn an_error_frame_says_what_is_wrong() {
    let (mut answers, sent) = asked(FRAMED, b"abcdef");
    let error = control(Kind::ERROR, b"\0\x01\0no\x1b[2J");
    let (verified, outcome) = check(&mut answers, &[&sent[..8], &error].concat());
    assert_eq!(verified, b"abcd");
    assert_eq!(
        outcome,
        Err("refused: the server says: no\\u{1b}[2J (error 1, too long)".to_owned())
    );
    let (mut answers, _) = asked(FRAMED, b"ab");
    assert!(check(&mut answers, &control(Kind::ERROR, b"")).1.is_err());
    let (mut answers, _) = asked(FRAMED, b"ab");
    assert!(check(&mut answers, b"\x82\x00\x10\x01").1.is_err(), "over 4 KiB, seen at its header");
}

#[test]
fn a_goaway_counts_and_is_the_last_frame() {
    let (mut answers, sent) = asked(FRAMED, b"abcdef");
    let goaway = goaway(0, 2);
    assert_eq!(check(&mut answers, &[&sent[..8], &goaway].concat()), (b"abcd".to_vec(), Ok(())));
    assert_eq!(answers.goaway().unwrap(), "the server drains: 1 of 2 frames answered");
    assert!(check(&mut answers, &sent[8..]).1.is_err());
}

#[test]
fn a_goaway_that_miscounts_is_a_defect() {
    for said in [0, 1, 3, u64::MAX] {
        let (mut answers, sent) = asked(FRAMED, b"abcdef");
        let (verified, outcome) = check(&mut answers, &[&sent[..8], &goaway(1, said)].concat());
        assert_eq!(verified, b"abcd");
        let words = outcome.unwrap_err();
        assert!(words.starts_with("different at byte 4: "), "{words}");
        assert!(words.contains("1 of 2 frames answered, but it counts"), "{words}");
    }
    let (mut answers, _) = asked(FRAMED, b"ab");
    assert!(check(&mut answers, &control(Kind::GOAWAY, b"\0")).1.is_err());
}

/// While the socket takes nothing, one chunk is queued; while nothing is answered, 8 MiB.
#[test]
fn the_queue_is_bounded() {
    for dialect in [Dialect::Raw, FRAMED, Dialect::Framed { max_frame: NonZeroU32::MIN }] {
        let mut answers = Answers::new(dialect);
        answers.ask(&[7; CHUNK]);
        assert!(!answers.has_room());
        while answers.has_room() || answers.unsent() > 0 {
            answers.mark_sent(answers.unsent());
            if answers.has_room() {
                answers.ask(&[7; CHUNK]);
            }
        }
        assert!(answers.wire.len() <= OUTSTANDING_MAX);
        assert!(answers.wire.len() > OUTSTANDING_MAX - 2 * CHUNK_WIRE_MAX);
        assert!(answers.wire.capacity() <= OUTSTANDING_MAX);
    }
}

/// Fault 29: random bytes end in a judgement, never in a panic.
#[test]
fn random_input() {
    for seed in 0..if std::env::var_os("LONG").is_some() { 10_000_000 } else { 100_000 } {
        let mut random = fastrand::Rng::with_seed(seed);
        let dialect = if random.bool() { FRAMED } else { Dialect::Raw };
        let (mut answers, mut input) = asked(dialect, b"abcdefgh");
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..input.len());
            input[at] = *random.choice(&[0, 1, 0x80, 0x81, 0x82, 0xFF]).unwrap_or(&0);
        }
        let mut verified = Vec::new();
        for piece in input.chunks(random.usize(1..=input.len())) {
            if answers.check(piece, &mut verified).is_err() {
                break;
            }
        }
        assert!(b"abcdefgh".starts_with(&verified), "seed {seed}");
    }
}

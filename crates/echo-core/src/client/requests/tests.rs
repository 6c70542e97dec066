mod judge;

use super::*;

const WINDOW: usize = 1 << 20;

fn fresh(dialect: Dialect) -> Requests {
    let mut requests = Requests::new();
    let hellos = if dialect == Dialect::Framed { 1 } else { 0 };
    assert_eq!(requests.start_over(dialect, hellos), 0);
    requests
}

/// Requests for these payloads, and what goes out for them.
fn asked(dialect: Dialect, payloads: &[&[u8]]) -> (Requests, Vec<u8>) {
    let mut requests = fresh(dialect);
    for payload in payloads {
        requests.push(Kind::ECHO, &[], payload);
    }
    let sent = send_all(&mut requests);
    (requests, sent)
}

fn send_all(requests: &mut Requests) -> Vec<u8> {
    let sent = requests.unsent().to_vec();
    requests.mark_sent(sent.len(), Instant::now());
    sent
}

/// The numbers and payloads of the replies that are whole, and then the part that is not.
fn replies(requests: &mut Requests) -> (Vec<(u64, Vec<u8>)>, Vec<u8>) {
    let mut replies = Vec::new();
    while let Ok(Some(answered)) = requests.take() {
        assert!(answered.refused.is_none());
        replies.push((answered.seq, requests.bytes(answered.payload).to_vec()));
    }
    let part = requests.take_part().map(|part| requests.bytes(part).to_vec());
    (replies, part.unwrap_or_default())
}

/// What of `input` is verified, as one run of payload, and how the judgement ends.
fn check(requests: &mut Requests, input: &[u8]) -> (Vec<u8>, Result<(), String>) {
    let outcome = requests.receive(input).map_err(|error| error.to_string());
    let (whole, part) = replies(requests);
    let verified: Vec<u8> =
        whole.into_iter().flat_map(|(_, payload)| payload).chain(part).collect();
    (verified, outcome)
}

fn control(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, len: payload.len() as u32 };
    [&header.to_bytes()[..], payload].concat()
}

fn goaway(reason: u16, answered: u64) -> Vec<u8> {
    control(Kind::GOAWAY, &[&reason.to_be_bytes()[..], &answered.to_be_bytes()].concat())
}

/// The reply to a PROBE frame.
fn stamped(frame: &[u8], received: u64, sent: u64) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[STAMPS.start..STAMPS.start + 8].copy_from_slice(&received.to_be_bytes());
    frame[STAMPS.start + 8..STAMPS.end].copy_from_slice(&sent.to_be_bytes());
    frame[MARK] |= MARKED;
    frame
}

#[test]
fn each_reply_comes_once_and_in_order() {
    let (mut requests, sent) = asked(Dialect::Framed, &[b"abcd", b"", b"i"]);
    assert_eq!(sent, b"\0\0\0\x04abcd\0\0\0\0\0\0\0\x01i");
    assert_eq!((requests.counts(), requests.byte_counts()), ((3, 0), (5, 0)));
    requests.receive(&sent).unwrap();
    let whole = vec![(0, b"abcd".to_vec()), (1, vec![]), (2, b"i".to_vec())];
    assert_eq!(replies(&mut requests), (whole, vec![]));
    assert!(!requests.is_due() && !requests.is_inside_frame() && requests.unanswered() == 0);
    assert_eq!((requests.counts(), requests.byte_counts()), ((3, 3), (0, 5)));
    assert_eq!(requests.push(Kind::ECHO, &[], b"more"), 3);
}

/// Fault 8: however the replies are cut on their way, whatever has been asked meanwhile, and however
/// often a connection is lost between.
#[test]
fn splits_and_losses_do_not_matter() {
    let rounds = if std::env::var_os("LONG").is_some() { 300_000 } else { 3000 };
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        let dialect = if seed % 3 == 0 { Dialect::Raw } else { Dialect::Framed };
        let mut requests = fresh(dialect);
        let (mut due, mut wire) = (VecDeque::new(), VecDeque::new());
        let (mut parts, mut pushed) = (Vec::new(), 0);
        for step in 0..60 {
            if step < 40 {
                let payload: Vec<u8> = (0..random.usize(0..20)).map(|_| random.u8(..)).collect();
                assert_eq!(requests.push(Kind::ECHO, &[], &payload), pushed);
                pushed += 1;
                due.push_back(payload);
            }
            if dialect == Dialect::Framed && random.u8(..10) == 0 {
                wire.clear();
                requests.start_over(dialect, 1);
            }
            let taken =
                if step < 50 { random.usize(..=requests.unsent().len()) } else { usize::MAX };
            let taken = taken.min(requests.unsent().len());
            wire.extend(&requests.unsent()[..taken]);
            requests.mark_sent(taken, Instant::now());
            let came = if step < 50 { random.usize(..=wire.len()) } else { wire.len() };
            let came: Vec<u8> = wire.drain(..came).collect();
            requests.receive(&came).unwrap();
            while let Some(answered) = requests.take().unwrap() {
                let (payload, want) = (requests.bytes(answered.payload), due.pop_front().unwrap());
                assert_eq!(payload, want, "seed {seed}");
                assert_eq!(parts, want[..answered.shown], "seed {seed}");
                assert_eq!(answered.seq, pushed - 1 - due.len() as u64);
                parts.clear();
            }
            if let Some(part) = requests.take_part() {
                parts.extend_from_slice(requests.bytes(part));
            }
        }
        assert!(due.is_empty() && !requests.is_due(), "seed {seed}");
        assert_eq!(requests.byte_counts().0, 0);
    }
}

/// The wire run of a pipeline that never empties stays as small as what is under way.
#[test]
fn memory_follows_what_is_under_way() {
    let mut requests = fresh(Dialect::Framed);
    for _ in 0..32 {
        requests.push(Kind::ECHO, &[], &[7; 64]);
    }
    for _ in 0..100_000 {
        let wire = send_all(&mut requests);
        requests.receive(&wire).unwrap();
        while requests.take().unwrap().is_some() {}
        for _ in 0..32 {
            requests.push(Kind::ECHO, &[], &[7; 64]);
        }
    }
    assert!(requests.wire.capacity() <= 4 * 32 * 68, "{}", requests.wire.capacity());
    assert!(requests.due.capacity() <= 64);
    // A burst's memory goes when nothing is under way.
    requests.push(Kind::ECHO, &[], &vec![7; WINDOW]);
    let wire = send_all(&mut requests);
    requests.receive(&wire).unwrap();
    while requests.take().unwrap().is_some() {}
    requests.release();
    assert_eq!(requests.wire.capacity(), 0);
    requests.push(Kind::ECHO, &[], b"on");
    assert_eq!(send_all(&mut requests), b"\0\0\0\x02on");
}

#[test]
fn the_window_is_a_bound() {
    for payload in [&[][..], &[7; 100], &[7; 70_000]] {
        let mut requests = fresh(Dialect::Framed);
        while requests.room(WINDOW) >= payload.len().max(1) {
            requests.push(Kind::ECHO, &[], payload);
        }
        let used = requests.wire.len() + requests.due.len() * ENTRY;
        assert!(used <= WINDOW && used + payload.len() + 200 > WINDOW, "{used}");
        assert!(requests.wire.capacity() <= 2 * WINDOW);
        assert!(requests.due.capacity() * size_of::<Request>() <= 2 * WINDOW);
    }
}

#[test]
fn round_trips_begin_with_the_first_byte() {
    let mut requests = fresh(Dialect::Framed);
    let start = Instant::now();
    let at = |seconds| start + std::time::Duration::from_secs(seconds);
    for payload in [&b"one"[..], b"two", b"six"] {
        requests.push(Kind::ECHO, &[], payload);
    }
    requests.mark_sent(8, at(1)); // the first, and one byte of the second
    requests.mark_sent(6, at(2));
    requests.mark_sent(7, at(3));
    requests.start_over(Dialect::Framed, 1);
    let wire = requests.unsent().to_vec();
    requests.mark_sent(wire.len(), at(9));
    requests.receive(&wire).unwrap();
    for sent in [1, 1, 3] {
        assert_eq!(requests.take().unwrap().unwrap().sent, Some(at(sent)));
    }
}

//! Paths and servers that lose, double, reorder, cut and change datagrams: each is told apart.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]

mod support;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::{ChildStdin, ChildStdout};
use std::thread;
use std::time::{Duration, Instant};

use support::datagrams::{lossy, scripted};
use support::pty::Pty;
use support::*;

#[test]
fn send_counts_what_is_lost() {
    let server = lossy(|number, _| number % 3 == 1);
    let ended = pipe(&["send", "--timeout=1s", &server.target, "one", "two", "three"], b"");
    assert_eq!((ended.code, &ended.stdout[..]), (Some(1), &b"one\nthree\n"[..]));
    let told = "echo-client: message 2 (3 bytes) has no reply within 1s\n\
                echo-client: lost: 1 of 3 datagrams had no reply within 1s\n";
    assert_eq!(ended.stderr, told);
    let server = lossy(|_, _| true);
    let args = ["send", "-q", "--json", "--timeout=100ms", &server.target, "lost"];
    let ended = pipe(&args, b"");
    ended.failed("lost: 1 of 1 datagram had no reply within 100ms\n");
    assert_eq!(ended.stdout, b"{\"bytes\":4,\"lost\":true,\"seq\":0}\n");
}

/// What is wrong with a reply is the end, at the byte where it is wrong.
#[test]
fn wrong_replies_are_told() {
    for (answer, told) in [
        (&b"hellO"[..], "different at byte 4: the reply has 0x4f where 0x6f was sent"),
        (b"hel", "different at byte 3: the reply is cut to 3 of 5 bytes"),
        (b"", "different at byte 0: the reply is cut to 0 of 5 bytes"),
        (b"hello and more", "different at byte 5: the reply has 14 bytes, 5 were sent"),
        (b"\x1b[2Jwrong", "different at byte 0: the reply has 0x1b where 0x68 was sent"),
    ] {
        let server = scripted(move |_, _| vec![answer.to_vec()]);
        let ended = pipe(&["send", &server.target, "hello"], b"");
        ended.failed(told);
        assert_eq!(ended.stdout, b"");
        let ended = pipe(&[&format!("{}?mode=raw", server.target)], b"hello");
        ended.failed(told);
        let ended = pipe(&[&server.target], b"hello");
        ended.failed("different at byte 0: ");
    }
    // In the copy it is counted from its beginning.
    let server = scripted(|number, came| {
        let mut answer = came.to_vec();
        if number == 2 {
            answer[36 + 5] ^= 1;
        }
        vec![answer]
    });
    let ended = pipe(&[&server.target], &[b'a'; 10_000]);
    ended.failed("different at byte 2805: the reply has 0x60 where 0x61 was sent");
}

/// What it says of its own time is compared with the round trip.
#[test]
fn a_lying_clock_is_told() {
    let told = "a PROBE was with the server for 3600s, its stamps say, and back after ";
    let liar = || {
        scripted(|_, came| {
            let mut answer = came.to_vec();
            if came.first() == Some(&0x83) {
                answer[12..20].copy_from_slice(&1_u64.to_be_bytes());
                answer[20..28].copy_from_slice(&3_600_000_000_001_u64.to_be_bytes());
                answer[28] |= 1;
            }
            vec![answer]
        })
    };
    let server = liar();
    let ended = pipe(&["send", "--probe", "--json", &server.target, "hello"], b"");
    ended.failed(&format!("different at byte 0: {told}"));
    assert_eq!(ended.stdout, b"");
    pipe(&[&liar().target], b"hello").failed(&format!("different at byte 0: {told}"));
    let server = liar();
    let mut pty = Pty::start(&["--timeout=1s", &server.target]);
    pty.enter(":probe");
    pty.expect(told);
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

#[test]
fn doubles_are_told_and_do_no_harm() {
    let server = scripted(|_, came| vec![came.to_vec(), came.to_vec()]);
    let ended = pipe(&["send", &server.target, "one", "two"], b"");
    assert_eq!((ended.code, &ended.stdout[..]), (Some(0), &b"one\ntwo\n"[..]));
    assert!(
        ended.stderr.starts_with("echo-client: doubled: the reply to message 1\n"),
        "{ended:?}"
    );
    let ended = pipe(&[&server.target], &[7; 20_000]);
    assert_eq!((ended.code, &ended.stdout[..]), (Some(0), &[7; 20_000][..]));
    // The last ones may be too late to be seen.
    assert!(ended.stderr.contains(" doubled"), "{}", ended.stderr);
}

#[test]
fn late_replies_are_told() {
    let mut held = Vec::new();
    let server = scripted(move |number, came| {
        held.push(came.to_vec());
        if number == 0 { Vec::new() } else { std::mem::take(&mut held) }
    });
    let ended = pipe(&["send", "--timeout=2s", &server.target, "one", "two"], b"");
    assert_eq!((ended.code, &ended.stdout[..]), (Some(1), &b"two\n"[..]));
    let (_, after) = ended.stderr.split_once("late: the reply to message 1, after ").unwrap();
    let (seconds, _) = after.split_once(" s\n").unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 2.0, "{}", ended.stderr);
    assert!(ended.stderr.ends_with("lost: 1 of 2 datagrams had no reply within 2s\n"));
}

/// The late reply to a message is none to the next one, though they are equal.
#[test]
fn equal_messages_are_told_apart() {
    // Each datagram is answered with the one before.
    let behind = || {
        let mut last: Option<Vec<u8>> = None;
        scripted(move |_, came| last.replace(came.to_vec()).into_iter().collect())
    };
    for (what, stdin) in
        [(["--count=2", "same"].as_slice(), &b""[..]), (&["--stdin-lines"], b"same\nsame")]
    {
        let server = behind();
        let args = [&["send", "-q", "--timeout=1s", &server.target], what].concat();
        let ended = pipe(&args, stdin);
        ended.failed("lost: 2 of 2 datagrams had no reply within 1s\n");
        assert!(server.came.iter().take(2).all(|came| came.len() == 36 + 4));
    }
    let server = behind();
    let mut pty = Pty::start(&["--timeout=1s", &server.target]);
    pty.enter(":repeat 2 same");
    pty.expect("2 sent, 0 answered, 2 lost (100.000 %), 1 late");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
    let server = lossy(|_, _| false);
    let raw = format!("{}?mode=raw", server.target);
    pipe(&["send", "--count=2", &raw, "same"], b"").copied(b"same\nsame\n");
    assert!(server.came.iter().take(2).all(|came| came == b"same"));
}

/// Whatever the order in which the pieces come back, the copy has them in its own.
#[test]
fn the_copy_is_in_order() {
    let mut held: Option<Vec<u8>> = None;
    let server = scripted(move |_, came| match held.take() {
        Some(first) => vec![came.to_vec(), first],
        None => {
            held = Some(came.to_vec());
            Vec::new()
        }
    });
    // An even number of pieces, so that none is held for ever.
    let input = noise(20 * 1400);
    let ended = pipe(&[&server.target], &input);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout == input);
    let told = "echo-client: of the replies to 20 datagrams: 10 overtaken\n";
    assert_eq!(ended.stderr, told);
    assert_eq!(server.came.iter().take(20).map(|came| came.len()).max(), Some(1436));
}

/// What is lost is missing from the copy, and nothing else.
#[test]
fn the_copy_lacks_what_is_lost() {
    let server = lossy(|number, _| number % 10 == 3);
    let input = noise(40 * 1400);
    let ended = pipe(&["--timeout=1s", &server.target], &input);
    ended.failed("lost: 4 of 40 datagrams had no reply within 1s\n");
    let pieces = input.chunks(1400).enumerate().filter(|(number, _)| number % 10 != 3);
    let expected: Vec<_> = pieces.flat_map(|(_, piece)| piece.to_vec()).collect();
    assert!(ended.stdout == expected, "{} bytes", ended.stdout.len());
    let server = lossy(|number, _| number == 0);
    let ended = pipe(&["--verify", "--json", "--timeout=1s", &server.target], b"all");
    ended.failed("lost: 1 of 1 datagram had no reply");
    let line: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&line["bytes"], &line["datagrams"]["lost"]), (&0.into(), &1.into()));
}

/// A server that answers nothing gets a window, and no more until that is lost.
#[test]
fn what_is_under_way_is_bounded() {
    let timeout = Duration::from_secs(2);
    let bounded = |query: &str, size: &str, window: usize| {
        let server = lossy(|_, _| true);
        let target = format!("{}{query}", server.target);
        let args = [&format!("--timeout={timeout:?}"), &format!("--message-size={size}"), &target];
        // Before anything is sent: a slow machine only makes the wait longer.
        let began = Instant::now();
        let client = Client::start(&args.map(String::as_str), open(&noise(100_000)), read_all);
        let came = |count| assert_eq!(server.came.iter().take(count).count(), count);
        came(window);
        // The next one goes out when the first is lost.
        came(1);
        assert!(began.elapsed() >= timeout, "{window}: {:?}", began.elapsed());
        client.interrupt();
        assert_eq!(client.end().0.code, Some(130));
    };
    thread::scope(|scope| {
        for (query, size, window) in [("", "1400", 32), ("", "20000", 3), ("?mode=raw", "1400", 1)]
        {
            scope.spawn(move || bounded(query, size, window));
        }
    });
}

/// Whoever reads the copy may have seen enough of it, whatever is missing there.
#[test]
fn a_consumer_that_leaves_is_no_loss() {
    let server = lossy(|number, _| number == 0);
    let read = |mut stdout: ChildStdout| stdout.read(&mut [0]).unwrap();
    let feed = |mut stdin: ChildStdin| {
        // Until nobody takes it.
        while stdin.write_all(&[7; 1400]).is_ok() {}
        None
    };
    let (ended, read) = Client::start(&["--timeout=1s", &server.target], feed, read).end();
    assert_eq!((read, ended.code, &ended.stderr[..]), (1, Some(0), ""));
}

/// Who answers from another address is nobody.
#[test]
fn other_addresses_are_not_heard() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = format!("udp://{}", server.local_addr().unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        loop {
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            for address in ["127.0.0.1:0", "127.0.0.2:0"] {
                let stranger = UdpSocket::bind(address).unwrap();
                stranger.send_to(b"lies", from).unwrap();
                stranger.send_to(&buffer[..len], from).unwrap();
            }
            server.send_to(&buffer[..len], from).unwrap();
        }
    });
    pipe(&["send", &target, "one", "two"], b"").copied(b"one\ntwo\n");
    pipe(&[&target], &noise(10_000)).copied(&noise(10_000));
}

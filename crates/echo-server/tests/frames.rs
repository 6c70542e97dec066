//! What a client may send and what it may not: frames whole, split, cut, too long and reserved, and
//! the modes that take them.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::thread;
use std::time::Instant;

use support::Server;
use support::process::{long, settle};
use support::traffic::*;

const AUTO: usize = 0;
const FRAMED: usize = 1;
const RAW: usize = 2;
const UNIX: usize = 3;
const MAX_FRAME: usize = 4096;

/// One listener of each mode, and a Unix one.
fn server() -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory for the socket");
    let server = Server::start(&[
        "--listen=tcp://127.0.0.1:0",
        "--listen=tcp://127.0.0.1:0?mode=framed",
        "--listen=tcp://127.0.0.1:0?mode=raw",
        &format!("--listen=unix:{}/echo?mode=framed", directory.path().display()),
        "--max-frame=4KiB",
    ]);
    (server, directory)
}

fn hello() -> Vec<u8> {
    frame(HELLO, &[])
}

/// Sends on a fresh connection, half-closes, and gives the frames that came and how it ended.
fn converse(uri: &str, requests: &[&[u8]]) -> (Vec<Frame>, End) {
    let (got, end) = exchange(uri, &requests.concat());
    let (replies, rest) = frames(&got);
    assert_eq!(rest, [], "the stream ends inside a frame");
    (replies, end)
}

/// Fault 27: a frame that is too long is refused at its header.
#[test]
fn an_over_long_frame_is_refused_at_its_header() {
    let (server, _directory) = server();
    let (at_limit, over) = (echo(&[1; MAX_FRAME]), echo(&[2; MAX_FRAME + 1]));
    for listener in [FRAMED, AUTO, UNIX] {
        let uri = &server.uris()[listener];
        let peer = Peer::connect(uri);
        peer.hello();
        peer.round_trip(&at_limit);
        peer.send(&over[..4]);
        assert_eq!(peer.read_frame().expect("an answer to the header").error(), (1, false));
        peer.send(&over[4..]);
        peer.round_trip(&echo(b"and on"));
        peer.send(&frame(PROBE, &[3; MAX_FRAME + 1]));
        assert_eq!(peer.read_frame().expect("an answer").error(), (1, false));
        peer.send(&frame(HELLO, &[4; 4097]));
        assert_eq!(peer.read_frame().map(|frame| frame.error().0), Some(1));
        peer.round_trip(&echo(b"and on"));
    }
    // Whoever sent only ECHO is told by FIN, after the replies before it.
    for listener in [FRAMED, UNIX] {
        let uri = &server.uris()[listener];
        let (replies, end) = converse(uri, &[&echo(b"before"), &over, &echo(b"after")]);
        assert_eq!((replies, end), (frames(&echo(b"before")).0, End::Fin));
        let peer = Peer::connect(uri);
        peer.send(&header(ECHO, (1 << 24) - 1));
        assert_eq!(peer.read_to_end(), (Vec::new(), End::Fin));
    }
    assert_clean_end(server);
}

/// A session cut after each of its bytes: whole frames are answered, and the end says whether the
/// last one was whole.
#[test]
fn a_truncated_frame_ends_the_stream() {
    let (server, _directory) = server();
    let parts = [echo(b"abc"), echo(b""), echo(b"defgh")];
    let session = parts.concat();
    let payloads = [4..7, 15..20];
    for listener in [FRAMED, AUTO, UNIX] {
        for cut in 0..=session.len() {
            let (got, end) = exchange(&server.uris()[listener], &session[..cut]);
            let inside = payloads.iter().any(|payload| payload.contains(&cut));
            let whole = match cut {
                0..7 => 0,
                7..11 => 7,
                11..20 => 11,
                _ => 20,
            };
            // In auto mode, one to three bytes and FIN are raw.
            let raw = listener == AUTO && cut < 4;
            let least = if raw { cut } else { whole };
            assert!((least..=cut).contains(&got.len()), "cut at {cut}: {got:02x?}");
            assert_eq!(got, session[..got.len()], "cut at {cut}");
            if listener != UNIX {
                assert_eq!(end, if inside { End::Reset } else { End::Fin }, "cut at {cut}");
            }
            assert!(inside || got.len() == least, "cut at {cut}: {got:02x?}");
        }
    }
    assert_clean_end(server);
}

#[test]
fn empty_frames_come_back() {
    let (server, _directory) = server();
    for listener in [FRAMED, AUTO, UNIX] {
        let zeros = vec![0; 4 * 5000];
        assert_eq!(exchange(&server.uris()[listener], &zeros), (zeros, End::Fin));
    }
    assert_clean_end(server);
}

/// Fault 37: each kind of frame, before HELLO and after it.
#[test]
fn every_kind_has_its_answer() {
    let (server, _directory) = server();
    let uri = &server.uris()[FRAMED];
    for kind in 0..=255 {
        let extension = kind == 0x84 || (0x90..=0x9F).contains(&kind);
        let sent = [frame(kind, &[]), echo(b"next")];
        let (replies, end) = converse(uri, &[&sent[0], &sent[1]]);
        let next = Frame { kind: ECHO, payload: b"next".to_vec() };
        assert_eq!(end, End::Fin, "kind {kind:#04x}");
        match kind {
            ECHO | HELLO => assert_eq!((replies[0].kind, &replies[1]), (kind, &next)),
            PROBE => assert_eq!((replies[0].error(), &replies[1]), ((3, false), &next)),
            _ if extension => assert_eq!((replies[0].error(), replies.len()), ((2, true), 1)),
            _ => assert_eq!(replies, [], "kind {kind:#04x}"),
        }
        // After HELLO the same frames are told what is wrong, and how many were answered.
        let (replies, end) = converse(uri, &[&hello(), &sent[0], &sent[1]]);
        assert_eq!((replies[0].kind, end), (HELLO, End::Fin), "kind {kind:#04x}");
        match kind {
            ECHO | HELLO => assert_eq!((replies[1].kind, &replies[2]), (kind, &next)),
            PROBE => assert_eq!((replies[1].error(), &replies[2]), ((3, false), &next)),
            _ => {
                assert_eq!(replies[1].error(), (2, true), "kind {kind:#04x}");
                assert_eq!((replies[2].goaway(), replies.len()), ((2, 2), 3), "kind {kind:#04x}");
            }
        }
    }
    assert_clean_end(server);
}

/// A PROBE's stamps differ each time.
fn unstamped(mut frame: Frame) -> Frame {
    if frame.kind == PROBE {
        frame.payload[8..24].fill(0);
    }
    frame
}

/// Fault 8: a session split at each of its bytes, the server having read the first part; and byte
/// by byte.
#[test]
fn splits_do_not_matter() {
    let server = Server::start(&[
        "--listen=tcp://127.0.0.1:0",
        "--listen=tcp://127.0.0.1:0?mode=framed",
        "--frame-timeout=10min",
    ]);
    let session = [frame(HELLO, &[]), echo(b"abcde"), frame(PROBE, &[7; 40]), echo(b"")].concat();
    for uri in server.uris() {
        let want: Vec<_> = converse(uri, &[&session]).0.into_iter().map(unstamped).collect();
        assert_eq!(want.len(), 4);
        let halves: Vec<_> = (1..session.len()).map(|split| session.split_at(split)).collect();
        let peers: Vec<_> = halves.iter().map(|_| Peer::connect(uri)).collect();
        peers.iter().zip(&halves).for_each(|(peer, (first, _))| peer.send(first));
        settle(&peers);
        for (peer, (first, second)) in peers.iter().zip(halves) {
            peer.send(second);
            peer.half_close();
            let (got, end) = peer.read_to_end();
            let (replies, cut) = frames(&got);
            let replies: Vec<_> = replies.into_iter().map(unstamped).collect();
            assert_eq!(
                (replies, cut, end),
                (want.clone(), &[][..], End::Fin),
                "at {}",
                first.len()
            );
        }
        let peer = Peer::connect(uri);
        for byte in &session {
            peer.send(&[*byte]);
            settle([&peer]);
        }
        let replies: Vec<_> = (0..4).filter_map(|_| peer.read_frame()).map(unstamped).collect();
        assert_eq!(replies, want, "byte by byte");
    }
    assert_clean_end(server);
}

/// Fault 30: what speaks another protocol gets an end, and none of its bytes back.
#[test]
fn text_on_a_framed_listener_is_refused() {
    let (server, _directory) = server();
    let strangers = [
        &b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
    ];
    for listener in [FRAMED, UNIX] {
        for text in strangers {
            let got = exchange(&server.uris()[listener], text);
            assert_eq!(got, (Vec::new(), End::Fin), "{}", text.escape_ascii());
        }
    }
    assert_clean_end(server);
}

#[test]
fn a_raw_listener_takes_anything() {
    let (server, _directory) = server();
    let all: Vec<u8> = (0..=255).collect();
    let over_long = [&header(ECHO, MAX_FRAME + 1)[..], b"and no more"].concat();
    let reserved = frame(0xFF, b"kind");
    for bytes in [&hello(), &echo(b"frame"), &over_long, &reserved, &all, &vec![0], &Vec::new()] {
        assert_eq!(exchange(&server.uris()[RAW], bytes), (bytes.clone(), End::Fin));
    }
    assert_clean_end(server);
}

#[test]
fn auto_tells_raw_from_framed_by_the_first_bytes() {
    let (server, _directory) = server();
    let uri = &server.uris()[AUTO];
    for first in 0..=255 {
        // Text, or binary that is no frame: over the limit, if it begins like one.
        let bytes = [first, 0xFF, 0xFE, 0xFD, b'x'];
        assert_eq!(exchange(uri, &bytes), (bytes.to_vec(), End::Fin), "{first:#04x}");
        if ![0x00, 0x80, 0x83].contains(&first) {
            // At once: no second byte is waited for.
            Peer::connect(uri).round_trip(&[first]);
        }
    }
    // Binary that begins like a frame is one: this one never ends.
    let (got, end) = exchange(uri, b"\x00\x00\x00\x05only");
    assert_eq!((b"\x00\x00\x00\x05only".starts_with(&got[..]), end), (true, End::Reset));
    // Once raw, always raw.
    let text =
        [b"text first".to_vec(), echo(b"then a frame"), frame(0xFF, b"of any kind")].concat();
    assert_eq!(exchange(uri, &text), (text, End::Fin));
    assert_clean_end(server);
}

/// Fault 5: a client that half-closes after its last frame gets every reply.
#[test]
fn a_half_close_loses_nothing() {
    let (server, _directory) = server();
    let frames = if long() { 1_000_000 } else { 30_000 };
    for listener in [AUTO, FRAMED, RAW, UNIX] {
        let peer = Peer::connect(&server.uris()[listener]);
        let mut random = fastrand::Rng::with_seed(listener as u64);
        let burst: Vec<u8> =
            (0..frames).flat_map(|_| echo(&[random.u8(..); 64][..random.usize(..64)])).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                peer.send(&burst);
                peer.half_close();
            });
            let (got, end) = peer.read_to_end();
            assert_same(&got, &burst);
            assert_eq!(end, End::Fin);
        });
    }
    assert_clean_end(server);
}

#[test]
fn probes_are_stamped_in_order() {
    let (server, _directory) = server();
    let peer = Peer::connect(&server.uris()[AUTO]);
    let started = Instant::now();
    let mut last = 0;
    for len in [32, 33, 100, MAX_FRAME] {
        // Whether the reply bit is set in a request makes no difference.
        let request = frame(PROBE, &vec![0x5A | (len as u8 & 1); len]);
        peer.send(&request);
        let reply = peer.read_frame().expect("a PROBE is answered");
        let (received, sent) = (be(&reply.payload[8..16]), be(&reply.payload[16..24]));
        assert!(last <= received && received <= sent, "{last} {received} {sent}");
        let elapsed = started.elapsed().as_nanos() as u64;
        assert!(sent - received <= elapsed, "{} ns between the stamps", sent - received);
        last = sent;
        let mut want = frames(&request).0.remove(0);
        want.payload[8..24].copy_from_slice(&reply.payload[8..24]);
        want.payload[24] |= 1;
        assert_eq!(reply, want);
    }
    assert_clean_end(server);
}

#[test]
fn hello_is_answered_whatever_comes_with_it() {
    let server = Server::start(&["--listen=tcp://127.0.0.1:0", "--max-frame=5000"]);
    let peer = Peer::connect(&server.uris()[AUTO]);
    for (payload, version) in [
        (&[][..], 1),
        (&[0, 1, 0, 0, 0, 0], 1),
        (&[0xFF; 6], 1),
        (&[0, 1, 0, 0, 0, 0, b'l', b'a', b't', b'e', b'r'], 1),
    ] {
        peer.send(&frame(HELLO, payload));
        let reply = peer.read_frame().expect("HELLO is answered");
        assert_eq!(reply.kind, HELLO);
        assert_eq!((be(&reply.payload[..2]), be(&reply.payload[2..6])), (version, 5000));
        assert_eq!(be(&reply.payload[6..10]) & 1, 1, "PROBE is a feature");
    }
    for len in 1..6 {
        peer.send(&frame(HELLO, &vec![0; len]));
        assert_eq!(peer.read_frame().expect("an answer").error(), (3, false));
    }
    peer.round_trip(&echo(b"and on"));
    assert_clean_end(server);
}

//! Servers that do not do what an echo server does: each is named as what it is, by its first defect,
//! with exit code 1, whether or not the client would go on after a loss.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use socket2::SockRef;
use support::*;

/// Reads the frames of `input`, four bytes each, and lets `answer` say what comes back for all.
fn framed(answer: impl FnOnce(Vec<Vec<u8>>) -> Vec<u8> + Send + 'static) -> String {
    serve(move |mut stream| {
        greet(&mut stream, 4);
        let mut frames = Vec::new();
        loop {
            let frame = read_frame(&mut stream, 4);
            if frame.is_empty() {
                break;
            }
            frames.push(frame);
        }
        let _ = stream.write_all(&answer(frames));
        let _ = stream.shutdown(Shutdown::Write);
        linger(stream);
    })
}

fn linger(mut stream: TcpStream) {
    while let Ok(1..) = stream.read(&mut [0; 4096]) {}
}

#[track_caller]
fn judged(target: &str, told: &str, copied: &[u8]) {
    let ended = pipe(&[target], b"abcdefghijkl");
    ended.failed(told);
    assert!(ended.stdout == copied, "{:?}", String::from_utf8_lossy(&ended.stdout));
}

#[test]
fn names_a_doubled_reply() {
    let doubled = framed(|frames| [&frames[0][..], &frames[0], &frames[1], &frames[2]].concat());
    judged(&doubled, "different at byte 4: sent 0x65, received 0x61", b"abcd");
    let last = framed(|frames| [&frames.concat()[..], &frames[2]].concat());
    let told = "different at byte 12: the server sent a frame that nobody asked for";
    judged(&last, told, b"abcdefghijkl");
}

#[test]
fn names_reordered_replies() {
    let reordered = framed(|frames| [&frames[0][..], &frames[2], &frames[1]].concat());
    judged(&reordered, "different at byte 4: sent 0x65, received 0x69", b"abcd");
}

#[test]
fn names_a_lost_reply() {
    let lost = framed(|frames| [&frames[0][..], &frames[2]].concat());
    judged(&lost, "different at byte 4: sent 0x65, received 0x69", b"abcd");
    let last = framed(|frames| frames[..2].concat());
    judged(&last, "closed early: the server ended the stream: 4 bytes unanswered", b"abcdefgh");
}

#[test]
fn names_a_lying_length() {
    let longer = framed(|mut frames| {
        frames[1][3] = 5;
        frames.concat()
    });
    // Its content is as sent, as far as that goes; the next frame's header is what is too much.
    let told = "different at byte 8: a frame of 4 bytes came back as one of 5";
    judged(&longer, told, b"abcd");
    let huge = framed(|mut frames| {
        frames[0][1] = 0xFF;
        frames.concat()
    });
    judged(&huge, "different at byte 4: a frame of 4 bytes came back as one of 16711684", b"");
    // The stream ends before it is known where they part.
    let cut = framed(|frames| [&frames[0][..], b"\0\0\0\x03e"].concat());
    judged(&cut, "different at byte 5: a frame of 4 bytes came back as one of 3", b"abcd");
}

#[test]
fn names_a_cut() {
    for (kept, told, copied) in [
        (10, "closed early: the server ended the stream inside a frame: 8 bytes un", &b"abcd"[..]),
        (14, "closed early: the server ended the stream inside a frame: 6 bytes un", b"abcdef"),
    ] {
        let cut = framed(move |frames| frames.concat()[..kept].to_vec());
        judged(&cut, told, copied);
    }
}

#[test]
fn names_a_death() {
    let dying = serve(|mut stream| {
        greet(&mut stream, 4);
        let frame = read_frame(&mut stream, 4);
        stream.write_all(&frame).unwrap();
        SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let ended = pipe_open(&[&dying], b"abcdefgh");
    ended.failed("closed early: Connection reset by peer");
    assert!(b"abcd".starts_with(&ended.stdout));
}

#[test]
fn names_a_control_frame_out_of_place() {
    for (frame, told) in [
        (&b"\x80\0\0\x0c\0\x01\0\0\0\x04\0\0\0\x01\0\0"[..], "a HELLO frame that nobody asked for"),
        (b"\x90\0\0\0", "a PUT frame that nobody asked for"),
        (b"\x98\0\0\0", "a 0x98 frame that nobody asked for"),
        (b"\x83\0\0\x04abcd", "a frame of kind ECHO came back as one of PROBE"),
        (b"\x81\0\0\0", "a malformed GOAWAY frame"),
        (b"\x81\0\x10\x01", "a GOAWAY frame of 4097 bytes is over the limit of 4096"),
    ] {
        let lying = framed(move |frames| [&frames[0][..], frame].concat());
        judged(&lying, &format!("different at byte 4: {told}\n"), b"abcd");
    }
    let going_on = framed(|frames| {
        let goaway = b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\x02";
        [&frames[0][..], goaway, &frames[1]].concat()
    });
    judged(&going_on, "different at byte 4: the server goes on after its GOAWAY\n", b"abcd");
}

/// Many things are wrong; only the first counts. No defect of a server's is taken for a loss.
#[test]
fn the_first_defect_is_told_and_retried_by_nobody() {
    let wrong = framed(|frames| {
        let mut wire = frames.concat();
        wire[13] ^= 1;
        wire[22] ^= 1;
        wire.extend_from_slice(b"\x90\0\0\x01x");
        wire
    });
    let ended = pipe(&["--retry", "1h", &wrong], b"abcdefghijkl");
    let told = "different at byte 5: sent 0x66, received 0x67: \"fgh\" came back as \"ggh\", behind \"e\"\n";
    ended.failed(told);
    assert_eq!(ended.stdout, b"abcde");
}

//! The client's memory, which does not depend on how long it runs.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "what was measured is said on stdout")]

mod support;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::channel;

use support::*;

/// What two runs may differ by: the allocator's pieces, and which pages of the program were touched.
const NOISE_KIB: u64 = 4 << 10;

/// The pipe's window, which is moved to a new block now and then, with both at once for a moment.
const WINDOW_KIB: u64 = 8 << 10;

/// Echoes 7 MiB behind what it reads, so that the window of 8 MiB is nearly full from the start: how
/// full it is else depends on who is faster.
fn lag(mut stream: TcpStream) {
    let (mut behind, mut buffer) = (VecDeque::new(), vec![0; 100_000]);
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        behind.extend(&buffer[..len]);
        let due: Vec<u8> = behind.drain(..behind.len().saturating_sub(7 << 20)).collect();
        stream.write_all(&due).unwrap();
    }
    stream.write_all(behind.make_contiguous()).unwrap();
}

/// The most memory of a pipe that copies so many mebibytes, seen when stdin is about to end.
fn piped(target: &str, mebibytes: usize) -> u64 {
    let (nearly_all_came, done) = channel();
    let (measured, end) = channel::<()>();
    let feed = move |mut stdin: ChildStdin| {
        let chunk = noise(1 << 20);
        for _ in 0..mebibytes {
            stdin.write_all(&chunk).unwrap();
        }
        None
    };
    let consume = move |mut stdout: ChildStdout| {
        let mut piece = vec![0; 1 << 20];
        for left in (0..mebibytes).rev() {
            stdout.read_exact(&mut piece).unwrap();
            if left == 9 {
                nearly_all_came.send(()).unwrap();
                let _ = end.recv_timeout(LIMIT);
            }
        }
        stdout.read(&mut piece).unwrap()
    };
    let client = Client::start(&["-q", target], feed, consume);
    done.recv_timeout(LIMIT).unwrap();
    let peak = client.peak_kib();
    drop(measured);
    let (ended, rest) = client.end();
    ended.copied(b"");
    assert_eq!(rest, 0);
    peak
}

#[test]
fn a_pipe_needs_no_more_for_more() {
    let (little, much) = if long() { (256, 4096) } else { (64, 256) };
    let raw = || format!("raw://{}", serve(lag));
    let framed = || {
        serve(|mut stream| {
            greet(&mut stream, 1 << 20);
            lag(stream);
        })
    };
    for start in [&raw as &dyn Fn() -> String, &framed] {
        let peaks = [little, much].map(|mebibytes| piped(&start(), mebibytes));
        println!("{little} and {much} MiB through a pipe: {peaks:?} KiB");
        assert!(peaks[1] < peaks[0] + WINDOW_KIB + NOISE_KIB, "{peaks:?} KiB");
        // The window twice, what the allocator keeps of smaller blocks, and the program.
        assert!(peaks[1] < 40 << 10, "{peaks:?} KiB");
    }
}

/// The most memory of a `send` with so many messages, seen when the last one waits for its reply.
fn sent(count: u64, args: &[&str]) -> u64 {
    let (all_came, done) = channel();
    let (measured, end) = channel::<()>();
    let target = serve(move |mut stream| {
        greet(&mut stream, 1 << 20);
        for left in (0..count).rev() {
            let frame = read_frame(&mut stream, 1 << 20);
            if left == 0 {
                all_came.send(()).unwrap();
                let _ = end.recv_timeout(LIMIT);
            }
            stream.write_all(&frame).unwrap();
        }
        let _ = stream.read(&mut [0]);
    });
    let (number, text) = (count.to_string(), "x".repeat(100));
    let args = [&["send", "--count", &number][..], args, &[&target, &text]].concat();
    let lines = |stdout: ChildStdout| std::io::copy(&mut { stdout }, &mut std::io::sink()).unwrap();
    let client = Client::start(&args, all(b""), lines);
    done.recv_timeout(LIMIT).unwrap();
    let peak = client.peak_kib();
    drop(measured);
    let (ended, bytes) = client.end();
    ended.copied(b"");
    assert!(bytes > count * 100, "{bytes}");
    peak
}

#[test]
fn sending_needs_no_more_for_more() {
    let more = if long() { 10 } else { 1 };
    for (few, many, args) in
        [(20_000 * more, 200_000 * more, &[][..]), (2_000 * more, 20_000 * more, &["--json"])]
    {
        let peaks = [few, many].map(|count| sent(count, args));
        println!("{few} and {many} messages {args:?}: {peaks:?} KiB");
        assert!(peaks[1] < peaks[0] + NOISE_KIB, "{peaks:?} KiB");
    }
}

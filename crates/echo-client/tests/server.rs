//! The client against the workspace's own server, as the library runs it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::channel;

use echo_core::Mode;
use support::server::Server;
use support::*;

#[test]
fn copies_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("socket").display());
    for endpoint in ["tcp://127.0.0.1:0", "tcp://[::1]:0", &path] {
        for mode in [Mode::Auto, Mode::Framed, Mode::Raw] {
            let server = Server::start(endpoint, mode);
            for size in [0, 1, 65_535, 65_536, 65_537, 5 << 20] {
                pipe(&["-q", &server.target], &noise(size)).copied(&noise(size));
            }
            // A client that does not ask, with text that no server takes for frames.
            if mode != Mode::Framed {
                let target = format!("{}?mode=raw", server.target);
                pipe(&[&target], &[b'x'; 300_000]).copied(&[b'x'; 300_000]);
            }
            let report = server.stop();
            assert_eq!((report.drained.forced, report.drained.failed), (0, 0));
        }
    }
}

/// A drain between two lines: what was asked is answered, and the client knows that its server
/// left before its producer did.
#[test]
fn tells_of_a_drain() {
    let server = Server::start("tcp://127.0.0.1:0", Mode::Auto);
    let (came, ready) = channel();
    let consume = move |mut stdout: ChildStdout| {
        let mut line = [0; 5];
        stdout.read_exact(&mut line).unwrap();
        came.send(()).unwrap();
        [&line[..], &read_all(stdout)].concat()
    };
    let client = Client::start(&[&server.target], open(b"line\n"), consume);
    ready.recv_timeout(LIMIT).unwrap();
    server.stop();
    let (ended, stdout) = client.end();
    let told = "closed early: the server drains: 1 of 1 frames answered, stdin was still open\n";
    ended.failed(told);
    assert_eq!(stdout, b"line\n");
}

/// A drain in the middle of a stream that never pauses: what came is a prefix of what was sent.
#[test]
fn keeps_what_came_before_a_drain() {
    let server = Server::start("tcp://127.0.0.1:0", Mode::Auto);
    let (came, ready) = channel();
    let feed = |mut stdin: ChildStdin| {
        let mut random = fastrand::Rng::with_seed(3);
        let mut chunk = vec![0; 10_000];
        loop {
            random.fill(&mut chunk);
            if stdin.write_all(&chunk).is_err() {
                return None;
            }
        }
    };
    let consume = move |mut stdout: ChildStdout| {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut want, mut got) = (vec![0; 10_000], Vec::new());
        loop {
            got.clear();
            stdout.by_ref().take(10_000).read_to_end(&mut got).unwrap();
            random.fill(&mut want);
            assert!(want.starts_with(&got));
            let _ = came.send(());
            if got.len() < want.len() {
                return;
            }
        }
    };
    let client = Client::start(&[&server.target], feed, consume);
    for _ in 0..500 {
        ready.recv_timeout(LIMIT).unwrap();
    }
    server.stop();
    client.end().0.failed("closed early: the server drains: ");
}

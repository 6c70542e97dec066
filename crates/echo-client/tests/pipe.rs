//! The pipe as its users meet it: `producer | echo-client TARGET > copy`.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{ChildStdin, ChildStdout, Command};
use std::thread;

use support::*;

const SIZES: [usize; 6] = [0, 1, 65_535, 65_536, 65_537, 5 << 20];

#[test]
fn copies_through_a_raw_server() {
    for size in SIZES {
        let target = format!("raw://{}", serve(raw_echo));
        pipe(&[&target], &noise(size)).copied(&noise(size));
    }
}

#[test]
fn copies_through_a_framed_server() {
    for size in SIZES {
        let target = serve(|stream| framed_echo(stream, 1 << 20));
        pipe(&[&target], &noise(size)).copied(&noise(size));
    }
}

/// Frames are as long as the server allows, down to one byte.
#[test]
fn keeps_to_the_servers_limit() {
    for (max_frame, size) in [(1, 70_000), (1000, 1 << 20), (0xFF_FFFF, 1 << 20)] {
        let target = serve(move |stream| framed_echo(stream, max_frame));
        pipe(&[&target], &noise(size)).copied(&noise(size));
    }
}

#[test]
fn copies_through_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        framed_echo(listener.accept().unwrap().0, 1 << 20);
        raw_echo(listener.accept().unwrap().0);
    });
    let target = format!("unix:{}", path.display());
    pipe(&[&target], &noise(300_000)).copied(&noise(300_000));
    pipe(&[&format!("{target}?mode=raw")], &noise(300_000)).copied(&noise(300_000));
}

/// An RFC 862 server at `tcp://` echoes HELLO: the client says so, unless told to be quiet, and
/// goes on.
#[test]
fn goes_on_raw_when_hello_is_echoed() {
    let target = serve(raw_echo);
    let ended = pipe(&[&target], b"\x80\0\0\x06binary");
    assert_eq!((ended.code, &ended.stdout[..]), (Some(0), &b"\x80\0\0\x06binary"[..]));
    assert_eq!(
        ended.stderr,
        "echo-client: the server echoes HELLO itself (RFC 862): going on raw\n"
    );
    let target = serve(raw_echo);
    pipe(&[&target, "-q"], &noise(70_000)).copied(&noise(70_000));
}

/// Fault 8: answers in single bytes, HELLO's included.
#[test]
fn takes_answers_byte_by_byte() {
    struct Trickle<S>(S);
    impl<S: Read> Read for Trickle<S> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl<S: Write> Write for Trickle<S> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(&bytes[..bytes.len().min(1)])
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    let framed = serve(|stream| framed_echo(Trickle(stream), 100));
    pipe(&[&framed], &noise(5000)).copied(&noise(5000));
    let raw = serve(|stream| raw_echo(Trickle(stream)));
    pipe(&["-q", &raw], &noise(5000)).copied(&noise(5000));
}

/// Fault 5: the server answers only once it has seen our end, and needs it to end itself.
#[test]
fn half_closes() {
    let target = serve(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let input = noise(1 << 20);
    pipe(&[&format!("raw://{target}")], &input).copied(&input);
}

/// A chain in which every part writes without reading: the consumer takes nothing until the
/// producer is stuck, with more under way than all sockets and pipes hold.
#[test]
fn waits_for_a_slow_consumer() {
    for raw in [false, true] {
        let target = if raw { serve(raw_echo) } else { serve(|s| framed_echo(s, 1 << 20)) };
        let input = noise(48 << 20);
        let (progress, stuck) = std::sync::mpsc::channel();
        let feed = {
            let input = input.clone();
            move |mut stdin: ChildStdin| {
                for piece in input.chunks(50_000) {
                    let _ = progress.send(());
                    stdin.write_all(piece).unwrap();
                }
                None
            }
        };
        let consume = move |stdout: ChildStdout| {
            // How long this waits decides only how full the pipes are, not what is right.
            while stuck.recv_timeout(std::time::Duration::from_millis(300)).is_ok() {}
            read_all(stdout)
        };
        let (ended, stdout) = Client::start(&["-q", &target], feed, consume).end();
        Ended { stdout, ..ended }.copied(&input);
    }
}

#[test]
fn copies_a_gigabyte() {
    let size = if long() { 1 << 30 } else { 16 << 20 };
    for target in [format!("raw://{}", serve(raw_echo)), serve(|s| framed_echo(s, 1 << 20))] {
        let feed = move |mut stdin: ChildStdin| {
            let mut random = fastrand::Rng::with_seed(7);
            let mut chunk = vec![0; 1 << 20];
            for _ in 0..size >> 20 {
                random.fill(&mut chunk);
                stdin.write_all(&chunk).unwrap();
            }
            None
        };
        let consume = move |mut stdout: ChildStdout| {
            let mut random = fastrand::Rng::with_seed(7);
            let (mut want, mut got) = (vec![0; 1 << 20], vec![0; 1 << 20]);
            for at in 0..size >> 20 {
                random.fill(&mut want);
                stdout.read_exact(&mut got).unwrap();
                assert!(want == got, "in mebibyte {at}");
            }
            stdout.read(&mut got).unwrap()
        };
        let (ended, rest) = Client::start(&[&target], feed, consume).end();
        ended.copied(b"");
        assert_eq!(rest, 0);
    }
}

/// The consumer has seen enough (`| head`): a quiet end, though the producer goes on.
#[test]
fn ends_quietly_when_stdout_is_closed() {
    let endless = |mut stdin: ChildStdin| {
        while stdin.write_all(&[b'y'; 4096]).is_ok() {}
        None
    };
    let head = |mut stdout: ChildStdout| stdout.read_exact(&mut [0; 100]).unwrap();
    let target = serve(|stream| framed_echo(stream, 1 << 20));
    Client::start(&[&target], endless, head).end().0.copied(b"");
}

/// Each line comes back before the next is written: nothing waits for more input.
#[test]
fn answers_come_as_lines_go() {
    for target in [format!("raw://{}", serve(raw_echo)), serve(|s| framed_echo(s, 1 << 20))] {
        let (came, next) = std::sync::mpsc::channel();
        let feed = move |mut stdin: ChildStdin| {
            for _ in 0..10 {
                stdin.write_all(b"line\n").unwrap();
                next.recv_timeout(LIMIT).unwrap();
            }
            None
        };
        let consume = move |mut stdout: ChildStdout| {
            for _ in 0..10 {
                stdout.read_exact(&mut [0; 5]).unwrap();
                came.send(()).unwrap();
            }
            read_all(stdout)
        };
        let (ended, rest) = Client::start(&[&target], feed, consume).end();
        ended.copied(&rest);
        assert!(rest.is_empty());
    }
}

/// What has no stdin at all has lost it: an empty copy would hide that. `/dev/null` is one.
#[test]
fn names_a_stdin_that_is_closed() {
    for (command, stdin, code) in [
        ("", "<&-", 1),
        ("--verify", "<&-", 1),
        ("send --stdin-lines", "<&-", 1),
        ("", "<&- >&-", 1),
        ("", "</dev/null", 0),
        // As Python's DEVNULL and daemon(3) open it.
        ("", "0<>/dev/null", 0),
        ("send --stdin-lines", "</dev/null", 0),
    ] {
        let target = serve(|stream| framed_echo(stream, 1 << 20));
        let line = format!("\"$0\" {command} {target} {stdin}");
        let client = env!("CARGO_BIN_EXE_echo-client");
        let ended = Command::new("sh").args(["-c", &line, client]).output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{line}: {ended:?}");
        let told = "echo-client: stdin is closed: redirect it; </dev/null sends nothing\n";
        let told = if code == 0 { "" } else { told };
        assert_eq!(String::from_utf8(ended.stderr).unwrap(), told, "{line}");
        assert!(ended.stdout.is_empty());
    }
}

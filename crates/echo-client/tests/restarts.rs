//! The pipe over servers that come and go: with `--retry` the copy is exact all the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::channel;
use std::thread;

use echo_core::Mode;
use support::daemon::Daemon;
use support::server::Server;
use support::*;

const PIECE: usize = 1 << 20;

/// A server that can be made to go, and started again where it was.
trait Restarts: Sized {
    fn start(endpoint: &str, mode: Mode) -> Self;
    fn target(&self) -> String;
    /// Answers what it has read.
    fn drain(self);
    /// Ends as one that dies.
    fn die(self);
}

impl Restarts for Server {
    fn start(endpoint: &str, mode: Mode) -> Self {
        Self::start(endpoint, mode)
    }

    fn target(&self) -> String {
        self.target.clone()
    }

    fn drain(self) {
        self.stop();
    }

    fn die(self) {
        self.crash();
    }
}

impl Restarts for Daemon {
    fn start(endpoint: &str, mode: Mode) -> Self {
        Self::start(&["--listen", &format!("{endpoint}?mode={mode}")])
    }

    fn target(&self) -> String {
        self.target.split('?').next().unwrap().to_owned()
    }

    fn drain(self) {
        self.stop();
    }

    /// SIGKILL, which leaves its socket behind.
    fn die(self) {
        drop(self);
    }
}

/// Copies so many pieces through a server that restarts when a consumer has had its share of them;
/// every other time it drains, else it dies. What the client said on stderr.
fn copy_over_restarts<S: Restarts>(
    endpoint: &str,
    mode: Mode,
    pieces: usize,
    restarts: usize,
) -> Ended {
    let first = S::start(endpoint, mode);
    let target = first.target();
    let feed = move |mut stdin: ChildStdin| {
        let mut random = fastrand::Rng::with_seed(7);
        let mut piece = vec![0; PIECE];
        for _ in 0..pieces {
            random.fill(&mut piece);
            stdin.write_all(&piece).unwrap();
        }
        None
    };
    let (came, progress) = channel();
    let consume = move |mut stdout: ChildStdout| {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut want, mut got) = (vec![0; PIECE], vec![0; PIECE]);
        for number in 0..pieces {
            random.fill(&mut want);
            stdout.read_exact(&mut got).unwrap();
            assert!(want == got, "in piece {number}");
            let _ = came.send(());
        }
        stdout.read(&mut got).unwrap()
    };
    let client = Client::start(&["--retry", "2m", &target], feed, consume);
    let mut server = first;
    for restart in 0..restarts {
        for _ in 0..pieces / (restarts + 1) {
            progress.recv_timeout(LIMIT).unwrap();
        }
        if restart % 2 == 0 {
            server.drain();
        } else {
            server.die();
        }
        server = S::start(&target, mode);
    }
    let (ended, rest) = client.end();
    assert_eq!(rest, 0, "more than was sent");
    server.drain();
    ended
}

#[test]
fn a_restart_in_mid_stream_leaves_the_copy_exact() {
    let (pieces, restarts) = if long() { (420, 20) } else { (72, 5) };
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("socket").display());
    // An address that no other test connects to, so that its port is not given away in between.
    for endpoint in ["tcp://127.0.0.77:0", &path] {
        for mode in [Mode::Auto, Mode::Framed] {
            exact(&copy_over_restarts::<Server>(endpoint, mode, pieces, restarts), restarts);
        }
    }
}

/// The same with the daemon: a process that ends, by SIGTERM and by SIGKILL, and another one.
#[test]
fn a_restart_of_the_daemon_leaves_the_copy_exact() {
    let (pieces, restarts) = if long() { (420, 20) } else { (72, 5) };
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("socket").display());
    for endpoint in ["tcp://127.0.0.77:0", &path] {
        exact(&copy_over_restarts::<Daemon>(endpoint, Mode::Auto, pieces, restarts), restarts);
    }
}

/// Asserts that all was copied, over so many connections and one more: or fewer, where the server was so slow to
/// come back that all had been copied before it went again.
#[track_caller]
fn exact(ended: &Ended, restarts: usize) {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines = |is: fn(&str) -> bool| ended.stderr.lines().filter(|line| is(line)).count();
    // With nothing due when the server went, it is the next bytes that connect.
    let lost = lines(|line| line.ends_with("connecting again") || line.ends_with("connects again"));
    let found = lines(|line| line.starts_with("echo-client: connected again"));
    assert_eq!(lost, found, "{}", ended.stderr);
    assert!((1..=restarts).contains(&lost), "{lost} of {restarts}: {}", ended.stderr);
}

/// Raw bytes have no boundary to go on from.
#[test]
fn a_raw_stream_ends_with_its_server() {
    let server = Server::start("tcp://127.0.0.77:0", Mode::Raw);
    let (came, ready) = channel();
    let consume = move |mut stdout: ChildStdout| {
        let mut line = [0; 5];
        stdout.read_exact(&mut line).unwrap();
        came.send(()).unwrap();
        read_all(stdout)
    };
    let client = Client::start(&["-q", "--retry", "2m", &server.target], open(b"line\n"), consume);
    ready.recv_timeout(LIMIT).unwrap();
    server.stop();
    client.end().0.failed("closed early: the server ended the stream while stdin was open, all 5");
}

/// Nothing is due and stdin is still open when the server goes: the next line finds the next server.
#[test]
fn an_idle_pipe_waits_for_its_producer() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("socket").display());
    let server = Server::start(&path, Mode::Auto);
    let (came, ready) = channel();
    let (again, restarted) = channel();
    let feed = move |mut stdin: ChildStdin| {
        stdin.write_all(b"line\n").unwrap();
        restarted.recv_timeout(LIMIT).unwrap();
        stdin.write_all(b"more\n").unwrap();
        None
    };
    let consume = move |mut stdout: ChildStdout| {
        let mut line = [0; 5];
        stdout.read_exact(&mut line).unwrap();
        came.send(()).unwrap();
        [&line[..], &read_all(stdout)].concat()
    };
    let client = Client::start(&["--retry", "2m", &path], feed, consume);
    ready.recv_timeout(LIMIT).unwrap();
    server.stop();
    let notice = client.stderr.recv_timeout(LIMIT).unwrap();
    let told = "the server drains: 1 of 1 frames answered; more of stdin connects again\n";
    assert_eq!(notice, format!("echo-client: {told}"));
    let server = Server::start(&path, Mode::Auto);
    again.send(()).unwrap();
    let (ended, stdout) = client.end();
    assert_eq!((ended.code, &stdout[..]), (Some(0), &b"line\nmore\n"[..]), "{}", ended.stderr);
    // Though nothing went out again.
    assert!(ended.stderr.ends_with("echo-client: connected again\n"), "{}", ended.stderr);
    server.stop();
}

/// The first connection is none that is made again; what one that is had to repeat is counted.
#[test]
fn each_connection_after_the_first_is_told() {
    for (quiet, count) in [(false, 1), (false, 2), (true, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            greet(&mut first, 4);
            for _ in 0..count {
                read_frame(&mut first, 4);
            }
            drop(first);
            framed_echo(listener.accept().unwrap().0, 4);
        });
        let target = format!("unix:{}", path.display());
        let input = &b"abcdefgh"[..4 * count];
        let quietly = if quiet { &["-q"][..] } else { &[] };
        let ended = pipe(&[quietly, &["--retry", "2m", &target]].concat(), input);
        assert_eq!((ended.code, &ended.stdout[..]), (Some(0), input), "{}", ended.stderr);
        let again = match count {
            _ if quiet => "",
            1 => "echo-client: connected again; 1 frame goes out again\n",
            _ => "echo-client: connected again; 2 frames go out again\n",
        };
        assert!(ended.stderr.ends_with(again), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), if quiet { 0 } else { 2 }, "{}", ended.stderr);
    }
}

/// Nobody comes back.
#[test]
fn a_server_that_stays_away_is_given_up() {
    let server = Server::start("tcp://127.0.0.77:0", Mode::Auto);
    let (came, ready) = channel();
    let feed = |mut stdin: ChildStdin| {
        while stdin.write_all(&[b'y'; 4096]).is_ok() {}
        None
    };
    let consume = move |mut stdout: ChildStdout| {
        stdout.read_exact(&mut [0; 4096]).unwrap();
        came.send(()).unwrap();
        read_all(stdout).iter().all(|byte| *byte == b'y')
    };
    let client = Client::start(&["-q", "--retry", "300ms", &server.target], feed, consume);
    ready.recv_timeout(LIMIT).unwrap();
    server.stop();
    let (ended, exact) = client.end();
    ended.failed("closed early: the server drains: ");
    assert!(ended.stderr.contains("; no other connection within 300ms: refused: 127.0.0.77:"));
    assert!(exact);
}

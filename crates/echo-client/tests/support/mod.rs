//! Runs the client with a scripted server beside it. Whatever hangs is killed after [`LIMIT`].
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "what is skipped is said on stdout")]

pub(crate) mod daemon;
pub(crate) mod datagrams;
pub(crate) mod peer;
pub(crate) mod pty;
pub(crate) mod server;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// No test waits longer than this for the client; none takes a hundredth of it.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Our client's HELLO: version 1, no features.
pub(crate) const HELLO: [u8; 10] = *b"\x80\0\0\x06\0\x01\0\0\0\0";

/// Bytes that no two sizes share.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
    bytes
}

pub(crate) fn long() -> bool {
    std::env::var_os("LONG").is_some()
}

/// How the client ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts exit code 1 and one line that begins with `first`.
    #[track_caller]
    pub(crate) fn failed(&self, first: &str) {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with(&format!("echo-client: {first}")), "{}", self.stderr);
    }

    /// Asserts that the command line was wrong, and one line that says `told`.
    #[track_caller]
    pub(crate) fn misused(&self, told: &str) {
        assert_eq!(self.code, Some(64), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("echo-client: ") && self.stdout.is_empty());
        assert!(self.stderr.contains(told), "{told}: {}", self.stderr);
    }

    /// Asserts exit code 0, nothing on stderr, and the copy.
    #[track_caller]
    pub(crate) fn copied(&self, input: &[u8]) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""));
        assert!(self.stdout == input, "{} of {} bytes", self.stdout.len(), input.len());
    }
}

/// A client that can be interrupted: one that was started with SIGINT ignored, as a script's background
/// commands and all that they start are, goes on ignoring it.
pub(crate) fn heeding() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_echo-client")]);
    command
}

/// A running client; `feed` has its stdin and keeps it open by giving it back, `consume` its stdout.
pub(crate) struct Client<R> {
    child: Child,
    feeder: JoinHandle<Option<ChildStdin>>,
    consumed: Receiver<R>,
    pub(crate) stderr: Receiver<String>,
}

impl<R: Send + 'static> Client<R> {
    pub(crate) fn start(
        args: &[&str],
        feed: impl FnOnce(ChildStdin) -> Option<ChildStdin> + Send + 'static,
        consume: impl FnOnce(ChildStdout) -> R + Send + 'static,
    ) -> Self {
        let mut child = heeding()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let feeder = thread::spawn(move || feed(stdin));
        let (done, consumed) = channel();
        thread::spawn(move || done.send(consume(stdout)));
        let (text, lines) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut buffer) {
                let _ = text.send(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
        });
        Self { child, feeder, consumed, stderr: lines }
    }

    /// Presses Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let kill = format!("kill -INT {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// The most memory that it had at once.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits for the end. What `feed` gave back stays open until then.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Ended, R) {
        let Ok(result) = self.consumed.recv_timeout(LIMIT) else {
            self.child.kill().unwrap();
            panic!("the client hangs");
        };
        let mut text = String::new();
        loop {
            match self.stderr.recv_timeout(LIMIT) {
                Ok(more) => text.push_str(&more),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(_) => {
                    self.child.kill().unwrap();
                    panic!("the client hangs: {text}");
                }
            }
        }
        let code = self.child.wait().unwrap().code();
        drop(self.feeder.join().unwrap());
        (Ended { code, stdout: Vec::new(), stderr: text }, result)
    }
}

/// A feed that ends stdin after `input`. A client that stops reading is no error here.
pub(crate) fn all(input: &[u8]) -> impl FnOnce(ChildStdin) -> Option<ChildStdin> + Send + 'static {
    let input = input.to_vec();
    move |mut stdin| {
        let _ = stdin.write_all(&input);
        None
    }
}

/// A feed that keeps stdin open after `input`.
pub(crate) fn open(input: &[u8]) -> impl FnOnce(ChildStdin) -> Option<ChildStdin> + Send + 'static {
    let input = input.to_vec();
    move |mut stdin| {
        let _ = stdin.write_all(&input);
        Some(stdin)
    }
}

pub(crate) fn read_all(mut stdout: ChildStdout) -> Vec<u8> {
    let mut bytes = Vec::new();
    stdout.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Runs `input | echo-client ARGS`.
#[track_caller]
pub(crate) fn pipe(args: &[&str], input: &[u8]) -> Ended {
    let (ended, stdout) = Client::start(args, all(input), read_all).end();
    Ended { stdout, ..ended }
}

/// The same with a producer that says `input` and then keeps its end open.
#[track_caller]
pub(crate) fn pipe_open(args: &[&str], input: &[u8]) -> Ended {
    let (ended, stdout) = Client::start(args, open(input), read_all).end();
    Ended { stdout, ..ended }
}

/// Plays `script` with the first connection to the address that this returns.
pub(crate) fn serve(script: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || script(listener.accept().unwrap().0));
    addr
}

/// An RFC 862 server.
pub(crate) fn raw_echo(mut stream: impl Read + Write) {
    let mut buffer = vec![0; 100_000];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// Reads the client's HELLO and answers it.
pub(crate) fn greet(stream: &mut (impl Read + Write), max_frame: u32) {
    let mut hello = [0; 10];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(hello, HELLO);
    let mut answer = b"\x80\0\0\x0e\0\x01....\0\0\0\x01\0\x02hi".to_vec();
    answer[6..10].copy_from_slice(&max_frame.to_be_bytes());
    stream.write_all(&answer).unwrap();
}

/// Reads an ECHO frame, header included; empty at the end of the stream.
pub(crate) fn read_frame(stream: &mut impl Read, max_frame: u32) -> Vec<u8> {
    let mut frame = vec![0; 4];
    if stream.read_exact(&mut frame).is_err() {
        return Vec::new();
    }
    assert_eq!(frame[0], 0, "the client sends only ECHO after HELLO");
    let len = u32::from_be_bytes(*frame.first_chunk().unwrap());
    assert!(len > 0 && len <= max_frame.min(65_536), "a frame of {len} bytes");
    frame.resize(4 + len as usize, 0);
    stream.read_exact(&mut frame[4..]).unwrap();
    frame
}

/// A framed server.
pub(crate) fn framed_echo(mut stream: impl Read + Write, max_frame: u32) {
    greet(&mut stream, max_frame);
    loop {
        let frame = read_frame(&mut stream, max_frame);
        if frame.is_empty() || stream.write_all(&frame).is_err() {
            return;
        }
    }
}

/// Whether `tool` is there. A test without it is skipped, and fails where CI promises all tools.
pub(crate) fn has(test: &str, tool: &str, version: &str) -> bool {
    let found = Command::new(tool).arg(version).output().is_ok();
    if !found {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test} needs {tool}");
        println!("SKIPPED {test}: {tool} is missing");
    }
    found
}

/// Whether strace is there and may trace; if not, as of [`has`].
pub(crate) fn can_trace(test: &str) -> bool {
    if !has(test, "strace", "--version") {
        return false;
    }
    let probe = Command::new("strace").args(["-D", "-o", "/dev/null", "true"]).output().unwrap();
    if !probe.status.success() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test} needs the right to trace");
        println!("SKIPPED {test}: the right to trace is missing");
    }
    probe.status.success()
}

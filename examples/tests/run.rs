//! Runs each example as its reader does: talks to it, presses Ctrl-C while connected, and wants the
//! connection closed in order and the example to end well.

#![allow(clippy::disallowed_methods, reason = "one deadline over a whole test")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by it")]

use std::env;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::io::{BufReader, Lines};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

#[tokio::test]
async fn echo() {
    within_deadline(async {
        let mut example = Example::start("echo", &["127.0.0.1:0"]);
        let mut stream = TcpStream::connect(example.address().await).await.unwrap();
        exchange(&mut stream, b"hello\n", b"hello\n").await;
        example.interrupt();
        closed_in_order(stream).await;
        assert!(example.last_line().await.contains("completed: 1, quiet: 0, forced: 0"));
    })
    .await;
}

#[tokio::test]
async fn shout() {
    within_deadline(async {
        let mut example = Example::start("shout", &["127.0.0.1:0"]);
        let mut stream = TcpStream::connect(example.address().await).await.unwrap();
        exchange(&mut stream, b"\0\0\0\x05hello\0\0\0\0", b"\0\0\0\x05HELLO\0\0\0\0").await;
        example.interrupt();
        closed_in_order(stream).await;
        assert!(example.last_line().await.contains("completed: 1, quiet: 0, forced: 0"));
    })
    .await;
}

#[tokio::test]
async fn unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("echo.sock");
    within_deadline(async {
        let mut example = Example::start("unix_socket", &[path.to_str().unwrap()]);
        assert_eq!(Path::new(&example.address().await), path);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut stream = UnixStream::connect(&path).await.unwrap();
        exchange(&mut stream, b"hello\n", b"hello\n").await;
        example.interrupt();
        closed_in_order(stream).await;
        assert!(example.last_line().await.contains("completed: 1, quiet: 0, forced: 0"));
        assert!(!path.exists(), "the path is left behind");
    })
    .await;
}

#[tokio::test]
async fn two_listeners() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("echo.sock");
    let unix = format!("unix:{}", path.display());
    within_deadline(async {
        let mut example = Example::start("two_listeners", &["tcp://127.0.0.1:0", &unix]);
        let address = example.address().await;
        let mut tcp = TcpStream::connect(address.trim_start_matches("tcp://")).await.unwrap();
        assert_eq!(example.address().await, unix);
        let mut unix = UnixStream::connect(&path).await.unwrap();
        exchange(&mut tcp, b"over TCP\n", b"over TCP\n").await;
        exchange(&mut unix, b"over a Unix socket\n", b"over a Unix socket\n").await;
        example.interrupt();
        closed_in_order(tcp).await;
        closed_in_order(unix).await;
        assert!(example.last_line().await.contains("completed: 2, quiet: 0, forced: 0"));
    })
    .await;
}

/// For a whole test; far more than the slowest machine needs.
async fn within_deadline(test: impl Future<Output = ()>) {
    timeout(Duration::from_secs(60), test).await.expect("the example hangs");
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), sent: &[u8], due: &[u8]) {
    stream.write_all(sent).await.unwrap();
    let mut received = vec![0; due.len()];
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(received.escape_ascii().to_string(), due.escape_ascii().to_string());
}

/// Waits for the end of the stream, which is no error, and closes our side.
async fn closed_in_order(mut stream: impl AsyncRead + Unpin) {
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "more than was sent");
}

/// An example at work; killed when the test ends early.
struct Example {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Self {
        // target/debug/deps/run-… and target/debug/examples/NAME
        let test = env::current_exe().unwrap();
        let program = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
        assert!(program.exists(), "build it first: cargo build -p examples --examples");
        let mut child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdout }
    }

    /// What its next line says it listens on.
    async fn address(&mut self) -> String {
        let line = self.stdout.next_line().await.unwrap().expect("it says where it listens");
        let address = line.strip_prefix("listening on ").and_then(|it| it.split(';').next());
        address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned()
    }

    /// Presses Ctrl-C.
    fn interrupt(&self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }

    /// Waits for its end, which must be a success, and returns the last line.
    async fn last_line(mut self) -> String {
        let mut last = String::new();
        while let Some(line) = self.stdout.next_line().await.unwrap() {
            last = line;
        }
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "{status}");
        last
    }
}

//! Runs each example as its reader does: talks to it, presses Ctrl-C while connected, and wants the
//! connection closed in order and the example to end well.

#![allow(clippy::disallowed_methods, reason = "one deadline over a whole test")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by it")]

use std::env;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use echo_core::{Drain, Echo, Limits, Listener, Mode, Report, Service, SocketOptions, serve};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::io::{BufReader, Lines};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
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
async fn datagrams() {
    within_deadline(async {
        let mut example = Example::start("datagrams", &["udp://127.0.0.1:0"]);
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(example.address().await).await.unwrap();
        for message in [&b"hello"[..], b""] {
            client.send(message).await.unwrap();
            let mut reply = [0; 99];
            let len = client.recv(&mut reply).await.unwrap();
            assert_eq!(&reply[..len], message);
        }
        example.interrupt();
        assert!(example.last_line().await.contains("received: 2, answered: 2"));
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

#[tokio::test]
async fn pipeline() {
    within_deadline(async {
        let server = Server::start("127.0.0.1:0");
        let example = Example::start("pipeline", &[&server.address]);
        assert!(example.last_line().await.starts_with("100000 of 100000 answered, the slowest"));
        server.stop().await;
    })
    .await;
}

/// The server drains in the middle, and another one takes its place.
#[tokio::test]
async fn survive() {
    within_deadline(async {
        // Not where other tests connect from: nobody is given its port in between.
        let server = Server::start("127.0.0.79:0");
        let address = server.address.clone();
        let mut example = Example::start("survive", &[&address, "100"]);
        example.line_with("10: ").await;
        server.stop().await;
        example.line_with("closed early: the server drains: ").await;
        let server = Server::start(&address);
        assert_eq!(example.last_line().await, "100 of 100 answered over 2 connections");
        server.stop().await;
    })
    .await;
}

/// A server for the examples that are clients.
struct Server {
    address: String,
    drain: Drain,
    serving: JoinSet<Report>,
}

impl Server {
    fn start(address: &str) -> Self {
        let address = address.parse().unwrap();
        let listener = Listener::bind_tcp(address, &SocketOptions::default()).unwrap();
        let address = listener.local_addr().to_string();
        let drain = Drain::new();
        let service = Service::new(Limits::default(), drain.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            serve(listener, service, Arc::new(Echo::new(Mode::Auto))).await.unwrap()
        });
        Self { address, drain, serving }
    }

    async fn stop(mut self) {
        self.drain.start(Duration::from_secs(30));
        let report = self.serving.join_next().await.unwrap().unwrap();
        assert_eq!((report.drained.forced, report.drained.failed), (0, 0));
    }
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

    /// Waits for a line that begins so.
    async fn line_with(&mut self, start: &str) {
        while let Some(line) = self.stdout.next_line().await.unwrap() {
            if line.starts_with(start) {
                return;
            }
        }
        panic!("it has ended without a line that begins with {start:?}");
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

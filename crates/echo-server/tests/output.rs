//! What the daemon writes never hurts it, and what it logs can be read by programs.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]

mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, Server, command, command_under};

#[test]
fn the_summary_comes_last_whatever_the_log_level() {
    for level in ["off", "error", "info", "debug"] {
        let mut command = command();
        command.args(["--listen", "tcp://127.0.0.1:0"]).env("RUST_LOG", level);
        let mut server = Server::start_command(command, 1);
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"hi\n").unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
        drop(stream);
        assert_eq!(server.stop(), Some(0));
        server.summary();
        assert_eq!(server.stderr().lines().count() == 1, level == "off" || level == "error");
    }
}

#[test]
fn it_says_what_to_try_next() {
    let server = Server::start(&["--listen", "tcp://127.0.0.1:0"]);
    let port = server.address().port();
    server.wait_for_stderr(&format!(r"try: printf 'hi\n' | nc -N 127.0.0.1 {port}"));
}

#[test]
fn a_wrong_log_filter_is_a_warning() {
    let mut command = command();
    command.args(["--listen", "tcp://127.0.0.1:0"]).env("RUST_LOG", "loud=very=much");
    let mut server = Server::start_command(command, 1);
    server.wait_for_stderr("RUST_LOG is ignored");
    server.wait_for_stderr("try: ");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn json_logs_are_json() {
    let mut command = command();
    command.args(["--listen", "tcp://127.0.0.1:0", "--log", "json"]).env("RUST_LOG", "debug");
    let mut server = Server::start_command(command, 1);
    for _ in 0..10 {
        TcpStream::connect(server.address()).unwrap().write_all(b"\0\0\0\x01").unwrap();
    }
    server.wait_for_stderr("connection failed");
    assert_eq!(server.stop(), Some(0));
    server.summary();
    let stderr = server.stderr();
    let lines: Vec<_> = stderr.lines().collect();
    assert!(lines.len() > 2, "{stderr}");
    for line in &lines[..lines.len() - 1] {
        let event: serde_json::Value = serde_json::from_str(line).expect(line);
        for key in ["timestamp", "level", "message"] {
            assert!(event[key].is_string(), "no {key} in {line}");
        }
    }
}

#[test]
fn output_that_goes_nowhere_stops_nothing() {
    for redirection in [">&-", "2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full"] {
        let script = format!(r#"exec "$@" {redirection}"#);
        serves_and_ends(command_under(&["sh", "-c", &script, "sh"]), 10);
    }
    // Pipes whose reader has gone.
    let mut command = command();
    command.stdout(io::pipe().unwrap().1).stderr(io::pipe().unwrap().1);
    serves_and_ends(command, 10);
}

/// More log lines than a pipe and the buffer hold, and nobody reads one; the listening line finds
/// the pipe full, too.
#[test]
fn output_that_is_never_read_stops_nothing() {
    let (unread, mut full) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    while full.write(&[b'\n'; 4096]).is_ok() {}
    while full.write(b"\n").is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    let mut command = command();
    command.stdout(full.try_clone().unwrap()).stderr(full);
    serves_and_ends(command, 5000);
    drop(unread);
}

/// Checks that a server echoes on that many connections and ends cleanly, wherever its output goes.
fn serves_and_ends(mut command: Command, connections: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let uri = format!("unix:{}?mode=framed", path.display());
    command.args(["--listen", &uri]).env("RUST_LOG", "debug");
    let shown = format!("{command:?}");
    let mut server = Server::spawn(command);
    for _ in 0..connections {
        let mut stream = connect(&path, &mut server);
        stream.write_all(b"\0\0\0\x01xtext").unwrap();
        // The frame comes back; what is none ends the connection with a line in the log.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"\0\0\0\x01x", "{shown}");
    }
    assert_eq!(server.stop(), Some(0), "{shown}");
}

/// Connects as soon as the server listens, of which nothing tells here.
fn connect(path: &Path, server: &mut Server) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => {
                assert!(server.is_running() && Instant::now() < deadline, "{error}");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

//! What the client is started with: a stdin, arguments, ignored signals.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write, pipe as os_pipe};
use std::process::{Command, Stdio};
use std::thread;

use rustix::fs::{OFlags, fcntl_setfl};
use support::daemon::Daemon;
use support::*;

/// What cannot be read has not ended.
#[test]
fn names_an_unreadable_stdin() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    for args in ["", "--verify", "send --stdin-lines", "send --file /dev/stdin"] {
        let target = serve(|stream| framed_echo(stream, 1 << 20));
        let line = format!("exec '{}' {args} {target} 0>'{}'", PROGRAM, file.display());
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let ended = Ended {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        ended.failed("cannot read stdin: it is open for writing only");
        assert_eq!(ended.stdout, b"");
    }
}

/// What nobody can be told is not even asked for; where nothing is to be told, it does not matter.
#[test]
fn names_a_stdout_that_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&[
        "--listen",
        &format!("unix:{}", folder.path().join("socket").display()),
        "--files",
        &folder.path().display().to_string(),
        "--anonymous-put",
    ]);
    let run = |line: &str, redirected: &str| {
        let line = line.replace("AT", &daemon.target);
        let line = format!("cd '{}' && '{PROGRAM}' {line} {redirected}", folder.path().display());
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", &line]).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let closed = "echo-client: stdout is closed: redirect it; >/dev/null takes what nobody wants\n";
    std::fs::write(folder.path().join("a"), "a").unwrap();
    for line in [
        "AT",
        "--verify AT",
        "send AT hi",
        "ls AT",
        "put AT a --as b",
        "get AT a -o -",
        "get AT a -o c --json",
        "rm AT a --json",
        "man",
        "completions bash",
    ] {
        assert_eq!(run(line, ">&-"), (Some(1), closed.to_owned()), "{line}");
        // As Python's DEVNULL and daemon(3) open it.
        if !line.starts_with("rm") {
            assert_eq!(run(line, "1<>/dev/null"), (Some(0), String::new()), "{line}");
        }
    }
    let unwritable = "echo-client: cannot write to stdout: Bad file descriptor\n";
    for line in ["send AT hi", "get AT a -o -", "ls AT"] {
        assert_eq!(run(line, "1</dev/null"), (Some(1), unwritable.to_owned()), "{line}");
    }
    for line in ["get AT a -o d", "rm AT a"] {
        assert_eq!(run(line, ">&-"), (Some(0), String::new()), "{line}");
    }
    assert_eq!(std::fs::read(folder.path().join("d")).unwrap(), b"a");
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_echo-client");

/// Whatever stands on the command line, an error is one line that is safe to show; and what is not
/// there needs no server.
#[test]
fn escapes_its_own_arguments() {
    let ended = pipe(&["send", "unix:/nonexistent", "--file", "no\nsuch\x1b[31m"], b"");
    ended.failed("cannot read no\\nsuch\\x1b[31m: No such file or directory");
    pipe(&["--source", "a\nb\u{9b}c"], b"").misused("a b\\u{9b}c");
}

/// Whoever shares a stream with the client may have set it not to block.
#[test]
fn waits_for_streams_that_do_not_block() {
    for command in ["-q", "send --stdin-lines"] {
        let target = serve(|stream| framed_echo(stream, 1 << 20));
        let (stdin, mut producer) = os_pipe().unwrap();
        let (mut consumer, stdout) = os_pipe().unwrap();
        fcntl_setfl(&stdin, OFlags::NONBLOCK).unwrap();
        fcntl_setfl(&stdout, OFlags::NONBLOCK).unwrap();
        let mut client = Command::new(PROGRAM);
        client.args(command.split(' ')).arg(target).stdin(stdin).stdout(stdout);
        let child = client.stderr(Stdio::piped()).spawn().unwrap();
        drop(client);
        // Between two of them there is nothing to read.
        for _ in 0..3 {
            let written = producer.write_all(b"x\n");
            let read = consumer.read_exact(&mut [0; 2]);
            assert!(written.is_ok() && read.is_ok(), "{:?}", child.wait_with_output());
        }
        // More than the pipe holds, for who reads byte by byte.
        let lines = [&[b'x'; 10_000][..], b"\n"].concat().repeat(50);
        let feeding = thread::spawn({
            let lines = lines.clone();
            move || producer.write_all(&lines)
        });
        let mut copy = vec![0; 1 << 16];
        copy.chunks_mut(1).for_each(|byte| consumer.read_exact(byte).unwrap());
        consumer.read_to_end(&mut copy).unwrap();
        let _ = feeding.join().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(copy == lines && output.stderr.is_empty());
    }
}

/// A job in the background that ignores Ctrl-C goes on ignoring it.
#[test]
fn an_ignored_interrupt_stays_ignored() {
    let target = serve(|stream| framed_echo(stream, 1 << 20));
    let line = format!("trap '' INT; exec '{PROGRAM}' {target}");
    let mut child = Command::new("sh")
        .args(["-c", &line])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut echoed = || {
        stdin.write_all(b"x").unwrap();
        stdout.read_exact(&mut [0]).unwrap();
    };
    echoed();
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    echoed();
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

//! `--verify`: what comes back is compared, counted and digested, and copied nowhere. And the line
//! of progress on a terminal.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use support::*;

/// What `sha256sum` says.
fn sha256sum(bytes: &[u8]) -> String {
    let mut sum =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = sum.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn says_what_came_back() {
    for size in [0, 1, 65_537, 3 << 20] {
        let target = serve(|stream| framed_echo(stream, 1 << 20));
        let ended = pipe(&["--verify", &target], &noise(size));
        let line = String::from_utf8(ended.stdout).unwrap();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(line.starts_with(&format!("{size} bytes (")), "{line}");
        assert!(line.ends_with(&format!(" sha256 {}\n", sha256sum(&noise(size)))), "{line}");
    }
    let target = format!("raw://{}", serve(raw_echo));
    let ended = pipe(&["--verify", "--json", &target], &noise(300_000));
    let json: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(json["bytes"], 300_000);
    assert_eq!(json["sha256"], sha256sum(&noise(300_000)));
    let (seconds, rate) = (json["seconds"].as_f64().unwrap(), &json["bytes_per_second"]);
    assert!((rate.as_f64().unwrap() - 300_000.0 / seconds).abs() < 1.0, "{json}");
}

/// A defect is the same with and without a copy; nothing is said of what came before it.
#[test]
fn names_a_defect() {
    let target = format!(
        "raw://{}",
        serve(|mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all[123] ^= 1;
            stream.write_all(&all).unwrap();
        })
    );
    let ended = pipe(&["--verify", "--json", &target], &noise(1000));
    ended.failed("different at byte 123: ");
    assert!(ended.stdout.is_empty());
    assert_eq!(pipe(&["--json", &target], b"").code, Some(64), "--json is of --verify");
}

/// A copy that takes its time shows how far it is, on a terminal and away from the copy, and leaves
/// no trace of that.
#[test]
fn shows_progress_on_a_terminal() {
    let target = serve(|stream| framed_echo(stream, 1 << 20));
    let (mut terminal, stderr) = pty::open();
    let mut child = heeding()
        .arg(&target)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = thread::spawn(move || {
        // Until its progress was seen twice.
        while stdin.write_all(&[7; 3000]).is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    let mut stdout = child.stdout.take().unwrap();
    let consumer = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(1..) = stdout.read(&mut buffer) {}
    });
    let (mut shown, mut buffer) = (String::new(), [0; 1024]);
    while shown.matches("/s, ").count() < 2 {
        let len = terminal.read(&mut buffer).unwrap();
        shown.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    let lines: Vec<&str> = shown.split('\r').collect();
    assert!(lines[0].is_empty() && lines[1].contains("iB, "), "{shown:?}");
    assert!(lines[1].ends_with(" s") && !shown.contains(['\x1b', '\n']), "{shown:?}");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    // Reading a terminal that nobody has open any longer fails.
    let mut rest = String::new();
    while let Ok(len @ 1..) = terminal.read(&mut buffer) {
        rest.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    assert!(rest.ends_with(" \r"), "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    feeder.join().unwrap();
    consumer.join().unwrap();
}

/// On a screen: the line appears, what is said stands alone, and in the end nothing of it is left. What
/// comes to stdout is the copy and nothing else.
#[test]
fn progress_leaves_a_clean_screen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (restart, lost) = channel::<()>();
    thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        greet(&mut first, 1 << 20);
        let frame = read_frame(&mut first, 1 << 20);
        first.write_all(&frame).unwrap();
        lost.recv_timeout(LIMIT).unwrap();
        drop(first);
        framed_echo(listener.accept().unwrap().0, 1 << 20);
    });
    let (mut terminal, stderr) = pty::open();
    let mut child = Command::new(env!("CARGO_BIN_EXE_echo-client"))
        .args(["--retry", "2m", &format!("unix:{}", path.display())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let mut screen =
        vt100::Parser::new(NonZeroU16::new(6).unwrap(), NonZeroU16::new(100).unwrap(), 0);
    let mut until = |seen: &dyn Fn(&str) -> bool| {
        let mut buffer = [0; 1024];
        while !seen(&screen.screen().contents()) {
            // Reading a terminal that nobody has open any longer fails.
            let Ok(len @ 1..) = terminal.read(&mut buffer) else { break };
            screen.process(&buffer[..len]);
        }
        screen.screen().contents()
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello").unwrap();
    let shown = until(&|screen| screen.contains("/s, "));
    assert!(shown.starts_with("5 B, ") && shown.lines().count() == 1, "{shown:?}");
    // A notice takes the place of the line, which comes again below it.
    restart.send(()).unwrap();
    until(&|screen| screen.contains("connects again"));
    stdin.write_all(b" again").unwrap();
    let shown = until(&|screen| screen.contains("\n11 B, ") && screen.ends_with(" s"));
    let lines: Vec<_> = shown.lines().collect();
    let [lost, again, line] = lines[..] else { panic!("{shown:?}") };
    assert!(lost.starts_with("echo-client: ") && lost.ends_with("connects again"), "{lost:?}");
    assert!(again == "echo-client: connected again" && line.starts_with("11 B, "), "{shown:?}");
    drop(stdin);
    let shown = until(&|_| false);
    assert_eq!(shown.trim_end().lines().collect::<Vec<_>>(), [lost, again]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout == b"hello again", "{output:?}");
}

/// Where the copy itself goes to a terminal, nothing else comes to it, however long that takes.
#[test]
fn no_progress_beside_a_copy_on_a_terminal() {
    let (heard, came) = channel();
    let target = serve(move |mut stream| {
        greet(&mut stream, 1 << 20);
        loop {
            let frame = read_frame(&mut stream, 1 << 20);
            if frame.is_empty() || stream.write_all(&frame).is_err() {
                return;
            }
            heard.send(()).unwrap();
        }
    });
    let (mut terminal, there) = pty::open();
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.arg(&target).stdin(Stdio::piped());
    let mut child = command.stdout(there.try_clone().unwrap()).stderr(there).spawn().unwrap();
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    // Longer than until a progress line and its first change would come.
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_millis(2700) {
        stdin.write_all(b"x").unwrap();
        came.recv_timeout(LIMIT).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    drop(stdin);
    let (mut shown, mut buffer) = (String::new(), [0; 1024]);
    while let Ok(len @ 1..) = terminal.read(&mut buffer) {
        shown.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    assert!(shown.len() > 10 && shown.chars().all(|c| c == 'x'), "{shown:?}");
    assert!(child.wait().unwrap().success());
}

/// What is verified is no copy: its progress may stand on the terminal that the result goes to.
#[test]
fn shows_progress_above_a_result() {
    let target = serve(|stream| framed_echo(stream, 1 << 20));
    let (mut terminal, there) = pty::open();
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args(["--verify", &target]).stdin(Stdio::piped());
    let mut child = command.stdout(there.try_clone().unwrap()).stderr(there).spawn().unwrap();
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello").unwrap();
    let (mut shown, mut buffer) = (String::new(), [0; 1024]);
    while !shown.contains("/s, ") {
        let len = terminal.read(&mut buffer).unwrap();
        shown.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    drop(stdin);
    while let Ok(len @ 1..) = terminal.read(&mut buffer) {
        shown.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    let (progress, result) = shown.rsplit_once(" \r").unwrap();
    assert!(progress.starts_with("\r5 B, "), "{shown:?}");
    assert!(result.starts_with("5 bytes (5 B) in ") && result.ends_with("\r\n"), "{shown:?}");
    assert!(child.wait().unwrap().success());
}

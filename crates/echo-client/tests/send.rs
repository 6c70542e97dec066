//! `echo-client send` as scripts meet it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::daemon::Daemon;
use support::pty::{CTRL_C, Pty};
use support::*;
use tokio::time::Instant;

/// Runs `echo-client send ARGS < /dev/null`.
fn send(args: &[&str]) -> Ended {
    pipe(&[&["send"], args].concat(), b"")
}

fn framed() -> String {
    serve(|stream| framed_echo(stream, 1 << 20))
}

impl Ended {
    /// Asserts exit code 0, nothing on stderr, and these lines.
    #[track_caller]
    fn printed(&self, lines: &str) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""));
        assert_eq!(String::from_utf8_lossy(&self.stdout), lines);
    }
}

#[test]
fn prints_one_reply_a_line() {
    let daemon = Daemon::start(&["--listen", "tcp://127.0.0.1:0"]);
    let target = daemon.target.as_str();
    send(&[target, "one", "two words", "", "übung"]).printed("one\ntwo words\n\nübung\n");
    // Behind the options or before them, and what looks like one.
    send(&["-q", target, "--timeout", "1m", "one", "--", "-q"]).printed("one\n-q\n");
    send(&["--count", "3", target, "a", "b"]).printed("a\nb\na\nb\na\nb\n");
    send(&["--hex", target, "00 ff", "DEad"]).printed("00 ff\nde ad\n");
    send(&["--interval", "1ms", target, "a", "b"]).printed("a\nb\n");
    // Nothing is waited for after the last.
    send(&["--interval", "1h", target, "a"]).printed("a\n");
    // Into a pipe replies come as they are.
    let ended = send(&[&format!("raw://{}", serve(raw_echo)), "\x1b[2J\r"]);
    assert_eq!((ended.code, &ended.stdout[..]), (Some(0), &b"\x1b[2J\r\n"[..]));
}

#[test]
fn reads_files_and_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let daemon = Daemon::start(&["--listen", "tcp://127.0.0.1:0"]);
    let noise = noise(100_000);
    fs::write(path("noise"), &noise).unwrap();
    fs::write(path("text"), "a\nb").unwrap();
    let ended = send(&["--file", &path("noise"), "--file", &path("text"), &daemon.target]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout == [&noise[..], b"\na\nb\n"].concat());
    send(&[&daemon.target, "--hex", "--file", &path("text")]).printed("61 0a 62\n");

    let ended = send(&[&daemon.target, "--file", &path("none")]);
    ended.failed(&format!("cannot read {}: No such file or directory\n", path("none")));

    let lines =
        |args: &[&str], input: &[u8]| pipe(&[&["send", "--stdin-lines"], args].concat(), input);
    lines(&[&daemon.target], b"one\n\nthree").printed("one\n\nthree\n");
    lines(&[&daemon.target], b"").printed("");
    lines(&["--count", "2", &daemon.target], b"one\n\nthree")
        .printed("one\none\n\n\nthree\nthree\n");
    lines(&["--hex", &daemon.target], b"61\n62 63\n").printed("61\n62 63\n");
    let ended = lines(&["--hex", &daemon.target], b"61\n6\n");
    ended.failed("line 2: a byte has two hexadecimal digits: 6 stands alone\n");
    assert_eq!(ended.stdout, b"61\n");
}

/// Each line is answered before the next is written: nothing waits for more input.
#[test]
fn answers_lines_as_they_come() {
    let (came, next) = channel();
    let feed = move |mut stdin: std::process::ChildStdin| {
        for _ in 0..10 {
            stdin.write_all(b"line\n").unwrap();
            next.recv_timeout(LIMIT).unwrap();
        }
        None
    };
    let consume = move |mut stdout: std::process::ChildStdout| {
        for _ in 0..10 {
            stdout.read_exact(&mut [0; 5]).unwrap();
            came.send(()).unwrap();
        }
        read_all(stdout)
    };
    let (ended, rest) = Client::start(&["send", "--stdin-lines", &framed()], feed, consume).end();
    ended.copied(&rest);
    assert!(rest.is_empty());
}

#[test]
fn tells_times() {
    let daemon = Daemon::start(&["--listen", "tcp://127.0.0.1:0"]);
    let ended = send(&["--timing", &daemon.target, "one\ttwo"]);
    let line = String::from_utf8(ended.stdout).unwrap();
    let (time, reply) = line.split_once('\t').unwrap();
    assert_eq!(reply, "one\ttwo\n");
    assert!(milliseconds(time) > 0.0, "{time}");

    let ended = send(&["--timing", "--probe", &daemon.target, "one"]);
    let line = String::from_utf8(ended.stdout).unwrap();
    let [total, server, "one\n"] = line.split('\t').collect::<Vec<_>>()[..] else {
        panic!("{line}")
    };
    assert!(milliseconds(total) > milliseconds(server), "{line}");
    let raw = format!("raw://{}", serve(raw_echo));
    let told = "no PROBE: the server does not answer it: leave out --probe\n";
    send(&["--probe", &raw, "one"]).failed(told);
}

/// The number of `1.234 ms`.
fn milliseconds(text: &str) -> f64 {
    text.strip_suffix(" ms").unwrap().parse().unwrap()
}

/// At least the interval, also behind a reply that came a little late: the server holds the first one back
/// until so long after its message, and the message after the next cannot come before it and the interval
/// are over, however slow the machine is.
#[test]
fn keeps_the_interval() {
    const INTERVAL: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_millis(52);
    let (came, arrivals) = channel();
    let target = serve(move |mut stream| {
        greet(&mut stream, 100);
        let mut late = LATE;
        loop {
            let frame = read_frame(&mut stream, 100);
            if frame.is_empty() {
                return;
            }
            came.send(Instant::now()).unwrap();
            thread::sleep(std::mem::take(&mut late));
            stream.write_all(&frame).unwrap();
        }
    });
    send(&["--count", "4", "--interval", "50ms", &target, "x"]).printed("x\nx\nx\nx\n");
    let arrivals: Vec<_> = arrivals.iter().collect();
    assert_eq!(arrivals.len(), 4);
    // From one message to the next but one: the late reply, and then the whole interval.
    assert!(arrivals[2] - arrivals[0] >= LATE + INTERVAL, "{arrivals:?}");
}

#[test]
fn prints_objects() {
    let daemon = Daemon::start(&["--listen", "tcp://127.0.0.1:0"]);
    let objects = |args: &[&str]| {
        let ended = send(&[&["--json", &daemon.target], args].concat());
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        let lines = String::from_utf8(ended.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let objects_plain = objects(&["h\u{e9}\n\u{1b}", "two"]);
    assert_eq!(objects_plain.len(), 2);
    let first = &objects_plain[0];
    assert_eq!((&first["seq"], &first["bytes"]), (&0.into(), &5.into()));
    assert_eq!((&first["reply"], &first["resent"]), (&"h\u{e9}\n\u{1b}".into(), &false.into()));
    assert!(first["round_trip_ns"].as_u64().unwrap() > 0 && first.get("server_ns").is_none());
    assert_eq!(objects_plain[1]["seq"], 1);

    let probe = &objects(&["--probe", "--hex", "00ff"])[0];
    assert_eq!((&probe["bytes"], &probe["reply_hex"]), (&2.into(), &"00 ff".into()));
    let nanos = |name: &str| probe[name].as_u64().unwrap();
    assert!(nanos("server_ns") < nanos("round_trip_ns"));
    // What is no text comes in hexadecimal.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("binary");
    fs::write(&path, b"\xff").unwrap();
    assert_eq!(objects(&["--file", path.to_str().unwrap()])[0]["reply_hex"], "ff");
}

/// Every defect by its name; what came before it is printed.
#[test]
fn names_the_first_defect() {
    let nowhere = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:{}", nowhere.path().join("none").display());
    send(&[&nowhere, "x"]).failed(&format!("refused: {nowhere}: "));

    let scripted = |answer: &'static [u8]| {
        serve(move |mut stream: TcpStream| {
            greet(&mut stream, 8);
            let frame = read_frame(&mut stream, 8);
            stream.write_all(&frame).unwrap();
            read_frame(&mut stream, 8);
            stream.write_all(answer).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read(&mut [0; 100]);
        })
    };
    for (answer, told) in [
        (&b""[..], "closed early: the server ended the stream: 3 bytes unanswered\n"),
        (b"\0\0\0\x03tw", "closed early: the server ended the stream inside a frame: 1 byte"),
        (b"\0\0\0\x03two\0\0\0\x03two", "different at byte 6: the server sent a frame that nobody"),
        (b"\0\0\0\x03tow", "different at byte 4: sent 0x77, received 0x6f: \"wo\" came"),
        (
            b"\x82\0\0\x08\0\x01\0no\x1b[m",
            "refused: the server says: no\\u{1b}[m (error 1, too long)",
        ),
        (b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\x02", "closed early: the server drains: 1 of 2 frames"),
    ] {
        let ended = send(&["--timeout", "60s", &scripted(answer), "one", "two"]);
        ended.failed(told);
        assert!(ended.stdout.starts_with(b"one\n"), "{ended:?}");
    }
    // What the server is not asked: where it came from, and what to do.
    let less = "send less at a time, or raise the server's --max-frame\n";
    let ended = send(&[&scripted(b""), "one", "too long!"]);
    ended.failed(&format!("too long: message 2: 9 bytes are over the limit of 8: {less}"));
    assert_eq!(ended.stdout, b"one\n");
    let ended = pipe(&["send", "--stdin-lines", &scripted(b"")], b"one\ntoo long!\n");
    ended.failed(&format!("too long: line 2: 9 bytes are over the limit of 8: {less}"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file").display().to_string();
    fs::write(&path, [7; 9]).unwrap();
    let ended = send(&[&scripted(b""), "--file", &path]);
    ended.failed(&format!("too long: {path}: 9 bytes are over the limit of 8: {less}"));
    let probing = serve(|stream| framed_echo(stream, 40));
    let ended = send(&["--probe", &probing, "too long!"]);
    let bytes = "9 bytes and the 32 of a PROBE are over the limit of 40";
    ended.failed(&format!("too long: message 1: {bytes}: {less}"));
    let raw = format!("raw://{}", serve(raw_echo));
    let ended = pipe(&["send", "--stdin-lines", &raw], b"one\n\n");
    ended.failed("empty: line 2: a message of no bytes leaves no trace on a raw connection: ");

    let silent = serve(|mut stream| {
        greet(&mut stream, 8);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    send(&["--timeout", "5s", &silent, "x"]).failed("timed out: nothing came for 5s: ");
    // All is answered, and then something else comes.
    let raw = serve(|mut stream| {
        stream.read_exact(&mut [0; 3]).unwrap();
        stream.write_all(b"oneone").unwrap();
    });
    let ended = send(&[&format!("raw://{raw}"), "one"]);
    ended.failed("different at byte 3: the server sent bytes that nobody asked for\n");
    assert_eq!(ended.stdout, b"one\n");
    // Between two lines, of which the second has not come yet.
    let talker = serve(|mut stream| {
        greet(&mut stream, 8);
        let frame = read_frame(&mut stream, 8);
        stream.write_all(&[&frame[..], b"\0\0\0\x01!"].concat()).unwrap();
        let _ = stream.read(&mut [0; 100]);
    });
    let ended = pipe_open(&["send", "--stdin-lines", &talker], b"one\n");
    ended.failed("different at byte 3: the server sent a frame that nobody asked for\n");
}

/// With --retry a message outlives the server that it was sent to.
#[test]
fn sends_again_after_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        greet(&mut first, 100);
        read_frame(&mut first, 100);
        drop(first);
        framed_echo(listener.accept().unwrap().0, 100);
    });
    let target = format!("unix:{}", path.display());
    let ended = send(&["--retry", "1m", "--json", &target, "one", "two"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert!(lines[0].starts_with("echo-client: closed early: the server ended the stream"));
    assert!(lines[1].ends_with("1 message goes out again"), "{lines:?}");
    let stdout = String::from_utf8(ended.stdout).unwrap();
    let resent = |line| serde_json::from_str::<Value>(line).unwrap()["resent"] == true;
    assert_eq!(stdout.lines().map(resent).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn ends_quietly_when_stdout_is_closed() {
    let head = |mut stdout: std::process::ChildStdout| stdout.read_exact(&mut [0; 2]).unwrap();
    let args = ["send", "--count", "1000000000", &framed(), "x"];
    Client::start(&args, all(b""), head).end().0.copied(b"");
}

/// On a terminal replies are escaped, and Ctrl-C ends at once.
#[test]
fn is_safe_on_a_terminal() {
    let raw = format!("raw://{}", serve(raw_echo));
    let mut pty = Pty::start(&["send", &raw, "\x1b[2J\u{202e}\\"]);
    assert_eq!(pty.end(), Some(0));
    assert_eq!(pty.raw, b"\\x1b[2J\\u{202e}\\\\\r\n");
    let mut pty =
        Pty::start(&["send", "--count", "1000000000", "--interval", "1s", &framed(), "x"]);
    pty.expect("x\n");
    pty.press(CTRL_C);
    assert_eq!(pty.end(), Some(130));
}

#[test]
fn names_a_wrong_command_line() {
    for (args, told) in [
        (&["127.0.0.1"][..], "<TEXT|--file <PATH>|--stdin-lines>"),
        (&[], "<TARGET>"),
        (&["127.0.0.1", "x", "--file", "y"], "--file"),
        (&["127.0.0.1", "x", "--stdin-lines"], "--stdin-lines"),
        (&["127.0.0.1", "--hex", "0"], "message 1: a byte has two hexadecimal digits"),
        (&["127.0.0.1", "--hex", "00", "xx"], "message 2: 'x' is no hexadecimal digit"),
        (&["127.0.0.1", "--count", "0", "x"], "a whole number from 1 to 18446744073709551615"),
        (&["127.0.0.1", "--count", "many", "x"], "a whole number from 1 to 18446744073709551615"),
        (&["127.0.0.1", "--interval", "5", "x"], "write a whole number with its unit"),
        (&["127.0.0.1", "--json", "--timing", "x"], "--timing"),
        (&["-4", "unix:/x", "x"], "are for TCP and UDP targets"),
        (&["-4", "--source", "::1", "127.0.0.1", "x"], "--source is an IPv6 address"),
        (&["-6", "127.0.0.1", "x"], "127.0.0.1 is an IPv4 address"),
        (&["127.0.0.1?rate=1", "x"], "rate"),
    ] {
        send(args).misused(told);
    }
}

/// Options of connections belong to all commands: they may stand before one too.
#[test]
fn takes_options_before_the_command() {
    let before = |args: &[&str]| pipe(args, b"");
    before(&["-q", "--timeout", "1m", "send", &framed(), "x"]).printed("x\n");
    before(&["-4", "--source", "127.0.0.2", "send", "-q", &framed(), "x"]).printed("x\n");
    // What stands behind the command wins.
    let silent = serve(|mut stream| {
        greet(&mut stream, 8);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let ended = before(&["--timeout", "1h", "send", "--timeout", "5s", &silent, "x"]);
    ended.failed("timed out: nothing came for 5s");
    for (args, told) in [
        (&["-6", "send", "127.0.0.1", "x"][..], "127.0.0.1 is an IPv4 address"),
        (&["-6", "send", "-4", "localhost", "x"], "-4 and -6 exclude each other"),
        (&["127.0.0.1", "send", "127.0.0.1", "x"], "a target cannot stand before send"),
        (&["--verify", "send", "127.0.0.1", "x"], "--verify cannot stand before send"),
        (&["--json", "send", "127.0.0.1", "x"], "--json cannot stand before send"),
    ] {
        before(args).misused(told);
    }
}

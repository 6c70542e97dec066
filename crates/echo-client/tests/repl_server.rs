//! The REPL and its server, whatever that does: restarts, dies, talks raw, talks too much, lies.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::channel;
use std::thread;

use support::daemon::Daemon;
use support::pty::*;
use support::*;

/// A restart while a line is being edited: what happens is shown above the line, which stays.
#[test]
fn goes_on_after_a_restart() {
    let (folder, daemon) = Daemon::of_its_own();
    let mut pty = Pty::start(&[&daemon.target]);
    pty.enter("before");
    pty.expect("before  (6 bytes, ");
    pty.prompt();
    pty.press("half a li");
    pty.wait("the line", |pty| pty.line().ends_with("> half a li"));
    daemon.stop();
    pty.expect("the server drains");
    pty.wait("the line again", |pty| pty.line().ends_with("> half a li"));
    pty.expect("trying for 30s");
    let daemon = Daemon::on_socket(folder.path());
    pty.expect("connected again");
    pty.wait("the line again", |pty| pty.line().ends_with("> half a li"));
    pty.press("ne\r");
    pty.expect("half a line  (11 bytes, ");
    // And while a command runs: every message is answered, the one under way with the time it took.
    pty.enter(":watch 5ms tick");
    pty.wait("a tick", |pty| pty.contents().contains("tick  (4 bytes, "));
    daemon.stop();
    pty.expect("the server drains");
    let _daemon = Daemon::on_socket(folder.path());
    pty.wait("a tick after it", |pty| {
        let contents = pty.contents();
        contents.rsplit("connected again").next().unwrap_or_default().contains("tick  (")
            && contents.contains("connected again")
    });
    pty.press(CTRL_C);
    pty.expect("0 lost");
    pty.enter(":stats");
    pty.wait("the whole", |pty| pty.contents().matches(" 0 lost").count() == 2);
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

/// A server that dies while it owes an answer, and comes back.
#[test]
fn sends_again_what_a_dead_server_owes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        greet(&mut first, 1 << 20);
        read_frame(&mut first, 1 << 20);
        drop(first);
        framed_echo(listener.accept().unwrap().0, 1 << 20);
    });
    let mut pty = Pty::start(&[&format!("unix:{}", path.display())]);
    pty.enter("owed");
    pty.expect("the server ended the stream");
    pty.expect("1 message goes out again");
    pty.expect("owed  (4 bytes, ");
    pty.expect(", sent again)");
    pty.enter("next");
    pty.expect("next  (4 bytes, ");
    pty.enter(":stats");
    pty.expect("2 sent, 2 answered, 0 lost");
}

/// It ends idle connections, but a message had just been sent: that needs another one at once.
#[test]
fn connects_at_once_for_what_an_idle_end_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        greet(&mut first, 1 << 20);
        read_frame(&mut first, 1 << 20);
        first.write_all(b"\x81\0\0\x0a\0\x01\0\0\0\0\0\0\0\x01").unwrap();
        drop(first);
        framed_echo(listener.accept().unwrap().0, 1 << 20);
    });
    let mut pty = Pty::start(&[&format!("unix:{}", path.display())]);
    pty.enter("late");
    let told =
        "closed early: the server ends idle connections: 0 of 1 frames answered; connecting again";
    pty.expect(told);
    pty.expect("late  (4 bytes, ");
}

#[test]
fn ends_with_1_only_if_it_never_connected() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:{}", folder.path().join("none").display());
    let mut pty = Pty::start(&["--retry", "0", &nowhere]);
    assert_eq!(pty.end(), Some(1));
    assert!(pty.contents().contains(&format!("echo-client: refused: {nowhere}: ")));
    assert!(pty.is_cooked());
    // Ctrl-C while it tries.
    let mut pty = Pty::start(&[&nowhere]);
    pty.expect("trying for 30s");
    pty.press(CTRL_C);
    assert_eq!(pty.end(), Some(130));
    // Connected once, it ends well whatever happens.
    let daemon = Daemon::on_socket(folder.path());
    let mut pty = Pty::start(&["--retry", "0", &daemon.target]);
    pty.prompt();
    daemon.stop();
    pty.expect("the server drains");
    pty.expect("the next message connects again");
    pty.press(ENTER);
    pty.wait("a prompt that says so", |pty| pty.line().ends_with("(not connected)> "));
    pty.press("lost\r");
    pty.expect("refused: ");
    let _daemon = Daemon::on_socket(folder.path());
    pty.enter("found");
    pty.expect("found  (5 bytes, ");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

/// Any RFC 862 server: a reply is what comes back, and the rest is marked.
#[test]
fn speaks_with_raw_servers() {
    let target = serve(|mut stream| {
        stream.write_all(b"welcome\r\n").unwrap();
        raw_echo(stream);
    });
    let mut pty = Pty::start(&[&format!("raw://{target}")]);
    pty.expect(r"unexpected: welcome\r\n  (9 bytes)");
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    pty.enter(":probe");
    pty.expect("no PROBE: the server does not answer it");
    pty.enter(r#":hex """#);
    pty.expect("empty: a message of no bytes leaves no trace");
    pty.wait("it as it was given", |pty| pty.line().starts_with(&format!("raw://{target}> ")));
    // HELLO echoed: said, and raw from then on.
    let target = serve(raw_echo);
    let mut pty = Pty::start(&[&target]);
    pty.expect("the server echoes HELLO itself (RFC 862)");
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
}

/// A server that never stops talking, and talks faster than a terminal: the user is heard.
#[test]
fn is_not_drowned() {
    for busy in [false, true] {
        let (heard, message) = channel();
        let target = serve(move |mut stream| {
            let mut reader = stream.try_clone().unwrap();
            thread::spawn(move || {
                while let Ok(1..) = reader.read(&mut [0; 4096]) {
                    let _ = heard.send(());
                }
            });
            while stream.write_all(&b"spam\n".repeat(1000)).is_ok() {}
        });
        let mut pty = Pty::start(&[&format!("raw://{target}")]);
        pty.expect("spam");
        if busy {
            // What comes is not what was sent, or nobody asked for it: it goes on in any case.
            pty.press(":watch 1ms spam\r");
            pty.wait("the message on its way", |_| message.try_recv().is_ok());
            pty.press(CTRL_C);
            pty.wait("a line that is edited", |pty| !pty.is_cooked());
        }
        pty.press(":quit\r");
        assert_eq!(pty.end(), Some(0));
    }
}

#[test]
fn shows_what_a_server_does_wrong() {
    // A frame that nobody asked for, an ERROR, a difference; then the server is gone.
    let target = serve(|mut stream| {
        greet(&mut stream, 4);
        stream.write_all(b"\0\0\0\x03boo").unwrap();
        read_frame(&mut stream, 4);
        stream.write_all(b"\x82\0\0\x05\0\x01\0no").unwrap();
        read_frame(&mut stream, 4);
        stream.write_all(b"\0\0\0\x03cat").unwrap();
    });
    let mut pty = Pty::start(&["--retry", "0", &target]);
    pty.expect(r"unexpected: \x00\x00\x00\x03boo  (7 bytes)");
    pty.enter("too long");
    pty.expect("too long: 8 bytes are over the limit of 4: send less at a time");
    pty.enter("no");
    pty.expect("refused: the server says: no (error 1, too long)");
    pty.enter("car");
    pty.expect("different at byte 4: ");
    pty.enter(":stats");
    pty.expect("2 sent, 0 answered, 2 lost (100.000 %)");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

/// A clock that lies: a server cannot have had a message for longer than the whole way took.
#[test]
fn believes_no_server_time_beyond_the_round_trip() {
    let target = serve(|mut stream| {
        let mut hello = [0; 10];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(b"\x80\0\0\x0c\0\x01\0\x10\0\0\0\0\0\x05\0\0").unwrap();
        let mut probe = [0; 36];
        stream.read_exact(&mut probe).unwrap();
        probe[20..28].copy_from_slice(&3_600_000_000_000u64.to_be_bytes());
        probe[28] |= 1;
        stream.write_all(&probe).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let mut pty = Pty::start(&[&target]);
    pty.enter(":probe");
    pty.expect("different at byte 8: a PROBE was with the server for 3600s");
    assert!(!pty.contents().contains("network"), "{}", pty.contents());
}

/// A server that says GOAWAY at once is not connected to again and again for nothing.
#[test]
fn connects_again_for_a_reason_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let (connected, connections) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            greet(&mut stream, 1 << 20);
            stream.write_all(b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\x01").unwrap();
            connected.send(()).unwrap();
        }
    });
    let mut pty = Pty::start(&[&target]);
    pty.expect("the server drains: 0 of 0 frames answered; the next message connects again");
    pty.press(ENTER);
    pty.wait("a prompt that says so", |pty| pty.line().ends_with("(not connected)> "));
    assert_eq!(connections.try_iter().count(), 2);
    pty.press(CTRL_D);
    assert_eq!(pty.end(), Some(0));
}

/// A message whose reply nobody waits for any longer is not forgotten in silence.
#[test]
fn says_what_had_no_reply() {
    let (_folder, daemon) = Daemon::of_its_own();
    for leave in [":quit\r", CTRL_D, &format!(":connect {}\r", daemon.target)] {
        let (heard, message) = channel();
        let mut pty = Pty::start(&[&serve(move |mut stream| {
            greet(&mut stream, 1 << 20);
            read_frame(&mut stream, 1 << 20);
            heard.send(()).unwrap();
            let _ = stream.read(&mut [0]);
        })]);
        pty.enter("lost");
        message.recv_timeout(LIMIT).unwrap();
        pty.press(CTRL_C);
        pty.expect("no reply yet");
        pty.prompt();
        pty.press(leave);
        pty.expect("1 message has had no reply");
    }
}

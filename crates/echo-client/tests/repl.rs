//! The REPL as its users meet it, on a terminal.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use support::daemon::Daemon;
use support::pty::*;
use support::*;

/// A server on a Unix socket in a folder of its own.
fn server() -> (tempfile::TempDir, Daemon) {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::on_socket(folder.path());
    (folder, daemon)
}

#[test]
fn shows_each_reply_with_its_size_and_time() {
    let daemon = Daemon::start(&["--listen", "tcp://127.0.0.1:0"]);
    let mut pty = Pty::start(&[&daemon.target]);
    pty.expect("connected to 127.0.0.1:");
    pty.enter("hello, übung");
    pty.expect("hello, übung  (13 bytes, ");
    pty.enter(":hex de AD be ef");
    pty.expect("de ad be ef  (4 bytes, ");
    pty.enter(r"a\x00\xff\n\\b");
    pty.expect(r"a\x00\xff\n\\b  (6 bytes, ");
    pty.enter(":timing off");
    pty.enter("plain");
    pty.wait("a bare reply", |pty| pty.contents().contains("> plain\nplain\n"));
    pty.enter(":t on");
    pty.enter(":repeat 3 again");
    pty.expect("3 sent, 3 answered, 0 lost");
    assert_eq!(pty.contents().matches("again  (5 bytes, ").count(), 3);
    pty.enter(":repeat 2");
    pty.expect("2 sent, 2 answered, 0 lost");
    pty.enter(":repeat 50 :hex 2a");
    pty.expect("50 sent, 50 answered, 0 lost");
    pty.enter(":probe");
    pty.expect("round trip ");
    let told = |pty: &Pty| pty.contents().lines().any(is_probe);
    pty.wait("a probe", told);
    pty.enter(":stats");
    pty.expect("60 sent, 60 answered, 0 lost");
    assert!(pty.contents().contains("  p99 "));
    pty.enter(":help");
    pty.expect(":quit");
    pty.enter(":nonsense");
    pty.expect("unknown command :nonsense");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
    assert!(pty.is_cooked());
}

/// `round trip 107 µs = network 84.2 µs + server 22.6 µs`
fn is_probe(line: &str) -> bool {
    let words: Vec<_> = line.split(' ').collect();
    matches!(words[..], ["round", "trip", _, _, "=", "network", _, _, "+", "server", _, _])
}

#[test]
fn edits_lines() {
    let (_folder, daemon) = server();
    let mut pty = Pty::start(&[&daemon.target]);
    pty.prompt();
    pty.press(&format!("helo{LEFT}l{CTRL_A}Oh {ENTER}"));
    pty.expect("Oh hello  (8 bytes, ");
    pty.enter(&format!("two words{CTRL_W}three"));
    pty.expect("two three  (9 bytes, ");
    pty.prompt();
    pty.press(&format!("{UP}{UP}!{ENTER}"));
    pty.expect("Oh hello!  (9 bytes, ");
    pty.prompt();
    pty.press(&format!("{CTRL_R}two t"));
    pty.wait("the line that is searched for", |pty| pty.contents().contains("two t': two three"));
    pty.press(ENTER);
    pty.wait("it again", |pty| pty.contents().matches("two three  (9 bytes, ").count() == 2);
    // Letters of two columns, of several code points, at the edge of the screen.
    let wide = "漢字é👩‍🔧".repeat(10);
    pty.enter(&format!("{wide}x\x7f"));
    let reply = format!("{wide}  ({} bytes, ", wide.len());
    pty.wait("the reply", |pty| pty.unbroken().contains(&reply));
}

/// Lines that come at once, as pasted ones do, are one message each and none is lost.
#[test]
fn takes_lines_that_come_together() {
    let (_folder, daemon) = server();
    let mut pty = Pty::start(&[&daemon.target]);
    pty.prompt();
    pty.press("one\rtwo\rthree\r");
    for reply in ["one  (3 bytes", "two  (3 bytes", "three  (5 bytes"] {
        pty.expect(reply);
    }
    pty.prompt();
    // Where the terminal says that it is pasted text, it is one message.
    pty.press("\x1b[200~a\nb\x1b[201~\r");
    pty.expect("a\\nb  (3 bytes, ");
}

#[test]
fn keeps_its_history() {
    let (folder, daemon) = server();
    let state = folder.path().join("state");
    let setting = Setting { state: Some(&state), ..Setting::default() };
    let mut pty = Pty::start_in(&setting, &[&daemon.target]);
    for line in ["first", " secret", r"back\\slash", " :stats"] {
        pty.enter(line);
    }
    // The space keeps the line out; it is not sent.
    pty.expect("secret  (6 bytes, ");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));

    let file = state.join("echo-client/history");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("first\n") && !text.contains("secret") && !text.contains("stats"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();

    let mut pty = Pty::start_in(&setting, &[&daemon.target]);
    pty.prompt();
    pty.press(UP);
    pty.wait("the last line", |pty| pty.line().ends_with("> :quit"));
    pty.press(&format!("{UP}{UP}{ENTER}"));
    pty.expect("first  (5 bytes, ");
    // Whoever is killed has kept every line.
    pty.enter("second");
    pty.expect("second  (6 bytes, ");
    drop(pty);
    assert_eq!(mode(&file), 0o600);
    let mut pty = Pty::start_in(&setting, &[&daemon.target]);
    pty.prompt();
    pty.press(&format!("{UP}{ENTER}"));
    pty.expect("second  (6 bytes, ");
}

#[test]
fn goes_on_without_a_history() {
    let (_folder, daemon) = server();
    let setting = Setting { state: Some(Path::new("/dev/null")), ..Setting::default() };
    let mut pty = Pty::start_in(&setting, &[&daemon.target]);
    pty.expect("the history is not kept: /dev/null/echo-client/history: ");
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    pty.prompt();
    pty.press(UP);
    pty.wait("the line before", |pty| pty.line().ends_with("> hello"));
}

#[test]
fn completes_and_hints() {
    let (folder, daemon) = server();
    for name in ["alpha beta", "alpine"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let mut pty =
        Pty::start_in(&Setting { size: (24, 120), ..Setting::default() }, &[&daemon.target]);
    pty.prompt();
    pty.press(":wa");
    pty.wait("a hint", |pty| pty.is_dim("tch INTERVAL [MESSAGE]"));
    pty.press(TAB);
    pty.wait("the command", |pty| pty.line().contains("> :watch ") && !pty.is_dim("tch"));
    pty.wait("what it takes", |pty| pty.is_dim("INTERVAL [MESSAGE]"));
    pty.press(CTRL_C);
    pty.prompt();
    pty.press(&format!(":fi{TAB}{}/al{TAB}{TAB}", folder.path().display()));
    // Both begin so: they are listed, and the line stays as it is.
    pty.expect("alpha beta");
    pty.expect("alpine");
    pty.press(CTRL_C);
    pty.enter(&format!(":file {}/alpi{TAB}", folder.path().display()));
    pty.expect("alpine  (6 bytes, ");
    pty.enter(&format!(":file {}/alpha{TAB}", folder.path().display()));
    pty.expect("alpha beta  (10 bytes, ");
    pty.enter(":file /nonexistent");
    pty.expect("cannot read /nonexistent: No such file or directory");
}

#[test]
fn watches_until_it_is_interrupted() {
    let (_folder, daemon) = server();
    let mut pty = Pty::start(&[&daemon.target]);
    pty.enter(":watch 5ms tick");
    pty.wait("some ticks", |pty| pty.contents().matches("tick  (4 bytes, ").count() >= 5);
    pty.press(CTRL_C);
    pty.expect(" 0 lost");
    pty.enter("still here");
    pty.expect("still here  (10 bytes, ");
    pty.prompt();
    pty.press(CTRL_D);
    assert_eq!(pty.end(), Some(0));
}

/// A restart while a line is being edited: what happens is shown above the line, which stays.
#[test]
fn goes_on_after_a_restart() {
    let (folder, daemon) = server();
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

#[test]
fn ctrl_c_abandons() {
    let (heard, message) = std::sync::mpsc::channel();
    let (say, answer) = std::sync::mpsc::channel();
    let target = serve(move |mut stream| {
        greet(&mut stream, 1 << 20);
        let frame = read_frame(&mut stream, 1 << 20);
        heard.send(()).unwrap();
        answer.recv_timeout(LIMIT).unwrap();
        stream.write_all(&frame).unwrap();
        framed_echo_on(stream);
    });
    let mut pty = Pty::start(&[&target]);
    pty.prompt();
    pty.press("never sent");
    pty.wait("the line", |pty| pty.line().ends_with("never sent"));
    pty.press(CTRL_C);
    pty.enter("slow");
    message.recv_timeout(LIMIT).unwrap();
    pty.press(CTRL_C);
    pty.expect("no reply yet");
    pty.enter(":stats");
    pty.expect("1 sent, 0 answered, 1 waiting, 0 lost");
    say.send(()).unwrap();
    pty.expect("late reply: slow  (4 bytes, ");
    pty.enter("next");
    pty.expect("next  (4 bytes, ");
    pty.enter(":stats");
    pty.expect("2 sent, 2 answered, 0 lost");
    assert!(!pty.contents().contains("unexpected"));
}

/// Goes on echoing frames on a connection that has been greeted.
fn framed_echo_on(mut stream: impl Read + Write) {
    loop {
        let frame = read_frame(&mut stream, 1 << 20);
        if frame.is_empty() || stream.write_all(&frame).is_err() {
            return;
        }
    }
}

#[test]
fn ends_with_the_terminal() {
    let (_folder, daemon) = server();
    // Ctrl-D deletes a letter where there is one, and leaves where there is none.
    let mut pty = Pty::start(&[&daemon.target]);
    pty.prompt();
    pty.press(&format!("x{CTRL_A}{CTRL_D}{CTRL_D}"));
    assert_eq!(pty.end(), Some(0));
    assert!(pty.is_cooked());
    // The terminal goes away, between lines and in a command.
    for line in ["", ":watch 5ms tick"] {
        let mut pty = Pty::start(&[&daemon.target]);
        pty.enter(line);
        pty.wait("it at work", |pty| pty.contents().contains("tick  (") || line.is_empty());
        pty.hang_up();
        assert_ne!(pty.end(), None, "it did not end by itself");
    }
}

/// SIGTERM in the middle of a line: the shell gets its terminal back as it was.
#[test]
fn gives_the_terminal_back() {
    let (_folder, daemon) = server();
    for term in ["xterm-256color", "dumb"] {
        let mut pty = Pty::start_in(&Setting { term, ..Setting::default() }, &[&daemon.target]);
        pty.prompt();
        pty.press("half a line");
        pty.wait("the line", |pty| pty.line().ends_with("half a line"));
        assert_eq!(pty.is_cooked(), term == "dumb");
        let pid = rustix::process::Pid::from_raw(pty.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(pty.end(), Some(143));
        assert!(pty.is_cooked());
        assert_eq!(pty.column(), 0, "the shell's prompt begins a line");
    }
}

#[test]
fn follows_the_window() {
    let (_folder, daemon) = server();
    let mut pty =
        Pty::start_in(&Setting { size: (24, 70), ..Setting::default() }, &[&daemon.target]);
    let line = "0123456789".repeat(12);
    pty.prompt();
    pty.press(&line);
    pty.wait("the line", |pty| pty.unbroken().contains(&line));
    for (columns, more) in [(40, "a"), (100, "b"), (7, "c"), (70, "d")] {
        pty.resize((24, columns));
        pty.press(more);
        pty.wait(more, |pty| pty.line().trim_end().ends_with(more));
    }
    pty.press(ENTER);
    pty.wait("the reply", |pty| pty.unbroken().contains(&format!("{line}abcd  (124 bytes, ")));
    pty.enter("next");
    pty.expect("next  (4 bytes, ");
}

/// A terminal that can do nothing gets nothing that it cannot do.
#[test]
fn works_on_a_dumb_terminal() {
    let (folder, daemon) = server();
    let mut pty = Pty::start_in(&Setting { term: "dumb", ..Setting::default() }, &[&daemon.target]);
    pty.prompt();
    pty.press("hello\n");
    pty.expect("hello  (5 bytes, ");
    pty.prompt();
    // The kernel edits: a letter deleted, a line abandoned.
    pty.press("abx\x7fc\n");
    pty.expect("abc  (3 bytes, ");
    pty.prompt();
    pty.press("no");
    pty.wait("the line", |pty| pty.line().ends_with("> no"));
    pty.press(CTRL_C);
    pty.prompt();
    pty.press("half a li");
    pty.wait("the line", |pty| pty.line().ends_with("> half a li"));
    daemon.stop();
    pty.expect("the server drains");
    let _daemon = Daemon::on_socket(folder.path());
    pty.expect("connected again");
    pty.prompt();
    // The kernel has kept the line.
    pty.press("ne\n");
    pty.expect("half a line  (11 bytes, ");
    pty.prompt();
    pty.press("\u{e9}\n");
    pty.expect("\u{e9}  (2 bytes, ");
    pty.prompt();
    pty.press(CTRL_D);
    assert_eq!(pty.end(), Some(0));
    let text = String::from_utf8(pty.raw.clone()).unwrap();
    let control = |c: &char| c.is_control() && !matches!(c, '\r' | '\n' | '\u{8}');
    assert_eq!(text.chars().find(control), None, "{text:?}");
}

#[test]
fn colours_obey_no_color() {
    let (_folder, daemon) = server();
    for (env, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        let mut pty = Pty::start_in(&Setting { env, ..Setting::default() }, &[&daemon.target]);
        pty.enter("hello");
        pty.expect("hello  (5 bytes, ");
        pty.enter(":nonsense");
        pty.expect("unknown command");
        pty.prompt();
        pty.press(":ti");
        pty.wait("the line", |pty| pty.line().contains("> :ti"));
        pty.press(CTRL_C);
        pty.enter(":quit");
        pty.end();
        let text = String::from_utf8(pty.raw.clone()).unwrap();
        assert_eq!(styles(&text) > 0, coloured, "{text:?}");
    }
}

/// How many escape sequences set a style.
fn styles(text: &str) -> usize {
    let is_style = |rest: &&str| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';');
        end.is_some_and(|end| rest[end..].starts_with('m'))
    };
    text.split("\x1b[").skip(1).filter(is_style).count()
}

/// Ctrl-Z and `fg` under a shell with job control, in the middle of a line.
#[test]
fn suspends_and_resumes() {
    let (_folder, daemon) = server();
    let mut pty = Pty::run("bash", &["--norc", "--noprofile", "-i"]);
    pty.press(&format!("PS1='$ '; {} '{}'\r", env!("CARGO_BIN_EXE_echo-client"), daemon.target));
    pty.prompt();
    for round in 0..5 {
        pty.press(&format!("half {round}"));
        pty.wait("the line", |pty| pty.line().ends_with(&format!("> half {round}")));
        pty.press(CTRL_Z);
        pty.wait("the shell", |pty| pty.line() == "$ ");
        pty.press("fg\r");
        pty.wait("the line again", |pty| pty.line().ends_with(&format!("> half {round}")));
        pty.press(" whole");
        pty.wait("it in full", |pty| pty.line().ends_with(&format!("> half {round} whole")));
        pty.press(ENTER);
        pty.expect(&format!("half {round} whole  (12 bytes, "));
        pty.prompt();
    }
    pty.press(":quit\r");
    pty.wait("the shell", |pty| pty.line() == "$ ");
    pty.press("exit $?\r");
    assert_eq!(pty.end(), Some(0));
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

#[test]
fn connects_elsewhere() {
    let (_first, one) = server();
    let (folder, two) = server();
    let mut pty = Pty::start(&["--retry", "0", &one.target]);
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    pty.enter(&format!(":connect unix:{}/none", folder.path().display()));
    pty.expect(&format!("staying with {}", one.target));
    pty.enter("still one");
    pty.expect("still one  (9 bytes, ");
    pty.enter(&format!(":connect {}", two.target));
    pty.wait("the new prompt", |pty| pty.line().starts_with(&format!("{}> ", two.target)));
    // The counts are those of this server.
    pty.enter(":stats");
    pty.expect("0 sent, 0 answered, 0 lost");
    one.stop();
    pty.enter("two");
    pty.expect("two  (3 bytes, ");
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
    pty.expect("the server does not answer PROBE");
    pty.enter(":hex");
    pty.expect("an empty message");
    // HELLO echoed: said, and raw from then on.
    let target = serve(raw_echo);
    let mut pty = Pty::start(&[&target]);
    pty.expect("the server echoes HELLO itself (RFC 862)");
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
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
    pty.expect("8 bytes are over the limit of 4");
    pty.enter("no");
    pty.expect("refused: the server says: no (error 1, too long)");
    pty.enter("car");
    pty.expect("different at byte 4: ");
    pty.enter(":stats");
    pty.expect("2 sent, 0 answered, 2 lost (100.000 %)");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

/// A REPL only where both ends are a terminal: else the pipe, which reads the terminal's lines.
#[test]
fn is_a_pipe_unless_both_ends_are_a_terminal() {
    let (folder, daemon) = server();
    let copy = folder.path().join("copy");
    let client = env!("CARGO_BIN_EXE_echo-client");
    let line = format!("'{client}' '{}' > '{}'", daemon.target, copy.display());
    let mut pty = Pty::run("sh", &["-c", &line]);
    pty.press(&format!("hello\n{CTRL_D}"));
    assert_eq!(pty.end(), Some(0));
    assert_eq!(fs::read(copy).unwrap(), b"hello\n");
    assert!(!pty.contents().contains("> "));
}

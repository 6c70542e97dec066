//! The REPL and its terminal: Ctrl-C, Ctrl-D, signals, windows, dumb terminals, colours, job control.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};

use support::daemon::Daemon;
use support::pty::*;
use support::*;

/// A server that has heard the first message when the receiver says so, and answers it when told to.
fn serve_slowly() -> (String, Receiver<()>, Sender<()>) {
    let (heard, message) = channel();
    let (say, answer) = channel();
    let target = serve(move |mut stream| {
        greet(&mut stream, 1 << 20);
        let frame = read_frame(&mut stream, 1 << 20);
        heard.send(()).unwrap();
        answer.recv_timeout(LIMIT).unwrap();
        stream.write_all(&frame).unwrap();
        framed_echo_on(stream);
    });
    (target, message, say)
}

#[test]
fn ctrl_c_abandons() {
    let (target, message, say) = serve_slowly();
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
    let (_folder, daemon) = Daemon::of_its_own();
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

/// A shell that reads its lines as the kernel edits them: an end of input meant for the client, and
/// left behind, would end it.
fn shell() -> Pty {
    let mut pty = Pty::run("sh", &["-i"]);
    pty.press("PS1='ready$ '\r");
    pty.wait("the shell", at_shell);
    pty
}

fn at_shell(pty: &Pty) -> bool {
    pty.line().ends_with("ready$ ")
}

/// Starts the client there.
fn start(shell: &mut Pty, term: &str, target: &str) {
    let client = env!("CARGO_BIN_EXE_echo-client");
    let clear = r"printf '\033[2J\033[H'";
    shell.press(&format!("{clear}; TERM={term} '{client}' '{target}'; echo left with $?\r"));
}

/// Presses Ctrl-D, and wants the shell back as it was.
#[track_caller]
fn leave(shell: &mut Pty, code: i32) {
    shell.press(CTRL_D);
    shell.expect(&format!("left with {code}"));
    shell.wait("the shell", at_shell);
    assert!(shell.is_cooked());
    shell.press("echo still' 'here\r");
    shell.expect("still here");
    shell.wait("the shell", at_shell);
}

/// Ctrl-D leaves while a command runs, too, whatever that waits for.
#[test]
fn ctrl_d_leaves_a_command() {
    let (_folder, daemon) = Daemon::of_its_own();
    let mut pty = shell();
    for term in ["xterm-256color", "dumb"] {
        start(&mut pty, term, &daemon.target);
        pty.enter_dumb(":watch 5ms tick");
        pty.wait("a tick", |pty| pty.contents().contains("tick  (4 bytes, "));
        leave(&mut pty, 0);
        assert!(pty.contents().contains(" 0 lost"), "{}", pty.contents());
        start(&mut pty, term, &daemon.target);
        pty.enter_dumb(":repeat 1000000000 x");
        // The editor has shown it, and then given the terminal back.
        pty.wait("it at work", |pty| pty.contents().contains("0000 x\n") && pty.is_cooked());
        leave(&mut pty, 0);
        assert!(pty.contents().contains(" answered, "), "{}", pty.contents());
    }
    // While a reply is awaited.
    let (heard, message) = channel();
    let silent = serve(move |mut stream| {
        greet(&mut stream, 1 << 20);
        read_frame(&mut stream, 1 << 20);
        heard.send(()).unwrap();
        let _ = stream.read(&mut [0]);
    });
    start(&mut pty, "xterm-256color", &silent);
    pty.enter_dumb("slow");
    message.recv_timeout(LIMIT).unwrap();
    leave(&mut pty, 0);
}

/// Whatever was typed ahead: Ctrl-D is heard behind whole lines, and behind half a one.
#[test]
fn ctrl_d_leaves_behind_what_was_typed_ahead() {
    let (folder, daemon) = Daemon::of_its_own();
    let mut pty = shell();
    for term in ["xterm-256color", "dumb"] {
        for ahead in ["typed\r", "typed", "typed\rbehind"] {
            start(&mut pty, term, &daemon.target);
            pty.enter_dumb(":watch 300ms tick");
            pty.wait("a tick", |pty| pty.contents().contains("tick  (4 bytes, "));
            pty.press(ahead);
            pty.expect("typed");
            leave(&mut pty, 0);
        }
        // While a reply is awaited.
        let (heard, message) = channel();
        let silent = serve(move |mut stream| {
            greet(&mut stream, 1 << 20);
            read_frame(&mut stream, 1 << 20);
            heard.send(()).unwrap();
            let _ = stream.read(&mut [0]);
        });
        start(&mut pty, term, &silent);
        pty.enter_dumb("slow");
        message.recv_timeout(LIMIT).unwrap();
        pty.press("typed\r");
        pty.expect("typed");
        leave(&mut pty, 0);
    }
    start(&mut pty, "xterm-256color", &format!("unix:{}/none", folder.path().display()));
    pty.expect("trying for 30s");
    pty.press("typed\r");
    pty.expect("typed");
    leave(&mut pty, 1);
}

/// Lines that are typed while a command runs are run behind it.
#[test]
fn takes_lines_that_are_typed_ahead() {
    let (target, message, say) = serve_slowly();
    let mut pty = Pty::start(&[&target]);
    pty.enter("slow");
    message.recv_timeout(LIMIT).unwrap();
    pty.wait("it at work", Pty::is_cooked);
    pty.press("ahead\rbehind\rhal");
    pty.wait("the echo", |pty| pty.line() == "hal");
    say.send(()).unwrap();
    pty.expect("> ahead\nahead  (5 bytes, ");
    pty.expect("> behind\nbehind  (6 bytes, ");
    pty.wait("the rest", |pty| pty.line().ends_with("> hal"));
    pty.press("f\r");
    pty.expect("half  (4 bytes, ");
    pty.prompt();
    pty.press(UP);
    pty.press(UP);
    pty.wait("the history", |pty| pty.line().ends_with("> behind"));
}

#[test]
fn ctrl_d_leaves_while_it_connects() {
    let (folder, daemon) = Daemon::of_its_own();
    let mut pty = shell();
    start(&mut pty, "xterm-256color", &daemon.target);
    pty.enter_dumb(":watch 5ms tick");
    pty.wait("a tick", |pty| pty.contents().contains("tick  (4 bytes, "));
    daemon.stop();
    pty.expect("trying for 30s");
    leave(&mut pty, 0);
    // While a line is being edited.
    let daemon = Daemon::on_socket(folder.path());
    start(&mut pty, "xterm-256color", &daemon.target);
    pty.prompt();
    daemon.stop();
    pty.expect("trying for 30s");
    leave(&mut pty, 0);
    // It never connected.
    start(&mut pty, "xterm-256color", &format!("unix:{}/none", folder.path().display()));
    pty.expect("trying for 30s");
    leave(&mut pty, 1);
    let told = "echo-client: left before there was a connection\n";
    assert!(pty.contents().contains(told), "{}", pty.contents());
}

/// SIGTERM in the middle of a line: the shell gets its terminal back as it was.
#[test]
fn gives_the_terminal_back() {
    let (_folder, daemon) = Daemon::of_its_own();
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
    let (_folder, daemon) = Daemon::of_its_own();
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
    let (folder, daemon) = Daemon::of_its_own();
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
    pty.press_bytes(b"\xff\n");
    pty.expect("that is not UTF-8");
    pty.prompt();
    pty.press(CTRL_D);
    assert_eq!(pty.end(), Some(0));
    // The kernel has shown the byte that was typed.
    let text = String::from_utf8_lossy(&pty.raw);
    let control = |c: &char| c.is_control() && !matches!(c, '\r' | '\n' | '\u{8}');
    assert_eq!(text.chars().find(control), None, "{text:?}");
}

#[test]
fn colours_obey_no_color() {
    let (_folder, daemon) = Daemon::of_its_own();
    for (env, coloured) in [(&[][..], true), (&[("NO_COLOR", "1")], false)] {
        let mut pty = Pty::start_in(&Setting { env, ..Setting::default() }, &[&daemon.target]);
        pty.enter("hello");
        pty.expect("hello  (5 bytes, ");
        pty.enter(":nonsense");
        pty.expect("unknown command");
        pty.prompt();
        pty.press(":ti");
        pty.wait("the line", |pty| pty.line().contains("> :ti"));
        // A hint only where it can be told from what was typed.
        if coloured {
            pty.wait("a hint", |pty| pty.is_dim("ming on|off"));
        }
        pty.press(CTRL_C);
        pty.enter(":quit");
        pty.end();
        let text = String::from_utf8(pty.raw.clone()).unwrap();
        assert_eq!((styles(&text) > 0, text.contains("ming")), (coloured, coloured), "{text:?}");
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
    let (_folder, daemon) = Daemon::of_its_own();
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

/// A REPL only where both ends are a terminal: else the pipe, which reads the terminal's lines.
#[test]
fn is_a_pipe_unless_both_ends_are_a_terminal() {
    let (folder, daemon) = Daemon::of_its_own();
    let copy = folder.path().join("copy");
    let client = env!("CARGO_BIN_EXE_echo-client");
    let line = format!("'{client}' '{}' > '{}'", daemon.target, copy.display());
    let mut pty = Pty::run("sh", &["-c", &line]);
    pty.press(&format!("hello\n{CTRL_D}"));
    assert_eq!(pty.end(), Some(0));
    assert_eq!(fs::read(copy).unwrap(), b"hello\n");
    assert!(!pty.contents().contains("> "));
    // Nothing to converse about: what is typed is verified.
    let mut pty = Pty::start(&["--verify", &daemon.target]);
    pty.press(&format!("hello\n{CTRL_D}"));
    assert_eq!(pty.end(), Some(0));
    assert!(pty.contents().contains("6 bytes (6 B) in "), "{}", pty.contents());
}

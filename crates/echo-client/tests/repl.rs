//! The REPL as its users meet it: lines, their replies, commands, history, completion.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use support::daemon::Daemon;
use support::pty::*;

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
    pty.enter(":hex");
    pty.expect("write :hex DIGITS");
    pty.enter(":nonsense");
    pty.expect("unknown command :nonsense");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
    assert!(pty.is_cooked());
}

/// Whoever reads there takes the lines to come from the editor, and cannot be called back.
#[test]
fn a_terminal_is_no_file() {
    let daemon = Daemon::start(&["--listen", "tcp://127.0.0.1:0"]);
    let mut pty = Pty::start(&[&daemon.target]);
    pty.enter(":file /dev/tty");
    pty.expect("cannot read /dev/tty: it is a terminal");
    pty.enter(":repeat 2 :file /dev/stdin");
    pty.expect("cannot read /dev/stdin: it is a terminal");
    pty.enter("still heard");
    pty.expect("still heard  (11 bytes, ");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

/// `round trip 107 µs = network 84.2 µs + server 22.6 µs`
fn is_probe(line: &str) -> bool {
    let words: Vec<_> = line.split(' ').collect();
    matches!(words[..], ["round", "trip", _, _, "=", "network", _, _, "+", "server", _, _])
}

#[test]
fn edits_lines() {
    let (_folder, daemon) = Daemon::of_its_own();
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
    let (_folder, daemon) = Daemon::of_its_own();
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
    let (folder, daemon) = Daemon::of_its_own();
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
    let (_folder, daemon) = Daemon::of_its_own();
    let setting = Setting { state: Some(Path::new("/dev/null")), ..Setting::default() };
    let mut pty = Pty::start_in(&setting, &[&daemon.target]);
    pty.expect("the history is not kept: /dev/null/echo-client/history: ");
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    pty.prompt();
    pty.press(UP);
    pty.wait("the line before", |pty| pty.line().ends_with("> hello"));
}

/// What is no file is not read, and a file elsewhere is not touched.
#[test]
fn keeps_its_history_in_a_file_only() {
    let (folder, daemon) = Daemon::of_its_own();
    let other = folder.path().join("other");
    for (what, told) in [
        ("mkfifo history", "it is no file"),
        ("mkdir history", "it is no file"),
        ("ln -s /dev/full history", "it is a link"),
        ("ln -s /dev/zero history", "it is a link"),
        ("ln -s ../../other history", "it is a link"),
    ] {
        let state = tempfile::tempdir().unwrap();
        let place = state.path().join("echo-client");
        fs::create_dir(&place).unwrap();
        fs::write(&other, "mine\n").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
        let make = Command::new("sh").args(["-c", what]).current_dir(&place).status().unwrap();
        assert!(make.success());
        let setting = Setting { state: Some(state.path()), ..Setting::default() };
        let mut pty = Pty::start_in(&setting, &[&daemon.target]);
        pty.enter("hello");
        pty.expect("hello  (5 bytes, ");
        // The editor is another thread: its notice may come behind the reply.
        pty.wait(what, |pty| {
            let shown = pty.unbroken();
            shown.contains("the history is not kept: ") && shown.contains(told)
        });
        pty.enter(":quit");
        assert_eq!(pty.end(), Some(0));
        assert_eq!(fs::read(&other).unwrap(), b"mine\n");
        assert_eq!(other.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }
}

/// One line that is no text costs itself, and nothing else.
#[test]
fn skips_what_is_no_text_in_its_history() {
    let (folder, daemon) = Daemon::of_its_own();
    let place = folder.path().join("echo-client");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("history"), b"#V2\nfirst\nb\xffd\nlast\n").unwrap();
    let setting = Setting { state: Some(folder.path()), ..Setting::default() };
    let mut pty = Pty::start_in(&setting, &[&daemon.target]);
    pty.prompt();
    pty.press(&format!("{UP}{UP}{ENTER}"));
    pty.expect("first  (5 bytes, ");
    assert!(!pty.contents().contains("not kept"), "{}", pty.contents());
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
    let kept = fs::read_to_string(place.join("history")).unwrap();
    assert_eq!(kept, "#V2\nfirst\nlast\nfirst\n:quit\n");
}

#[test]
fn completes_and_hints() {
    let (folder, daemon) = Daemon::of_its_own();
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
    let (_folder, daemon) = Daemon::of_its_own();
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

#[test]
fn connects_elsewhere() {
    let (_first, one) = Daemon::of_its_own();
    let (folder, two) = Daemon::of_its_own();
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

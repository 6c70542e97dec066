//! Users: the client authenticates in `send`, pipe and REPL, says what is wrong, and shows no password.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::daemon::{Daemon, program};
use support::pty::*;

const PASSWORD: &str = "canary-Jm4z8";

/// A folder with users, and a daemon that serves them alone.
struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let house = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(house.path("right"), format!("{PASSWORD}\n")).unwrap();
        fs::write(house.path("wrong"), "another").unwrap();
        for (name, allow) in [("alice", "echo"), ("bob", "put")] {
            let added = Command::new(program())
                .args(["user", "add", name, "--allow", allow, "--users"])
                .arg(house.path("users.toml"))
                .arg("--password-file")
                .arg(house.path("right"))
                .output();
            assert!(added.unwrap().status.success());
        }
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> Daemon {
        let users = self.path("users.toml").display().to_string();
        let listen = format!("unix:{}?auth=required", self.path("socket").display());
        Daemon::start(&["--users", &users, "--listen", &listen])
    }

    fn target(&self) -> String {
        format!("unix:{}", self.path("socket").display())
    }

    /// The arguments that name a user and a file with a password.
    fn user(&self, name: &str, file: &str) -> Vec<String> {
        let file = self.path(file).display().to_string();
        ["--user", name, "--password-file", &file].map(str::to_owned).to_vec()
    }
}

/// Runs the client without a terminal, and without a password in the environment.
fn client(args: &[String], password: Option<&str>) -> Output {
    let mut command = Command::new("setsid");
    command.args(["--wait", env!("CARGO_BIN_EXE_echo-client")]).args(args);
    command.env_remove("ECHO_PASSWORD").envs(password.map(|it| ("ECHO_PASSWORD", it)));
    command.stdin(Stdio::null()).output().unwrap()
}

/// What a run came to: its code, stdout and stderr.
fn told(output: &Output) -> (Option<i32>, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn send_authenticates_and_says_what_is_wrong() {
    let house = House::new();
    let _daemon = house.open();
    let send = |user: Vec<String>, password| {
        let args = [vec!["send".to_owned(), house.target(), "hi".to_owned()], user].concat();
        client(&args, password)
    };
    assert_eq!(told(&send(house.user("alice", "right"), None)), (Some(0), "hi\n", ""));
    let alice = || vec!["--user".to_owned(), "alice".to_owned()];
    assert_eq!(told(&send(alice(), Some(PASSWORD))), (Some(0), "hi\n", ""));
    let denied = "echo-client: denied: wrong name or password\n";
    for (user, file) in [("alice", "wrong"), ("nobody", "right")] {
        assert_eq!(told(&send(house.user(user, file), None)), (Some(1), "", denied));
    }
    // The file wins over the variable.
    assert_eq!(told(&send(house.user("alice", "wrong"), Some(PASSWORD))), (Some(1), "", denied));
    for (user, password, code, words) in [
        (
            vec![],
            None,
            1,
            "refused: the server says: authenticate first (error 5, denied): give --user NAME, or under tls:// --cert FILE --key FILE",
        ),
        (house.user("bob", "right"), None, 1, "(error 6, forbidden)"),
        (alice(), None, 64, "no password: give --password-file FILE, or set ECHO_PASSWORD"),
        (house.user("alice", "none"), None, 64, "No such file or directory"),
        (alice(), Some("canary-Jm4z8\u{7}"), 64, "a password is 1 to 1024 bytes long"),
        (house.user("a b", "right"), None, 64, "a user name is 1 to 255 bytes long"),
        (house.user("alice", "right")[2..].to_vec(), None, 64, "whose password? give --user NAME"),
    ] {
        let output = send(user, password);
        let (got, stdout, stderr) = told(&output);
        assert_eq!((got, stdout, stderr.lines().count()), (Some(code), "", 1), "{stderr}");
        assert!(stderr.contains(words) && !stderr.contains("canary"), "{stderr}");
    }
}

/// Its first line, where nothing else is to come from there.
#[test]
fn a_password_comes_from_stdin() {
    let house = House::new();
    let _daemon = house.open();
    let run = |file: &str, args: &[&str], input: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
        command.args(args).args(["--user", "alice", "--password-file", file]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.env_remove("ECHO_PASSWORD").spawn().unwrap();
        // What is refused may end before it has read any of it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let (code, stdout, stderr) = told(&output);
        (code, stdout.to_owned(), stderr.to_owned())
    };
    let target = house.target();
    let send = ["send", &target, "hi"];
    let names = ["-", "/dev/stdin", "/proc/self/fd/0"];
    for file in names {
        for end in ["", "\n", "\r\n", "\nmore\n", "\n\n"] {
            let came = run(file, &send, &format!("{PASSWORD}{end}"));
            assert_eq!(came, (Some(0), "hi\n".to_owned(), String::new()), "{file} {end:?}");
        }
        for input in ["", "\n", "\ncanary-Jm4z8\n"] {
            let words = "echo-client: cannot read the password from stdin: it is empty\n";
            let came = run(file, &send, input);
            assert_eq!(came, (Some(64), String::new(), words.to_owned()), "{file}");
        }
    }
    for args in [
        &[&*target][..],
        &["--verify", &target],
        &["send", &target, "--stdin-lines"],
        &["send", &target, "--file", "/dev/stdin"],
        &["put", &target, "-", "--as", "x"],
    ] {
        let words =
            "echo-client: stdin is what is sent, and no password: give --password-file FILE\n";
        for file in names {
            let came = run(file, args, PASSWORD);
            assert_eq!(came, (Some(64), String::new(), words.to_owned()), "{args:?} {file}");
        }
    }
    for file in ["-", "/dev/stdin"] {
        let mut pty = Pty::start(&["ls", &target, "--user", "alice", "--password-file", file]);
        pty.expect("stdin is a terminal: without --password-file it is asked for the password");
        assert_eq!(pty.end(), Some(64));
    }
}

#[test]
fn servers_without_users_are_told_from_those_with() {
    let house = House::new();
    let daemon = Daemon::start(&["--listen", &house.target()]);
    let send = |target: String| {
        let args = [vec!["send".to_owned(), target, "hi".to_owned()], house.user("alice", "right")];
        client(&args.concat(), None)
    };
    let refused =
        "echo-client: refused: the server offers no authentication: ask it without a user\n";
    assert_eq!(told(&send(house.target())), (Some(1), "", refused));
    for (target, words) in [
        ("udp://127.0.0.1:7", "datagrams cannot authenticate"),
        ("raw://127.0.0.1:7", "a raw server knows no users"),
    ] {
        let output = send(target.to_owned());
        assert_eq!(output.status.code(), Some(64));
        assert!(told(&output).2.contains(words));
    }
    daemon.stop();
}

/// The pipe goes on over a restart: every connection authenticates.
#[test]
fn the_pipe_authenticates_again_after_a_restart() {
    let house = House::new();
    let daemon = house.open();
    let mut child = support::heeding()
        .args(["--retry", "60s", &house.target()])
        .args(house.user("alice", "right"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut got = [0; 5];
    stdin.write_all(b"first").unwrap();
    stdout.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"first");
    daemon.stop();
    let _again = house.open();
    stdin.write_all(b"again").unwrap();
    drop(stdin);
    stdout.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"again");
    assert!(child.wait().unwrap().success());
}

/// Asked for on a terminal: without echo, taken back letter by letter, and kept in no history.
#[test]
fn the_repl_asks_and_shows_no_password() {
    let house = House::new();
    let _daemon = house.open();
    let state = tempfile::tempdir().unwrap();
    let setting = Setting { state: Some(state.path()), ..Setting::default() };
    let mut pty = Pty::start_in(&setting, &["--user", "alice", &house.target()]);
    pty.expect("Password of alice:");
    pty.press(&format!("wrong\u{15}{PASSWORD}x\u{7f}\r"));
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
    assert!(!String::from_utf8_lossy(&pty.raw).contains("canary"));
    let history = fs::read_to_string(state.path().join("echo-client/history")).unwrap();
    assert!(history.contains("hello") && !history.contains("canary"));
    // Ctrl-C at the prompt ends it, and the terminal echoes again.
    let mut pty = Pty::start(&["--user", "alice", &house.target()]);
    pty.expect("Password of alice:");
    pty.press(CTRL_C);
    assert_eq!(pty.end(), Some(130));
    assert!(pty.is_cooked());
    // Ctrl-D does if nothing was typed, and is no part of a password.
    let mut pty = Pty::start(&["--user", "alice", &house.target()]);
    pty.expect("Password of alice:");
    pty.wait("silence", |pty| !pty.is_cooked());
    pty.press(CTRL_D);
    pty.expect("echo-client: no password was typed");
    assert_eq!(pty.end(), Some(64));
    assert!(pty.is_cooked());
    let mut pty = Pty::start(&["--user", "alice", &house.target()]);
    pty.expect("Password of alice:");
    pty.press(&format!("{PASSWORD}{CTRL_D}\r"));
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
    // So does a signal from elsewhere.
    for (signal, code) in
        [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)]
    {
        let mut pty = Pty::start(&["--user", "alice", &house.target()]);
        pty.expect("Password of alice:");
        pty.wait("silence", |pty| !pty.is_cooked());
        kill_process(Pid::from_raw(pty.pid() as i32).unwrap(), signal).unwrap();
        assert_eq!(pty.end(), Some(code), "{signal:?}");
        assert!(pty.is_cooked(), "{signal:?}");
    }
    // A terminal that is gone says so, though it takes nothing any more.
    for _ in 0..20 {
        let mut pty = Pty::start(&["--user", "alice", &house.target()]);
        pty.expect("Password of alice:");
        pty.wait("silence", |pty| !pty.is_cooked());
        pty.hang_up();
        assert_eq!(pty.end(), Some(129));
    }
}

/// The question has listened to signals, which end what comes after it as well.
#[test]
fn signals_end_what_a_password_was_typed_for() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = silent.local_addr().unwrap().to_string();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut pty = Pty::start(&["ls", "--user", "alice", &target]);
        pty.expect("Password of alice:");
        pty.press("secret\r");
        let _waits = silent.accept().unwrap();
        kill_process(Pid::from_raw(pty.pid() as i32).unwrap(), signal).unwrap();
        assert_eq!(pty.end(), Some(code), "{signal:?}");
    }
}

/// As the client does: typed twice, or ended.
#[test]
fn the_server_asks_for_the_password_of_who_is_added() {
    let house = House::new();
    let users = house.path("users.toml").display().to_string();
    let mut pty =
        Pty::run(program().to_str().unwrap(), &["user", "add", "carol", "--users", &users]);
    pty.expect("New password:");
    pty.press("secret\r");
    pty.expect("Again:");
    pty.press("secret\r");
    pty.expect("added carol");
    assert_eq!(pty.end(), Some(0));
    let ask = || {
        let add = ["user", "add", "dave", "--users", &users];
        let mut pty = Pty::run(program().to_str().unwrap(), &add);
        pty.expect("New password:");
        pty.wait("silence", |pty| !pty.is_cooked());
        pty
    };
    let mut pty = ask();
    pty.press("secret\r");
    pty.expect("Again:");
    pty.press(CTRL_C);
    assert_eq!(pty.end(), Some(130));
    assert!(pty.is_cooked());
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut pty = ask();
        kill_process(Pid::from_raw(pty.pid() as i32).unwrap(), signal).unwrap();
        assert_eq!(pty.end(), Some(code), "{signal:?}");
        assert!(pty.is_cooked(), "{signal:?}");
    }
    let mut pty = ask();
    pty.hang_up();
    assert_eq!(pty.end(), Some(129));
}

/// Other control bytes, and keys like an arrow, are no part of a password; Ctrl-\ ends the question.
#[test]
fn the_prompt_takes_no_control_bytes() {
    let house = House::new();
    let _daemon = house.open();
    let ask = || {
        let mut pty = Pty::start(&["--user", "alice", &house.target()]);
        pty.expect("Password of alice:");
        pty.wait("silence", |pty| !pty.is_cooked());
        pty
    };
    let mut pty = ask();
    let (begin, end) = PASSWORD.split_at(4);
    pty.press(&format!("{CTRL_Z}\t{CTRL_A}{begin}\u{1b}[1;5D\u{1b}OA\u{1b}{CTRL_W}\u{1d}{end}\r"));
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    // Once it is answered, the signal is the kernel's again.
    kill_process(Pid::from_raw(pty.pid() as i32).unwrap(), Signal::QUIT).unwrap();
    assert_eq!(pty.end(), None);
    let mut pty = ask();
    pty.press("canary\u{1c}");
    assert_eq!(pty.end(), Some(131));
    assert!(pty.is_cooked());
    let users = house.path("users.toml").display().to_string();
    let add = ["user", "add", "carol", "--users", &users];
    for (key, code, told) in [("\u{1c}", 131, "SIGQUIT"), (CTRL_C, 130, "SIGINT")] {
        let mut pty = Pty::run(program().to_str().unwrap(), &add);
        pty.expect("New password:");
        pty.wait("silence", |pty| !pty.is_cooked());
        pty.press("secret\r");
        pty.expect("Again:");
        pty.press(key);
        pty.expect(&format!("echo-server: ended by {told}"));
        assert_eq!(pty.end(), Some(code));
        assert!(pty.is_cooked());
    }
}

/// Stopped and continued, as by a shell, which has made the terminal echo meanwhile.
#[test]
fn the_prompt_is_silent_again_when_it_goes_on() {
    let house = House::new();
    let _daemon = house.open();
    let mut pty = Pty::start(&["--user", "alice", &house.target()]);
    let pid = Pid::from_raw(pty.pid() as i32).unwrap();
    pty.expect("Password of alice:");
    pty.wait("silence", |pty| !pty.is_cooked());
    // No canary: the kernel may echo what it takes only after the terminal was changed.
    pty.press("half");
    kill_process(pid, Signal::STOP).unwrap();
    pty.cook();
    kill_process(pid, Signal::CONT).unwrap();
    pty.wait("another prompt", |pty| pty.count("Password of alice:") == 2);
    assert!(!pty.is_cooked());
    pty.press(&format!("{PASSWORD}\r"));
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
    assert!(!String::from_utf8_lossy(&pty.raw).contains("canary"));
}

/// Users and files together: each may do what its `--allow` says, and has its quota.
#[test]
fn users_do_with_files_what_they_may() {
    let house = House::new();
    let store = house.path("store");
    fs::create_dir(&store).unwrap();
    for (name, allow) in [("writer", "put,list,remove"), ("reader", "get")] {
        let mut add = Command::new(program());
        add.args(["user", "add", name, "--allow", allow, "--quota", "8KiB", "--users"]);
        add.arg(house.path("users.toml")).arg("--password-file").arg(house.path("right"));
        assert!(add.output().unwrap().status.success());
    }
    let users = house.path("users.toml").display().to_string();
    let (listen, files) = (house.target(), store.display().to_string());
    let _daemon = Daemon::start(&["--users", &users, "--files", &files, "--listen", &listen]);
    let (small, large) = (house.path("small"), house.path("large"));
    fs::write(&small, [1; 5000]).unwrap();
    fs::write(&large, [2; 9000]).unwrap();
    let run = |who: Option<&str>, task: &str, args: &[&str]| {
        let mut line = vec![task.to_owned(), listen.clone()];
        line.extend(args.iter().map(|it| (*it).to_owned()));
        line.extend(who.map(|who| house.user(who, "right")).unwrap_or_default());
        let output = client(&line, None);
        (output.status.code(), told(&output).1.to_owned() + told(&output).2)
    };
    let (small, large) = (small.display().to_string(), large.display().to_string());
    let back = house.path("back").display().to_string();
    let is = |(code, text): (Option<i32>, String), expected: i32, words: &str| {
        assert!(code == Some(expected) && text.contains(words), "{code:?} {text}");
    };
    let writer = Some("writer");
    is(run(None, "put", &[&small]), 1, "that needs authentication here (error 5)");
    is(run(Some("reader"), "put", &[&small]), 1, "you may not do that here (error 6)");
    is(run(writer, "put", &[&small]), 0, "  small\n");
    is(run(writer, "put", &[&large]), 1, "your quota of bytes is used up (error 8)");
    is(run(writer, "get", &["small", "-o", &back]), 1, "you may not do that here (error 6)");
    // Who may get, but not list, gets what he knows by name.
    is(run(Some("reader"), "get", &["small", "-o", &back]), 0, "");
    assert_eq!(fs::read(&back).unwrap(), [1; 5000]);
    is(run(Some("reader"), "ls", &[]), 1, "you may not do that here (error 6)");
    is(run(None, "ls", &[]), 0, "small\n");
    is(run(Some("reader"), "rm", &["small"]), 1, "you may not do that here (error 6)");
    is(run(writer, "rm", &["small"]), 0, "");
    assert!(!store.join("small").exists());
}

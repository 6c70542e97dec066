//! The file of users: its commands, its reload, and writers that are killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::house::*;
use crate::support::Signal;
use crate::support::process::long;
use crate::support::traffic::*;

/// Another file of users takes effect at once, or nothing changes; who is in stays in.
#[test]
fn users_are_reloaded_all_or_nothing() {
    let house = House::new();
    let server = house.open(&[]);
    let before = meet(&server.uris()[REQUIRED]);
    log_in(&before, "alice", PASSWORD).unwrap();
    let reload = |told: &str, times| {
        server.signal(Signal::HUP);
        server.wait_for_stderr_times(told, times);
    };
    let try_in =
        |user: &str, password: &str| log_in(&meet(&server.uris()[REQUIRED]), user, password);
    house.user(&["remove", "alice"], false);
    house.user(&["add", "carol"], true);
    assert_eq!(try_in("carol", PASSWORD), Err((5, false)));
    reload("reloaded: ", 1);
    assert_eq!(try_in("carol", PASSWORD), Ok(()));
    assert_eq!(try_in("alice", PASSWORD), Err((5, false)));
    before.round_trip(&echo(b"still in"));
    fs::write(house.path("password"), "another").unwrap();
    house.user(&["passwd", "carol"], true);
    let right = fs::read(house.path("users.toml")).unwrap();
    fs::write(house.path("users.toml"), [&right[..], b"\n[[user]]\nname = 3\n"].concat()).unwrap();
    reload("not reloaded", 1);
    assert_eq!(try_in("carol", PASSWORD), Ok(()));
    fs::write(house.path("users.toml"), &right).unwrap();
    reload("reloaded: ", 2);
    assert_eq!(try_in("carol", "another"), Ok(()));
}

/// The commands: what they say, and with which code they end.
#[test]
fn the_commands_say_what_was_done() {
    let house = House::new();
    assert_eq!(house.user(&["list"], false), "alice\techo,put\nbob\tlist,get\n");
    let all = "echo,list,get,put,remove";
    house.user(&["add", "carol", "--allow", all, "--quota", "1GiB"], true);
    let json = house.user(&["list", "--json"], false);
    let last = r#"{"allow":["echo","list","get","put","remove"],"name":"carol","password":true,"quota":1073741824}"#;
    assert_eq!(json.lines().last(), Some(last));
    for (args, password, code, told) in [
        (&["add", "alice"][..], true, 1, "alice is there already"),
        (&["passwd", "nobody"], true, 1, "there is no nobody"),
        (&["remove", "nobody"], false, 1, "there is no nobody"),
        (&["add", "a b"], true, 64, "a user name is"),
        (&["add", "\u{1f980}"], true, 64, "characters that SASLprep (RFC 4013) does not allow"),
        (&["add", "dave", "--allow", "fly"], true, 64, "write echo, list, get, put or remove"),
        (&["add", "dave", "--quota", "much"], true, 64, "--quota"),
    ] {
        let (got, stdout, stderr) = house.try_user(args, password);
        assert_eq!((got, &*stdout), (Some(code), ""), "{stderr}");
        assert!(stderr.contains(told) && stderr.lines().count() == 1, "{stderr}");
    }
    // What is given to a command, and where it is to write.
    fs::write(house.path("empty"), "").unwrap();
    let users = house.path("users.toml").display().to_string();
    let [password, empty, none, no_folder] = ["password", "empty", "none", "none/users.toml"]
        .map(|name| house.path(name).display().to_string());
    for (users, password, code, told) in [
        (&users, &none, 66, "none: No such file or directory"),
        (&users, &empty, 65, "empty: it is empty"),
        (&no_folder, &password, 73, "cannot write users"),
        (&empty, &password, 78, "its mode is"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        command.args(["user", "add", "dave", "--users", users, "--password-file", password]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(told) && stderr.lines().count() == 1, "{stderr}");
    }
    fs::set_permissions(house.path("users.toml"), fs::Permissions::from_mode(0o640)).unwrap();
    let (code, _, stderr) = house.try_user(&["list"], false);
    assert_eq!(code, Some(78));
    assert!(stderr.ends_with("its mode is 640, others may use it: chmod 600\n"), "{stderr}");
    // As systemd keeps credentials: the group's bits show a list that lets in one user.
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
    command.args(["user", "list", "--users"]).arg(house.path("users.toml"));
    let listed = command.env("CREDENTIALS_DIRECTORY", house.folder.path()).output().unwrap();
    assert!(listed.status.success());
    // A server does not start, and `check` says why.
    for task in [&["check"][..], &[]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        let output = command.arg("--users").arg(&users).args(task).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
    }
}

/// Listeners that could let nobody in are refused at the start.
#[test]
fn what_cannot_authenticate_is_refused() {
    let house = House::new();
    let users = house.path("users.toml").display().to_string();
    for (listen, with_users, told) in [
        ("tcp://127.0.0.1:0?auth=required", false, "give --users FILE"),
        ("udp://127.0.0.1:0?auth=required", true, "datagrams cannot authenticate"),
        ("tcp://127.0.0.1:0?auth=required&mode=raw", true, "mode=raw knows no authentication"),
        ("tcp://127.0.0.1:0?auth=maybe", true, "write auth=required"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        command.args(["--listen", listen]);
        if with_users {
            command.args(["--users", &users]);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
}

/// Killed at any moment, a writer leaves the old file or the new one.
#[test]
fn a_killed_writer_leaves_a_whole_file() {
    let house = House::new();
    let rounds = if long() { 200 } else { 20 };
    let mut cut = 0;
    for round in 0..rounds {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        command.args(["user", "add", &format!("user-{round}"), "--users"]);
        command.arg(house.path("users.toml")).arg("--password-file").arg(house.path("password"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Somewhere in the few milliseconds that it lives.
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..40_000)));
        let _ = child.kill();
        let killed = !child.wait().unwrap().success();
        let listed = house.user(&["list"], false);
        assert!(listed.starts_with("alice\techo,put\n"), "{listed}");
        let added = listed.contains(&format!("user-{round}\t"));
        assert!(added || killed);
        cut += u32::from(killed);
    }
    assert!(cut > 0, "no writer was killed");
}

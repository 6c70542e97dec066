//! Files of settings that are wrong, or none, or cannot be read.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::reloadable::*;
use crate::support::lease::Lease;
use crate::support::process::{descriptors, eventually};
use crate::support::traffic::{Peer, echo};
use crate::support::{PATIENCE, Signal};

/// Fault 72: each of them leaves all as it was, and is told once.
#[test]
fn a_bad_file_changes_nothing() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let mut it = Reloadable::start(FIRST, 2);
    let kept = Peer::connect(&it.server.uris()[0]);
    kept.hello();
    let open = descriptors(it.server.pid());
    let listens = |uri: &str| {
        format!(
            "listen = [\"tcp://127.0.0.1:0\", \"unix:$FOLDER/second\", \"{uri}\"]\nmax-frame = 5\n"
        )
    };
    let in_use = listens(&format!("tcp://{taken}"));
    let port_told = format!("port {} is in use", taken.port());
    let bad = [
        ("max-frame = 5\nmax-farme = 6\n", ":2: unknown key \"max-farme\""),
        ("max-frame = 5\nlinger = \"soon\"\n", ":2: invalid value"),
        ("max-frame = 5\ngreeting = \"", ":2: "),
        (&listens("ftp://x"), ":1: cannot listen on ftp://x"),
        (&listens("tcp://no-such-host.invalid:1"), "does not resolve"),
        (&listens("unix:$FOLDER/no/such/folder"), "no such directory"),
        (&listens("unix:$FOLDER/first?perm=0600"), "perm cannot change"),
        (&in_use, &port_told),
        ("max-frame = 5\nworkers = 7\n", ":2: workers cannot change while the server runs"),
        ("max-frame = 5\nlog = \"json\"\n", ":2: log cannot change while the server runs"),
        ("max-frame = 5\nmax-connections = 99999999\n", "does not fit"),
    ];
    for (index, (text, told)) in bad.into_iter().enumerate() {
        it.write(text);
        let (code, words) = it.reload();
        assert!(code == Some(1) && words.contains(told), "{text}: {words}");
        assert!(words.starts_with("echo-server: not reloaded: ") && words.lines().count() == 1);
        assert_eq!(it.told(), (1000, "first".to_owned()), "{text}");
        it.listens_only("first", "second");
        it.server.wait_for_stderr_times("not reloaded, nothing has changed", index + 1);
        kept.round_trip(&echo(b"untouched"));
    }
    fs::remove_file(it.settings.path()).unwrap();
    assert!(it.reload().1.contains("No such file"));
    drop(kept);
    eventually("all sockets are closed", || descriptors(it.server.pid()) < open);
    assert_eq!(it.server.stop(), Some(0));
    assert_eq!(it.server.stderr().matches("not reloaded").count(), 12, "each is told once");
}

/// Opening a pipe that nobody writes to would hang, reading a device or a terminal perhaps as well.
#[test]
fn what_is_no_regular_file_is_refused() {
    let mut it = Reloadable::start(FIRST, 2);
    let path = it.settings.path().to_owned();
    let remove = || fs::remove_file(&path).unwrap();
    remove();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let refused = |it: &Reloadable| {
        let (code, words) = it.reload();
        assert!(code == Some(1) && words.contains("it is no regular file"), "{words}");
        assert_eq!(it.told(), (1000, "first".to_owned()));
    };
    refused(&it);
    for other in ["/dev/tty", "/dev/zero", "/"] {
        remove();
        symlink(other, &path).unwrap();
        refused(&it);
    }
    remove();
    let socket = UnixListener::bind(&path).unwrap();
    refused(&it);
    drop(socket);
    remove();
    // No settings at all: what is passed alone would be listened on, and here the usual ports.
    symlink("/dev/null", &path).unwrap();
    let (_, words) = it.reload();
    assert!(!words.contains("regular"), "{words}");
    assert_eq!(it.server.stop(), Some(0));
}

/// A file that cannot be read for now holds up neither the service nor what else the server is asked for.
#[test]
fn a_file_system_that_hangs_holds_nothing_up() {
    let mut it = Reloadable::start(FIRST, 2);
    let _held = Lease::hold(it.settings.path());
    let (code, words) = it.reload();
    assert!(code == Some(1) && words.contains("could not be read within 10s"), "{words}");
    // Who comes while the first reading hangs adds no thread to it.
    let threads = || fs::read_dir(format!("/proc/{}/task", it.server.pid())).unwrap().count();
    let before = threads();
    thread::scope(|scope| {
        let asked = scope.spawn(|| it.reload());
        while !asked.is_finished() {
            assert_eq!(it.told(), (1000, "first".to_owned()), "it serves");
            assert!(threads() <= before, "one thread for all");
            thread::sleep(Duration::from_millis(100)); // How often it is looked at.
        }
    });
    it.server.signal(Signal::HUP);
    it.server.signal(Signal::TERM);
    it.server.wait_for_stderr("draining for at most");
    assert_eq!(it.server.wait(PATIENCE).code(), Some(0));
}

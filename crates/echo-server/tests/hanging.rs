//! Files that the settings name and that cannot be read for now: they hold up neither a stop nor the service.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::lease::Lease;
use support::process::eventually;
use support::traffic::{End, exchange};
use support::{PATIENCE, Server, Signal, command};

/// A folder with users, a certificate and a store.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.path("password"), "secret").unwrap();
        let (users, password) = (place.text("users"), place.text("password"));
        let add = ["user", "add", "alice", "--users", &users, "--password-file", &password];
        place.make(&[&add[..], &["--allow", "echo"]].concat());
        place.make(&["tls", "self-signed", "--name", "localhost", "--out", &place.text("tls")]);
        fs::create_dir(place.path("store")).unwrap();
        place
    }

    fn make(&self, args: &[&str]) {
        assert!(command().args(args).status().unwrap().success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn command(&self) -> Command {
        let mut command = command();
        command.args(["--listen", "tcp://127.0.0.1:0", "--users", &self.text("users")]);
        command.args(["--tls-cert", &self.text("tls/cert.pem")]);
        command.args(["--tls-key", &self.text("tls/key.pem"), "--files", &self.text("store")]);
        command.args(["--control", &self.text("control")]);
        command
    }
}

/// Whether a thread waits for a lease: it has begun to open what is held.
fn opens(server: &Server) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let waits = |path: &Path| {
        fs::read_to_string(path.join("wchan")).is_ok_and(|it| it.contains("break_lease"))
    };
    tasks.flatten().any(|task| waits(&task.path()))
}

#[test]
fn a_stop_does_not_wait_for_the_start() {
    let place = Place::new();
    for name in ["users", "tls/key.pem"] {
        let _held = Lease::hold(place.path(name));
        let mut server = Server::spawn(place.command());
        eventually("it opens what is held", || opens(&server));
        server.signal(Signal::TERM);
        assert_eq!(server.wait(PATIENCE).code(), Some(0), "{name}");
    }
}

#[test]
fn a_reload_does_not_wait_for_ever() {
    let place = Place::new();
    for name in ["users", "tls/key.pem"] {
        let mut server = Server::start_command(place.command(), 1);
        let _held = Lease::hold(place.path(name));
        let uri = server.uris()[0].clone();
        thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let control = place.text("control");
                command().args(["ctl", "reload", "--control", &control]).output().unwrap()
            });
            while !asked.is_finished() {
                assert_eq!(exchange(&uri, b"served\n"), (b"served\n".to_vec(), End::Fin));
                thread::sleep(Duration::from_millis(100)); // How often it is looked at.
            }
            let output = asked.join().unwrap();
            let words = String::from_utf8(output.stderr).unwrap();
            assert!(words.contains("could not be read within 10s"), "{name}: {words}");
        });
        server.signal(Signal::HUP);
        server.signal(Signal::TERM);
        assert_eq!(server.wait(PATIENCE).code(), Some(0), "{name}");
    }
}

/// Nobody writes to it: opening it would wait for ever.
#[test]
fn a_pipe_is_no_file_of_users() {
    let place = Place::new();
    fs::remove_file(place.path("users")).unwrap();
    mknodat(CWD, place.path("users"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut server = Server::spawn(place.command());
    assert_eq!(server.wait(PATIENCE).code(), Some(78));
    assert!(server.stderr().contains("it is no file"), "{}", server.stderr());
}

//! A file of users, servers that have it, and clients that log in.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use echo_scram::{Binding, Client, Credentials, Password, Proven};

use crate::support::Server;
use crate::support::traffic::*;

pub(crate) const AUTH: u8 = 0x84;
pub(crate) const PASSWORD: &str = "canary-Wq7x2";
pub(crate) const REQUIRED: usize = 0;
pub(crate) const OPEN: usize = 1;
/// So many listeners further on are those under TLS.
pub(crate) const SECURED: usize = 2;

/// A folder with a file of users: alice may echo, bob may not.
pub(crate) struct House {
    pub(crate) folder: tempfile::TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        let house = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(house.path("password"), format!("{PASSWORD}\n")).unwrap();
        assert_eq!(house.user(&["add", "alice", "--allow", "echo,put"], true), "added alice\n");
        house.user(&["add", "bob", "--allow", "list,get"], true);
        house
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command for users that must do, and gives its output.
    pub(crate) fn user(&self, args: &[&str], password: bool) -> String {
        let (code, stdout, stderr) = self.try_user(args, password);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        stdout
    }

    pub(crate) fn try_user(&self, args: &[&str], password: bool) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        command.arg("user").args(args).arg("--users").arg(self.path("users.toml"));
        if password {
            command.arg("--password-file").arg(self.path("password"));
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// A server with a listener for users alone and one for everybody.
    pub(crate) fn open(&self, more: &[&str]) -> Server {
        let users = format!("--users={}", self.path("users.toml").display());
        let listen = ["--listen=tcp://127.0.0.1:0?auth=required", "--listen=tcp://127.0.0.1:0"];
        Server::start(&[&[users.as_str()], &listen[..], more].concat())
    }
}

pub(crate) fn start(initial: &[u8]) -> Vec<u8> {
    frame(AUTH, &[b"\0\x0dSCRAM-SHA-256", initial].concat())
}

pub(crate) fn response(data: &[u8]) -> Vec<u8> {
    frame(AUTH, &[b"\x01", data].concat())
}

/// A client that has said who it is.
pub(crate) fn client(user: &str, password: &str) -> (Client, Vec<u8>) {
    client_bound(user, password, Binding::Unsupported)
}

/// The same with what it says of its channel.
pub(crate) fn client_bound(user: &str, password: &str, binding: Binding) -> (Client, Vec<u8>) {
    let password = Password::new(password).unwrap();
    let credentials = Arc::new(Credentials::new(user, password).unwrap());
    Client::start(credentials, binding).unwrap()
}

/// Connects and says HELLO, without which an auto-mode listener takes AUTH for raw bytes.
pub(crate) fn meet(uri: &str) -> Peer {
    let peer = Peer::connect(uri);
    peer.hello();
    peer
}

/// Asks for a challenge; gives what to answer, and with what the server's success is judged.
pub(crate) fn challenged(peer: &Peer, user: &str, password: &str) -> (Vec<u8>, Proven) {
    let (client, first) = client(user, password);
    peer.send(&start(&first));
    let challenge = peer.read_frame().expect("a challenge");
    assert_eq!((challenge.kind, challenge.payload[0]), (AUTH, 0), "{challenge:?}");
    let (proven, proof) = client.answer(&challenge.payload[1..]).unwrap();
    (proof, proven)
}

/// Tries to come in; gives the code of an ERROR if there is one, and whether the connection closes.
pub(crate) fn log_in(peer: &Peer, user: &str, password: &str) -> Result<(), (u16, bool)> {
    let (proof, proven) = challenged(peer, user, password);
    peer.send(&response(&proof));
    let answer = peer.read_frame().expect("an answer");
    if answer.kind == ERROR {
        return Err(answer.error());
    }
    assert_eq!((answer.kind, answer.payload[0]), (AUTH, 1));
    proven.verify(&answer.payload[1..]).expect("the server knows the verifier");
    Ok(())
}

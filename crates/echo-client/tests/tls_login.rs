//! Users under TLS, both programs end to end: SCRAM-SHA-256-PLUS, certificates, and somebody in the middle.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;
#[path = "../../echo-server/tests/support/tunnel.rs"]
mod tunnel;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use echo_core::tls::provider;
use rustix::fs::{CWD, Mode, mkfifoat};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use socket2::Socket;
use support::daemon::{Daemon, program};
use support::{Client, LIMIT, all, read_all};
use tunnel::Tunnel;

/// A folder with users, and certificates of a server and of somebody in the middle, both of which the client
/// trusts.
struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let house = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(house.path("right"), "secret").unwrap();
        fs::write(house.path("wrong"), "another").unwrap();
        let (users, right) = (house.text("users.toml"), house.text("right"));
        house.run(&["user", "add", "alice", "--users", &users, "--password-file", &right]);
        for name in ["server", "middle"] {
            house.run(&["tls", "self-signed", "--name", "localhost", "--out", &house.text(name)]);
        }
        let both =
            ["server", "middle"].map(|name| fs::read_to_string(house.path(name).join("cert.pem")));
        fs::write(house.path("ca.pem"), both.map(Result::unwrap).concat()).unwrap();
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn run(&self, args: &[&str]) {
        let output = Command::new(program()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// A server for users alone, on TCP and so under TLS as well.
    fn open(&self) -> Daemon {
        let (users, cert, key) =
            (self.text("users.toml"), self.text("server/cert.pem"), self.text("server/key.pem"));
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--users", &users];
        Daemon::start(&[&["--listen", "tcp://127.0.0.1:0?auth=required"][..], &tls].concat())
    }

    /// Sends "hi" as alice: the exit code, and what was said.
    fn send(&self, port: u16, password: &str) -> (Option<i32>, String) {
        let target = format!("tls://localhost:{port}");
        let output = Command::new(env!("CARGO_BIN_EXE_echo-client"))
            .args(["send", &target, "hi", "-4", "--ca", &self.text("ca.pem"), "--user", "alice"])
            .args(["--password-file", &self.text(password)])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }
}

fn port(daemon: &Daemon) -> u16 {
    let address = daemon.target.trim_start_matches("tcp://").split('?').next().unwrap();
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// Somebody between client and server, who ends the client's TLS with a certificate that the client trusts, and
/// has TLS of its own with the server, or none.
struct Middle {
    port: u16,
}

/// What the one in the middle does to what the client sends.
type Change = fn(Vec<u8>) -> Vec<u8>;

impl Middle {
    fn start(house: &House, server: u16, secured: bool, change: Change) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ours = house.path("middle");
        let chain = CertificateDer::pem_file_iter(ours.join("cert.pem")).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(ours.join("key.pem")).unwrap();
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_no_client_auth();
        let accepting = Arc::new(builder.with_single_cert(chain, key).unwrap());
        let mut roots = RootCertStore::empty();
        let theirs = house.path("server").join("cert.pem");
        roots.add(CertificateDer::from_pem_file(theirs).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&TLS13]).unwrap();
        let connecting = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        thread::spawn(move || {
            for client in listener.incoming() {
                let tls = ServerConnection::new(Arc::clone(&accepting)).unwrap();
                let client = Tunnel::through(tls, client.unwrap()).unwrap();
                let onwards = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let name = ServerName::try_from("localhost").unwrap();
                let onwards = if secured {
                    let tls = ClientConnection::new(Arc::clone(&connecting), name).unwrap();
                    let onwards = Tunnel::through(tls, onwards).unwrap();
                    assert_ne!(client.binding, onwards.binding);
                    onwards.plain.into()
                } else {
                    onwards.into()
                };
                relay(&client.plain.into(), &onwards, change);
            }
        });
        Self { port }
    }
}

/// Carries bytes both ways, and what the client sends changed.
fn relay(client: &Socket, server: &Socket, change: Change) {
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (mut from_server, mut to_client) =
        (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from_client.read(&mut buffer) {
            if to_server.write_all(&change(buffer[..read].to_vec())).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
}

/// Changes AUTH START: the mechanism to the one without binding, and what the client says of its channel.
fn downgraded(bytes: Vec<u8>, word: &str) -> Vec<u8> {
    const PLUS: &[u8] = b"\0\x12SCRAM-SHA-256-PLUS";
    let Some(at) = bytes.windows(PLUS.len()).position(|it| it == PLUS) else { return bytes };
    assert_eq!(bytes[at - 4], 0x84);
    let first = String::from_utf8(bytes[at + PLUS.len()..].to_vec()).unwrap();
    let first = first.replace("p=tls-exporter,,", word);
    let payload = [b"\0\x0dSCRAM-SHA-256", first.as_bytes()].concat();
    let header = (0x84 << 24 | payload.len() as u32).to_be_bytes();
    [&bytes[..at - 4], &header, &payload].concat()
}

#[test]
fn the_login_is_bound_to_the_channel() {
    let house = House::new();
    let daemon = house.open();
    assert_eq!(house.send(port(&daemon), "right"), (Some(0), "hi\n".to_owned()));
    let told = "echo-client: denied: wrong name or password\n".to_owned();
    assert_eq!(house.send(port(&daemon), "wrong"), (Some(1), told));
}

/// The client trusts the one in the middle, who passes on every byte, and comes in all the same nowhere. The password
/// is right.
#[test]
fn somebody_in_the_middle_is_noticed() {
    let house = House::new();
    let daemon = house.open();
    let denied = |secured: bool, change: Change| {
        let middle = Middle::start(&house, port(&daemon), secured, change);
        let (code, told) = house.send(middle.port, "right");
        assert_eq!((code, told.lines().count()), (Some(1), 1), "{told}");
        told.strip_prefix("echo-client: denied: ").unwrap_or(&told).trim_end().to_owned()
    };
    let other = "what the client is bound to is not this connection: somebody stands between";
    assert_eq!(denied(true, |bytes| bytes), other);
    let plain = "known here, without TLS, is SCRAM-SHA-256 alone";
    assert_eq!(denied(false, |bytes| bytes), plain);
    // PLUS taken out, the client's word on it left as it was, or changed to one that would go with that.
    let hidden = "the mechanism does not go with what the client says of channel binding: \
                  somebody stands between";
    assert_eq!(denied(true, |bytes| downgraded(bytes, "p=tls-exporter,,")), hidden);
    assert_eq!(denied(true, |bytes| downgraded(bytes, "y,,")), hidden);
    assert_eq!(denied(true, |bytes| downgraded(bytes, "n,,")), other);
    assert_eq!(denied(false, |bytes| downgraded(bytes, "y,,")), other);
    assert_eq!(denied(false, |bytes| downgraded(bytes, "n,,")), other);
    // And without anybody in between he comes in.
    assert_eq!(house.send(port(&daemon), "right").0, Some(0));
}

/// What says whom to trust may be a pipe, as of the shell's `<(...)`: what is written to it counts, and Ctrl-C ends the
/// wait for that.
#[test]
fn a_pipe_may_tell_whom_to_trust() {
    let house = House::new();
    let daemon = house.open();
    let (pipe, right) = (house.path("pipe"), house.text("right"));
    mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
    let (target, ca) = (format!("tls://localhost:{}", port(&daemon)), house.text("pipe"));
    let common = [&target, "-4", "--ca", &ca, "--user", "alice", "--password-file", &right];
    let start = |args: &[&str]| {
        let client = Client::start(&[args, &common].concat(), all(b"hi\n"), read_all);
        let (opened, writer) = channel();
        let pipe = pipe.clone();
        // It is open once the client waits for what comes.
        thread::spawn(move || opened.send(File::options().write(true).open(pipe)));
        (client, writer.recv_timeout(LIMIT).unwrap().unwrap())
    };
    for task in [&["ls"][..], &["send", "--stdin-lines"], &[]] {
        let (client, _writer) = start(task);
        client.interrupt();
        let (ended, _) = client.end();
        assert_eq!((ended.code, &ended.stderr[..]), (None, ""), "{task:?}: ended by the signal");
    }
    let (client, mut writer) = start(&["send", "--stdin-lines"]);
    writer.write_all(&fs::read(house.path("ca.pem")).unwrap()).unwrap();
    drop(writer);
    let (ended, replies) = client.end();
    assert_eq!((ended.code, &replies[..], &ended.stderr[..]), (Some(0), &b"hi\n"[..], ""));
}

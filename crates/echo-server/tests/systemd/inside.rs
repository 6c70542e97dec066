//! What tests do inside: units, the journal, clients.

#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]
#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use rustix::process::Pid;

use crate::support::PATIENCE;
use crate::support::process::eventually;
use crate::support::traffic::{Peer, echo};

pub(crate) const TCP: &str = "tcp://127.0.0.1:7777";
pub(crate) const UNIX: &str = "unix:/run/echo-server/echo.sock";
const SERVICE: &str = "echo-server.service";

/// Puts the server where the unit expects it. All of it is forgotten at the end.
pub(crate) fn install() {
    fs::copy(env!("CARGO_BIN_EXE_echo-server"), "/usr/bin/echo-server").unwrap();
    fs::set_permissions("/usr/bin/echo-server", fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a command: whether it succeeded, and all that it said.
pub(crate) fn run(command: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Runs a command that must succeed; gives what it said.
#[track_caller]
pub(crate) fn must(command: &str) -> String {
    let (success, said) = run(command);
    assert!(success, "{command}: {said}\n{}", journal());
    said
}

pub(crate) fn journal() -> String {
    run("journalctl --no-pager -o cat -u echo-server.service -u echo-server.socket | tail -100").1
}

/// Lays a drop-in beside the unit of this kind: `service` or `socket`.
pub(crate) fn drop_in(kind: &str, text: &str) {
    let folder = format!("/etc/systemd/system/echo-server.{kind}.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(format!("{folder}/test.conf"), text).unwrap();
    must("systemctl daemon-reload");
}

/// Writes the file of settings.
pub(crate) fn settings(text: &str) {
    fs::create_dir_all("/etc/echo-server").unwrap();
    fs::write("/etc/echo-server/echo-server.toml", text).unwrap();
}

/// A property of the service.
pub(crate) fn property(name: &str) -> String {
    must(&format!("systemctl show -P {name} {SERVICE}")).trim().to_owned()
}

pub(crate) fn main_pid() -> Pid {
    Pid::from_raw(property("MainPID").parse().unwrap()).unwrap()
}

/// Waits until systemd has restarted the service so often by itself, and it serves again.
pub(crate) fn restarted(times: u32) {
    eventually("the service is restarted", || {
        property("NRestarts") == times.to_string() && property("ActiveState") == "active"
    });
}

/// An echo over UDP.
pub(crate) fn udp_echoes() {
    let socket = udp_client();
    socket.send(b"hi").unwrap();
    assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 2);
}

fn udp_client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect("127.0.0.1:7777").unwrap();
    socket
}

/// Clients that come and go for as long as something else happens.
#[derive(Default)]
pub(crate) struct Clients {
    stop: AtomicBool,
    pub(crate) echoes: AtomicU64,
    /// Connections that ended in order before their answer: nothing is lost, one asks again.
    pub(crate) drained: AtomicU64,
    /// Connections that were reset: a server that was killed does that.
    pub(crate) reset: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) datagrams: AtomicU64,
}

impl Clients {
    /// Runs `meanwhile` beside clients of these stream listeners, and of UDP if asked.
    pub(crate) fn beside(uris: &[&str], udp: bool, meanwhile: impl FnOnce(&Self)) -> Self {
        let clients = Self::default();
        thread::scope(|scope| {
            // Stopped also by a panic, or the scope would wait for ever.
            let stop = StopOnDrop(&clients.stop);
            for uri in uris.iter().chain(uris) {
                scope.spawn(|| clients.come_and_go(uri));
            }
            if udp {
                scope.spawn(|| clients.send_datagrams());
            }
            meanwhile(&clients);
            drop(stop);
        });
        clients
    }

    pub(crate) fn count(counter: &AtomicU64) -> u64 {
        counter.load(SeqCst)
    }

    fn come_and_go(&self, uri: &str) {
        while !self.stop.load(SeqCst) {
            let Ok(peer) = Peer::try_connect(uri, |_| Ok(())) else {
                self.refused.fetch_add(1, SeqCst);
                continue;
            };
            let message = echo(b"are you there?");
            let mut reply = vec![0; message.len()];
            let mut read = 0;
            let sent = peer.try_send(&message).is_ok();
            let counter = loop {
                match peer.read(&mut reply[read..]) {
                    Ok(0) if read == 0 => break &self.drained,
                    Ok(0) => panic!("an echo was cut"),
                    Ok(more) => read += more,
                    Err(_) => break &self.reset,
                }
                if read == reply.len() {
                    break &self.echoes;
                }
            };
            assert!(read < reply.len() || (reply == message && sent));
            counter.fetch_add(1, SeqCst);
        }
    }

    /// One at a time, so that all of them fit into the socket's buffer: each is answered.
    fn send_datagrams(&self) {
        let socket = udp_client();
        let mut reply = [0; 16];
        while !self.stop.load(SeqCst) {
            let number = self.datagrams.load(SeqCst).to_be_bytes();
            socket.send(&number).expect("a datagram is refused");
            let len = socket.recv(&mut reply).expect("a datagram is lost");
            assert_eq!(reply[..len], number);
            self.datagrams.fetch_add(1, SeqCst);
        }
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

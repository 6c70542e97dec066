//! Networks of the test's own: this process in one, a second host in another, a cable between them.

use std::env;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, geteuid};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::process::eventually;
use crate::support::{command_under, skip};

/// Says to the process that it runs in a network of its own.
const INSIDE: &str = "ECHO_SERVER_TEST_NETWORK";

/// Whether this process has a network of its own, where `test` may begin. If not, the test is run
/// again in a process that has one, and fails if it fails there.
pub(crate) fn is_own(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        return true;
    }
    let probe = Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).output();
    if !geteuid().is_root() || !probe.is_ok_and(|output| output.status.success()) {
        skip(test, "root, and network namespaces (unshare, ip)");
        return false;
    }
    let status = Command::new("unshare")
        .arg("--net")
        .arg(env::current_exe().expect("this program has a path"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{test} failed in a network of its own");
    false
}

/// Runs a command in this network, which must go well, and gives its output.
pub(crate) fn run(command: &str) -> String {
    run_under(&[], command)
}

/// Another host: a network that a process keeps.
pub(crate) struct Host(Child);

impl Host {
    /// A host at the other end of a cable. This end is `here`, with the address 10.9.0.1/24 and
    /// fd09::1/64; the other is `there`, with 10.9.0.2 and fd09::2.
    pub(crate) fn at_the_other_end() -> Self {
        let keeper = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare runs");
        let host = Self(keeper);
        let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        eventually("the other host has its network", || {
            let theirs = network(&host.0.id().to_string());
            theirs.is_ok_and(|theirs| network("self").is_ok_and(|ours| ours != theirs))
        });
        let there = host.0.id();
        run(&format!("ip link add here type veth peer name there netns {there}"));
        for (name, number) in [("here", 1), ("there", 2)] {
            let on = |command: &str| match number {
                1 => run(command),
                _ => host.run(command),
            };
            on(&format!("ip address add 10.9.0.{number}/24 broadcast + dev {name}"));
            on(&format!("ip address add fd09::{number}/64 dev {name} nodad"));
            on(&format!("ip link set {name} up"));
        }
        host.run("ip link set lo up");
        // What is sent before both ends are up is lost.
        eventually("the cable carries", || {
            run("ip -brief link show here").contains(" UP ")
                && host.run("ip -brief link show there").contains(" UP ")
        });
        host
    }

    /// Runs a command there, which must go well, and gives its output.
    pub(crate) fn run(&self, command: &str) -> String {
        let there = self.0.id().to_string();
        run_under(&["nsenter", "--target", &there, "--net"], command)
    }

    /// The server's command there.
    pub(crate) fn server(&self) -> Command {
        command_under(&["nsenter", "--target", &self.0.id().to_string(), "--net"])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its network and the cable go with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_under(wrapper: &[&str], command: &str) -> String {
    let words: Vec<_> = wrapper.iter().copied().chain(command.split(' ')).collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("the command runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A counter of UDP in the network of a process: `OutDatagrams`, of IPv4 and IPv6.
pub(crate) fn udp_counter(pid: Pid, name: &str) -> u64 {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/net/{file}")).expect("a table");
    let (v4, v6) = (read("snmp"), read("snmp6"));
    let mut lines = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = lines.next().zip(lines.next()).expect("two lines of UDP");
    let place = names.split(' ').position(|it| it == name).expect("a counter of that name");
    let v4: u64 = values.split(' ').nth(place).and_then(|it| it.parse().ok()).expect("a number");
    let v6 = v6.lines().find_map(|line| line.strip_prefix(&format!("Udp6{name}")));
    v4 + v6.and_then(|it| it.trim().parse::<u64>().ok()).expect("a number")
}

/// Sends a datagram that says it comes from `source`.
pub(crate) fn forge(source: SocketAddr, target: SocketAddr, payload: &[u8]) {
    const RAW: i32 = 255; // IPPROTO_RAW: the header is written by hand.
    const UDP: u8 = 17;
    let len = (8 + payload.len()) as u16;
    let mut datagram = [source.port(), target.port(), len, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    let header = match (source.ip(), target.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            // Version and length, service; total length, identification, fragments, and the checksum,
            // which the kernel fills in.
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0];
            header.extend(source.octets());
            header.extend(target.octets());
            header // No checksum over the datagram: IPv4 allows it.
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let pseudo = [&source.octets()[..], &target.octets(), &[0, UDP], &len.to_be_bytes()];
            let sum = checksum(&[pseudo.concat(), datagram.clone()].concat());
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(len.to_be_bytes());
            header.extend([UDP, 64]);
            header.extend(source.octets());
            header.extend(target.octets());
            header
        }
        _ => unreachable!("{source} and {target} are of one family"),
    };
    let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(Protocol::from(RAW)))
        .expect("root may forge");
    // The port of a raw socket's address is a protocol, and must be 0 here.
    let target = SocketAddr::new(target.ip(), 0);
    let packet = [header, datagram].concat();
    let sent = socket.send_to(&packet, &target.into()).expect("it is sent");
    assert_eq!(sent, packet.len());
}

/// The sum of the Internet (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xFFFF,
        sum => sum,
    }
}

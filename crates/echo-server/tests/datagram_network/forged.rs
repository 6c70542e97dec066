//! Forged sources (faults 41 and 48), and loops.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::network::{Host, forge, is_own, run, udp_counter};
use crate::support::process::eventually;
use crate::support::traffic::Peer;
use crate::support::{Server, command};
use crate::{assert_echoes, client};

/// Without `--listen`: both on the same port, in this order.
#[test]
fn the_default_listeners_are_tcp_and_udp() {
    if !is_own("forged::the_default_listeners_are_tcp_and_udp") {
        return;
    }
    let mut server = Server::start_command(command(), 2);
    assert_eq!(server.uris(), ["tcp://127.0.0.1:7777", "udp://127.0.0.1:7777"]);
    Peer::connect("tcp://127.0.0.1:7777").round_trip(b"stream");
    assert_echoes(&client("127.0.0.1:7777"), b"datagram");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn sources_that_must_not_be_answered() {
    if !is_own("forged::sources_that_must_not_be_answered") {
        return;
    }
    let mut server = Server::start(&["--listen=udp://127.0.0.1:7777", "--listen=udp://[::1]:7778"]);
    let (v4, v6) = ("127.0.0.1:7777", "[::1]:7778");
    let ports = [
        ("127.0.0.1:7", v4),
        ("127.0.0.1:0", v4),
        ("127.0.0.1:1023", v4),
        ("192.0.2.1:19", v4),
        ("127.0.0.1:7777", v4), // Itself.
        ("127.0.0.2:7777", v4), // Its like, on another host.
        ("127.0.0.1:7778", v4), // Its own other listener's port.
        ("[::1]:7", v6),
        ("[::1]:7778", v6),
        ("[2001:db8::1]:0", v6),
    ];
    let addresses =
        [("224.0.0.1:5000", v4), ("239.255.255.250:1900", v4), ("255.255.255.255:5000", v4)];
    let before = udp_counter(server.pid(), "OutDatagrams");
    for (source, target) in ports.iter().chain(&addresses) {
        forge(source.parse().unwrap(), target.parse().unwrap(), b"answer me");
    }
    // Those who come after them are answered: so they were looked at.
    let honest = [client(v4), client(v6)];
    honest.iter().for_each(|client| assert_echoes(client, b"honest"));
    let sent = udp_counter(server.pid(), "OutDatagrams") - before;
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    // Raw packets do not count as UDP: two questions, two answers.
    assert_eq!(sent, 4, "answers to nobody: {datagrams:?}");
    assert_eq!(datagrams.get("refused_port"), ports.len() as u64, "{datagrams:?}");
    assert_eq!(datagrams.get("refused_address"), addresses.len() as u64, "{datagrams:?}");
    assert!(server.stderr().lines().count() <= 4, "{}", server.stderr());
}

/// What comes over the cable, where a router that is badly set up lets it through: loopback sources,
/// no source at all, and what was sent to all hosts.
#[test]
fn what_comes_from_outside() {
    if !is_own("forged::what_comes_from_outside") {
        return;
    }
    let host = Host::at_the_other_end();
    for name in ["all", "there"] {
        for setting in ["route_localnet=1", "accept_local=1", "rp_filter=0"] {
            host.run(&format!("sysctl -q -w net.ipv4.conf.{name}.{setting}"));
        }
    }
    let mut at_there = host.server();
    // One worker, one socket: what is sent to all hosts is received by every socket.
    at_there.args(["--listen=udp://0.0.0.0:7777", "--listen=udp://[::]:7778", "--workers=1"]);
    let mut server = Server::start_command(at_there, 2);
    let (v4, mapped, v6) = ("10.9.0.2:7777", "10.9.0.2:7778", "[fd09::2]:7778");
    // The hosts get to know each other: nobody tells a loopback address where the other one is.
    for target in [v4, mapped, v6] {
        assert_echoes(&client(target), b"honest");
    }
    let mut refused = 0;
    for target in [v4, mapped] {
        for source in ["127.0.0.1:5000", "127.1.2.3:5000"] {
            forge(source.parse().unwrap(), target.parse().unwrap(), b"answer me");
            refused += 1;
        }
    }
    // To all hosts, by somebody who exists.
    let many = UdpSocket::bind("10.9.0.1:0").unwrap();
    many.set_broadcast(true).unwrap();
    for target in ["10.9.0.255:7777", "224.0.0.1:7777", "10.9.0.255:7778"] {
        many.send_to(b"answer me", target).unwrap();
        refused += 1;
    }
    let many = UdpSocket::bind("[fd09::1]:0").unwrap();
    let here = SockRef::from(&many);
    here.bind_device(Some(b"here")).unwrap();
    many.send_to(b"answer me", "[ff02::1]:7778").unwrap();
    refused += 1;
    for target in [v4, mapped, v6] {
        assert_echoes(&client(target), b"honest");
    }
    // From nobody: a host that has no address yet.
    let nobody = UdpSocket::bind("0.0.0.0:5000").unwrap();
    run("ip address flush dev here");
    SockRef::from(&nobody).bind_device(Some(b"here")).unwrap();
    nobody.set_broadcast(true).unwrap();
    nobody.send_to(b"answer me", "255.255.255.255:7777").unwrap();
    refused += 1;
    eventually("all have arrived", || udp_counter(server.pid(), "InDatagrams") == refused + 6);
    let sent = udp_counter(server.pid(), "OutDatagrams");
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    assert_eq!(sent, 6, "answers to nobody: {datagrams:?}");
    assert_eq!(datagrams.get("refused_address"), refused, "{datagrams:?}");
    assert_eq!(datagrams.get("received"), refused + 6, "{datagrams:?}");
}

/// Fault 41, G14: one forged datagram between two servers. On the same port, as by default, none goes
/// to and fro; on others, the rate of a source is the end of it.
#[test]
fn two_servers_pointed_at_each_other() {
    if !is_own("forged::two_servers_pointed_at_each_other") {
        return;
    }
    let host = Host::at_the_other_end();
    let mut here = Server::start(&["--listen=udp://10.9.0.1:7777"]);
    let at_there = |arguments: &[&str]| {
        let mut there = host.server();
        there.args(arguments);
        Server::start_command(there, 1)
    };
    let mut there = at_there(&["--listen=udp://10.9.0.2:7777"]);
    let mut on_other_port = at_there(&["--listen=udp://10.9.0.2:7778", "--udp-rate=100"]);
    let packets = || {
        let out = |server: &Server| udp_counter(server.pid(), "OutDatagrams");
        out(&here) + out(&there)
    };
    let (ours, same, other) = ("10.9.0.1:7777", "10.9.0.2:7777", "10.9.0.2:7778");
    let before = packets();
    for (source, target) in [(same, ours), (ours, same)] {
        forge(source.parse().unwrap(), target.parse().unwrap(), b"and back");
    }
    for target in [ours, same] {
        assert_echoes(&client(target), b"honest");
    }
    thread::sleep(Duration::from_millis(200)); // A loop would have gone round thousands of times.
    let exchanged = packets() - before - 4; // The honest ones, questions and answers.
    println!("exchanged after a forged datagram between two default servers: {exchanged}");
    assert!(exchanged <= 1, "{exchanged} packets");

    let (before, began) = (packets(), Instant::now());
    forge(other.parse().unwrap(), ours.parse().unwrap(), b"and back");
    let mut last = 0;
    eventually("the loop ends", || {
        thread::sleep(Duration::from_millis(300));
        let now = packets() - before;
        now == std::mem::replace(&mut last, now)
    });
    // Each datagram that the other one lets through is one packet of its own and one of ours.
    let allowed = 2.0 * (100.0 + 100.0 * began.elapsed().as_secs_f64()) + 1.0;
    println!("exchanged on other ports: {last}, at most {allowed}");
    assert!(last > 0 && (last as f64) <= allowed, "{last} packets, {allowed} allowed");
    for server in [&mut here, &mut there, &mut on_other_port] {
        assert_eq!(server.stop(), Some(0));
    }
    let datagrams = on_other_port.datagrams();
    let ends = datagrams.get("over_rate") + datagrams.get("loop_guard");
    assert_eq!(ends, 1, "the one that ended the loop: {datagrams:?}");
}

//! Hosts with several addresses (fault 47), narrow paths (fault 22) and firewalls (fault 46).

use std::net::UdpSocket;

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};
use socket2::SockRef;

use crate::network::{Host, is_own, run};
use crate::support::{PATIENCE, Server, skip};
use crate::{assert_echoes, client};

/// What is asked at one address is answered from it, whatever the routes prefer.
#[test]
fn answers_come_from_the_address_asked() {
    if !is_own("paths::answers_come_from_the_address_asked") {
        return;
    }
    let host = Host::at_the_other_end();
    for address in ["10.9.0.3/24", "10.9.0.4/24", "fd09::3/64", "fd09::4/64"] {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        host.run(&format!("ip address add {address} dev there{nodad}"));
    }
    let mut command = host.server();
    command.args(["--listen=udp://0.0.0.0:7777", "--listen=udp://[::]:7778"]);
    let mut server = Server::start_command(command, 2);
    let (mut asked, mut wrong) = (0, 0);
    for (any, targets) in [
        ("10.9.0.1:0", ["10.9.0.2:7777", "10.9.0.3:7777", "10.9.0.4:7777"]),
        ("10.9.0.1:0", ["10.9.0.2:7778", "10.9.0.3:7778", "10.9.0.4:7778"]),
        ("[fd09::1]:0", ["[fd09::2]:7778", "[fd09::3]:7778", "[fd09::4]:7778"]),
    ] {
        let client = UdpSocket::bind(any).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for round in 0..100_u8 {
            // All at once, so that one batch holds several addresses; then what comes back.
            for (number, target) in targets.iter().enumerate() {
                client.send_to(&[round, number as u8], target).unwrap();
            }
            for _ in targets {
                let mut reply = [0; 9];
                let (len, from) = client.recv_from(&mut reply).unwrap();
                assert_eq!((len, reply[0]), (2, round));
                wrong += u32::from(from.to_string() != targets[usize::from(reply[1])]);
                asked += 1;
            }
        }
    }
    println!("answers from the wrong address: {wrong} of {asked}");
    assert_eq!((asked, wrong), (900, 0));
    assert_eq!(server.stop(), Some(0));
}

/// A link-local address is one of a link.
#[test]
fn link_local_peers_are_answered() {
    if !is_own("paths::link_local_peers_are_answered") {
        return;
    }
    let host = Host::at_the_other_end();
    run("ip address add fe80::1/64 dev here nodad");
    host.run("ip address add fe80::2/64 dev there nodad");
    let mut command = host.server();
    command.args(["--listen=udp://[::]:7777", "--listen=udp://[fe80::2%25there]:7778"]);
    let mut server = Server::start_command(command, 2);
    // Rust takes a scope as a number only. /sys shows another network's interfaces.
    let card = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None).unwrap();
    let scope = name_to_index(card, "here").unwrap();
    for port in [7777, 7778] {
        assert_echoes(&client(&format!("[fe80::2%{scope}]:{port}")), b"on this link");
    }
    assert_eq!(server.stop(), Some(0));
}

/// Fault 22: answers that are longer than a packet, and runs that the kernel cannot send in one go.
#[test]
fn narrow_paths_carry_every_length() {
    if !is_own("paths::narrow_paths_carry_every_length") {
        return;
    }
    let host = Host::at_the_other_end();
    let mut command = host.server();
    command.args(["--listen=udp://10.9.0.2:7777", "--listen=udp://[fd09::2]:7777", "--workers=1"]);
    let mut server = Server::start_command(command, 2);
    let mut count = 0;
    for mtu in [1500, 1280, 576] {
        run(&format!("ip link set here mtu {mtu}"));
        host.run(&format!("ip link set there mtu {mtu}"));
        let targets = ["10.9.0.2:7777", "[fd09::2]:7777"];
        // IPv6 has no links below 1,280.
        for target in &targets[..if mtu < 1280 { 1 } else { 2 }] {
            let client = client(target);
            SockRef::from(&client).set_recv_buffer_size(4 << 20).unwrap();
            for len in [1, 500, 600, 1472, 1473, 9000, 65_507] {
                assert_echoes(&client, &vec![7; len]);
                count += 1;
            }
            for len in [100, 1400] {
                for _ in 0..20 {
                    client.send(&vec![9; len]).unwrap();
                }
                for _ in 0..20 {
                    assert_eq!(client.recv(&mut [0; 2000]).unwrap(), len);
                    count += 1;
                }
            }
        }
    }
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    assert_eq!((datagrams.get("answered"), datagrams.get("failed")), (count, 0), "{datagrams:?}");
}

/// Fault 46: a firewall on the way out.
#[test]
fn a_firewall_takes_answers() {
    if !is_own("paths::a_firewall_takes_answers") {
        return;
    }
    if !std::process::Command::new("nft")
        .arg("--version")
        .output()
        .is_ok_and(|it| it.status.success())
    {
        return skip("paths::a_firewall_takes_answers", "nft");
    }
    let mut server =
        Server::start(&["--listen=udp://127.0.0.1:7777", "--listen=udp://127.0.0.1:7778"]);
    let (shut, open) = (client("127.0.0.1:7777"), client("127.0.0.1:7778"));
    assert_echoes(&shut, b"before");
    run("nft add table inet walls");
    run("nft add chain inet walls out { type filter hook output priority 0 ; }");
    run("nft add rule inet walls out udp sport 7777 drop");
    for _ in 0..100 {
        shut.send(b"into the wall").unwrap();
        assert_echoes(&open, b"open");
    }
    run("nft delete table inet walls");
    assert_echoes(&shut, b"after");
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    assert_eq!((datagrams.get("failed"), datagrams.get("answered")), (100, 102), "{datagrams:?}");
    let log = server.stderr();
    assert!(log.contains("answers to datagrams were dropped"), "{log}");
    assert!(log.lines().count() <= 5, "{log}");
}

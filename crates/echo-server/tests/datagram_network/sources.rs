//! Who counts as one source, with real addresses (fault 18): an IPv6 /64.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use socket2::{Domain, Socket, Type};

use crate::network::{Host, is_own, run};
use crate::support::{PATIENCE, Server};

/// Two of one /64, and one of another.
const FIRST: &str = "[fd09::1]:0";
const SAME: &str = "[fd09::ffff:ffff:ffff:fffe]:0";
const OTHER: &str = "[fd0a::1]:0";

fn connect(from: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.bind(&from.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&"[fd09::2]:7777".parse::<SocketAddr>().unwrap().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether a connection is served, or closed at once.
fn is_served(mut stream: &TcpStream) -> bool {
    stream.write_all(b"served").is_ok() && stream.read_exact(&mut [0; 6]).is_ok()
}

#[test]
fn addresses_of_a_64_are_one_source() {
    if !is_own("sources::addresses_of_a_64_are_one_source") {
        return;
    }
    let host = Host::at_the_other_end();
    run("ip address add fd09::ffff:ffff:ffff:fffe/64 dev here nodad");
    run("ip address add fd0a::1/64 dev here nodad");
    host.run("ip address add fd0a::2/64 dev there nodad");
    let mut command = host.server();
    command.args(["--listen=tcp://[::]:7777?mode=raw", "--listen=udp://[::]:7777?rate=2"]);
    command.arg("--max-per-source=2");
    let mut server = Server::start_command(command, 2);

    let open = [connect(FIRST), connect(SAME)];
    assert!(open.iter().all(is_served));
    assert!(!is_served(&connect(FIRST)) && !is_served(&connect(SAME)), "the /64 has its share");
    let other = [connect(OTHER), connect(OTHER)];
    assert!(other.iter().all(is_served) && !is_served(&connect(OTHER)));
    assert!(open.iter().all(is_served));

    // Datagrams: two at once, and two a second.
    let target = "[fd09::2]:7777";
    for from in [FIRST, SAME, FIRST, SAME, FIRST, SAME] {
        assert_eq!(UdpSocket::bind(from).unwrap().send_to(b"?", target).unwrap(), 1);
    }
    let client = UdpSocket::bind(OTHER).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"another source", target).unwrap();
    assert_eq!(client.recv(&mut [0; 99]).unwrap(), 14);
    drop((open, other));
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    // All six within half a second, or on a slow machine within a few.
    assert!(datagrams.get("over_rate") >= 1, "{datagrams:?}");
    assert_eq!(datagrams.get("received"), 7);
}

//! Two servers that answer each other: a loop ends, and honest clients lose nothing for it.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::net::UdpSocket;
use std::ops::Range;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, Server};

const UDP: &str = "--listen=udp://127.0.0.1:0";

/// Ports such as servers have, and such as Linux gives to clients.
const OF_SERVERS: Range<u16> = 20_000..32_768;
const OF_CLIENTS: Range<u16> = 32_768..61_000;

/// A socket that speaks to `server` from a port in `ports`.
fn from(ports: Range<u16>, server: &Server) -> UdpSocket {
    let first = process::id() % u32::from(ports.end - ports.start);
    let mut tried = ports.clone().cycle().skip(first as usize).take(ports.len());
    let socket = tried.find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok());
    let socket = socket.expect("a free port");
    socket.connect(server.address()).expect("an address");
    socket
}

/// One datagram between two servers, over a path on which it is never more often there than their rate
/// allows: without a drop it would go round for ever.
#[test]
fn a_loop_below_the_rate_ends() {
    const RATE: u32 = 50;
    const ONE_WAY: Duration = Duration::from_millis(15); // At most 33 a second each way.
    const ENDED: Duration = Duration::from_secs(5);
    let mut servers = [0; 2].map(|_| Server::start(&[UDP, &format!("--udp-rate={RATE}")]));
    let path = servers.each_ref().map(|server| from(OF_SERVERS, server));
    path.iter().for_each(|end| end.set_read_timeout(Some(ENDED)).expect("a timeout"));
    path[0].send(b"and back").expect("it is sent");
    let carry = |from: &UdpSocket, to: &UdpSocket| {
        let (mut carried, mut datagram) = (0, [0; 9]);
        while carried < 20 * RATE
            && let Ok(len) = from.recv(&mut datagram)
        {
            thread::sleep(ONE_WAY);
            to.send(&datagram[..len]).expect("it is sent");
            carried += 1;
        }
        carried
    };
    let carried = thread::scope(|scope| {
        let there = scope.spawn(|| carry(&path[0], &path[1]));
        carry(&path[1], &path[0]) + there.join().expect("no panic")
    });
    let mut dropped = 0;
    for server in &mut servers {
        assert_eq!(server.stop(), Some(0));
        let datagrams = server.datagrams();
        assert_eq!(datagrams.get("over_rate"), 0, "{datagrams:?}");
        dropped += datagrams.get("loop_guard");
    }
    println!("a loop went {carried} ways");
    assert_eq!(dropped, 1, "after {carried} ways");
}

/// Who has a client's port is never suspected, at four fifths of the rate and for as long as one likes.
#[test]
fn a_client_loses_nothing() {
    let count = if std::env::var_os("LONG").is_some() { 500_000 } else { 50_000 };
    let mut server = Server::start(&[UDP]);
    let client = from(OF_CLIENTS, &server);
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let began = Instant::now();
    for number in 0..count {
        let datagram = u32::to_be_bytes(number);
        client.send(&datagram).expect("it is sent");
        let mut reply = [0; 5];
        assert_eq!(client.recv(&mut reply).expect("it is answered"), 4);
        assert_eq!(reply[..4], datagram);
        let due = began + Duration::from_secs(number.into()) / 8_000;
        thread::sleep(due.saturating_duration_since(Instant::now())); // The rate of the traffic.
    }
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.datagrams().get("answered"), count.into());
}

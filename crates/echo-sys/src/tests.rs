use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use socket2::{Domain, SockRef, Type};

use crate::{Batch, MAX_BATCH, Sending, Socket, Source};

const WHOLE: Sending = Sending { from_arrival: true, segmented: true, batched: true };

fn bind(addr: &str) -> (Socket, SocketAddr) {
    let addr: SocketAddr = addr.parse().unwrap();
    let socket =
        socket2::Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), None).unwrap();
    socket.set_recv_buffer_size(4 << 20).unwrap();
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified()).unwrap();
    }
    socket.bind(&addr.into()).unwrap();
    Socket::tell_arrivals(socket.as_fd(), addr.is_ipv6()).unwrap();
    let bound = socket.local_addr().unwrap().as_socket().unwrap();
    (Socket::new(socket.into()).unwrap(), bound)
}

fn client(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    let client = UdpSocket::bind(any).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    SockRef::from(&client).set_recv_buffer_size(4 << 20).unwrap();
    client.connect(to).unwrap();
    client
}

async fn receive(socket: &Socket, batch: &mut Batch) -> usize {
    poll_fn(|cx| socket.poll_receive(cx, batch, MAX_BATCH)).await.unwrap()
}

fn batch(longest: usize) -> Batch {
    let mut batch = Batch::default();
    batch.fit(longest);
    batch
}

fn all(batch: &Batch) -> Vec<u8> {
    (0..batch.len() as u8).collect()
}

#[tokio::test]
async fn every_length_comes_back_whole() {
    for (addr, to) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        ("[::]:0", "::1"),
        ("[::]:0", "127.0.0.1"),
    ] {
        let (socket, bound) = bind(addr);
        let client = client(SocketAddr::new(to.parse().unwrap(), bound.port()));
        let mut batch = batch(65_536);
        let mut reply = vec![0; 65_536];
        for len in [0, 1, 1200, 65_507] {
            let message: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            client.send(&message).unwrap();
            assert_eq!(receive(&socket, &mut batch).await, 1);
            let datagram = batch.get(0);
            assert_eq!((datagram.payload, datagram.truncated), (&message[..], false));
            let Source::Ip(source) = datagram.source else { panic!("{datagram:?}") };
            assert_eq!(source.port(), client.local_addr().unwrap().port());
            let arrival = datagram.arrival.unwrap();
            assert_eq!(arrival.local.to_canonical(), to.parse::<IpAddr>().unwrap());
            assert_eq!((arrival.interface, arrival.unicast), (1, true), "{addr}");
            assert_eq!(socket.send(&batch, &[0], WHOLE).unwrap(), 1);
            let got = client.recv(&mut reply).unwrap();
            assert!(reply[..got] == message, "{len} bytes through {addr}");
        }
    }
}

/// The client is connected, so it gets nothing that comes from another address.
#[tokio::test]
async fn a_reply_comes_from_the_address_it_was_sent_to() {
    for addr in ["0.0.0.0:0", "[::]:0"] {
        let (socket, bound) = bind(addr);
        for to in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
            let client = client(SocketAddr::new(to.parse().unwrap(), bound.port()));
            let mut batch = batch(65_536);
            for _ in 0..3 {
                client.send(b"hello").unwrap();
            }
            let mut received = 0;
            while received < 3 {
                received += receive(&socket, &mut batch).await;
                assert_eq!(socket.send(&batch, &all(&batch), WHOLE).unwrap(), batch.len());
            }
            for _ in 0..3 {
                assert_eq!(client.recv(&mut [0; 9]).unwrap(), 5, "{addr} through {to}");
            }
        }
    }
}

/// Runs of one length are one message each; what ends a run is another length, an empty datagram,
/// another peer.
#[tokio::test]
async fn neighbours_are_segmented_and_arrive_singly() {
    let (socket, bound) = bind("127.0.0.1:0");
    let (one, other) = (client(bound), client(bound));
    for round in 0..3 {
        for len in [100, 100, 40, 0, 0, 7, 9, 9, 9, 30_000, 30_000, 30_000] {
            one.send(&vec![round; len]).unwrap();
        }
        other.send(b"other").unwrap();
        one.send(b"last").unwrap();
    }
    let mut batch = batch(65_536);
    let mut answered = 0;
    while answered < 42 {
        receive(&socket, &mut batch).await;
        let which = all(&batch);
        let mut sent = 0;
        while sent < which.len() {
            sent += socket.send(&batch, &which[sent..], WHOLE).unwrap();
        }
        answered += sent;
    }
    let mut reply = [0; 65_536];
    for round in 0..3 {
        for len in [100, 100, 40, 0, 0, 7, 9, 9, 9, 30_000, 30_000, 30_000] {
            assert_eq!(one.recv(&mut reply).unwrap(), len);
            assert!(reply[..len].iter().all(|byte| *byte == round));
        }
        assert_eq!(one.recv(&mut reply).unwrap(), 4);
        assert_eq!(other.recv(&mut reply).unwrap(), 5);
    }
}

#[tokio::test]
async fn one_by_one_serves_as_well() {
    let (socket, bound) = bind("127.0.0.1:0");
    let client = client(bound);
    let mut batch = batch(65_536);
    for number in 0..5 {
        client.send(&[number; 3]).unwrap();
    }
    let alone = Sending { batched: false, ..WHOLE };
    for number in 0..5 {
        assert_eq!(batch.receive(socket.as_fd(), MAX_BATCH, false).unwrap(), 1);
        assert_eq!(batch.send(socket.as_fd(), &[0], alone).unwrap(), 1);
        let mut reply = [0; 9];
        assert_eq!((client.recv(&mut reply).unwrap(), reply[2]), (3, number));
    }
    let nothing = batch.receive(socket.as_fd(), MAX_BATCH, false).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    assert_eq!(batch.send(socket.as_fd(), &[], alone).unwrap(), 0);
}

/// A full batch leaves the socket readable, others do not lose what comes later.
#[tokio::test]
async fn more_than_a_batch_is_received() {
    let (socket, bound) = bind("127.0.0.1:0");
    let client = client(bound);
    let mut batch = batch(65_536);
    for count in [31, 32, 33, 64, 100, 1] {
        for _ in 0..count {
            client.send(b"?").unwrap();
        }
        let mut received = 0;
        while received < count {
            received += receive(&socket, &mut batch).await;
        }
        assert_eq!(received, count);
    }
    assert_eq!(
        socket.receive_queued(&mut batch, MAX_BATCH).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert!(batch.is_empty());
}

#[tokio::test]
async fn what_the_kernel_drops_is_told() {
    let (socket, bound) = bind("127.0.0.1:0");
    SockRef::from(&socket).set_recv_buffer_size(1).unwrap(); // As small as the kernel allows.
    let client = client(bound);
    let mut batch = batch(65_536);
    for _ in 0..100 {
        client.send(&[0; 500]).unwrap();
    }
    let mut received = receive(&socket, &mut batch).await;
    assert_eq!(batch.kernel_drops(), None, "told by what came after it");
    assert_eq!(socket.kernel_drops().unwrap() as usize, 100 - received);
    client.send(b"?").unwrap();
    let before = received;
    received += receive(&socket, &mut batch).await;
    assert_eq!(batch.kernel_drops(), Some((100 - before) as u32));
    assert_eq!(received, before + 1);
}

#[tokio::test]
async fn unix_names_do_not_shorten_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = UnixDatagram::bind(path("server")).unwrap();
    server.set_nonblocking(true).unwrap();
    let socket = Socket::new(server.into()).unwrap();
    let mut batch = batch(100);
    let long = path(&"x".repeat(40));
    for (name, longest) in [(Some(path("a")), 100), (None, 99), (Some(long), 101), (None, 0)] {
        let client = match &name {
            Some(name) => UnixDatagram::bind(name).unwrap(),
            None => UnixDatagram::unbound().unwrap(),
        };
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.send_to(&vec![7; longest], path("server")).unwrap();
        assert_eq!(receive(&socket, &mut batch).await, 1);
        let datagram = batch.get(0);
        assert_eq!(datagram.truncated, longest > 100);
        assert_eq!(datagram.payload.len(), longest.min(100));
        assert_eq!(datagram.arrival, None);
        match (datagram.source, &name) {
            (Source::Unnamed, None) => continue,
            (Source::Unix(source), Some(name)) => {
                let name = name.to_str().unwrap();
                assert_eq!(source.strip_suffix(b"\0").unwrap(), name.as_bytes());
            }
            other => panic!("{other:?}"),
        }
        let sending = Sending { from_arrival: false, segmented: false, batched: true };
        assert_eq!(socket.send(&batch, &[0], sending).unwrap(), 1);
        assert_eq!(client.recv(&mut [0; 200]).unwrap(), longest.min(100));
    }
}

/// Long datagrams take the places of several short ones.
#[test]
fn memory_is_bounded_by_two_mib_or_one_datagram() {
    for (longest, capacity) in [
        (1, 32),
        (65_536, 32),
        (65_537, 16),
        (1 << 20, 2),
        (2 << 20, 1),
        (8 << 20, 1),
        (100, MAX_BATCH),
    ] {
        let batch = batch(longest);
        assert_eq!(batch.capacity(), capacity, "{longest}");
    }
}

#[tokio::test]
async fn an_error_is_the_first_ones() {
    let (socket, bound) = bind("127.0.0.1:0");
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("gone");
    let server = UnixDatagram::bind(directory.path().join("server")).unwrap();
    server.set_nonblocking(true).unwrap();
    let unix = Socket::new(server.into()).unwrap();
    let gone = UnixDatagram::bind(&name).unwrap();
    gone.send_to(b"?", directory.path().join("server")).unwrap();
    drop(gone);
    let mut batch = batch(65_536);
    assert_eq!(receive(&unix, &mut batch).await, 1);
    let sending = Sending { from_arrival: false, segmented: false, batched: true };
    let error = unix.send(&batch, &[0], sending).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // A Unix address means nothing to a UDP socket.
    let error: io::Error = socket.send(&batch, &[0], sending).unwrap_err();
    assert!(error.raw_os_error().is_some());
    let client = client(bound);
    client.send(b"still there").unwrap();
    assert_eq!(receive(&socket, &mut batch).await, 1);
}

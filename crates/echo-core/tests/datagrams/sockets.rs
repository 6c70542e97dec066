//! Binding.

use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;

use super::*;

/// A second server finds the port in use, though the first has several sockets there.
#[test]
fn several_sockets_share_a_port_among_themselves() {
    let options =
        DatagramOptions { sockets: NonZeroUsize::new(4).unwrap(), ..DatagramOptions::default() };
    let per_second = 60;
    let echo = DatagramEcho::new(Mode::Auto).rate(rate(per_second));
    let began = Instant::now();
    let echoing = Echoing::start(Limits::default(), echo, || {
        DatagramSocket::bind_udp("127.0.0.1:0".parse().unwrap(), &options).unwrap()
    });
    let clients: Vec<_> = (0..50).map(|_| echoing.client()).collect();
    for client in &clients {
        assert_eq!(exchange(client, b"here"), b"here");
    }
    let addr = SocketAddr::from(([127, 0, 0, 1], echoing.port()));
    let _inside = echoing.runtime.enter();
    for options in [options, DatagramOptions::default()] {
        let error = DatagramSocket::bind_udp(addr, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
    drop(_inside);
    // All sockets count against one rate.
    for _ in 0..20 {
        clients.iter().for_each(|client| assert_eq!(client.send(b"?").unwrap(), 1));
    }
    let answered = echoing.after(1050).answered as f64;
    let allowed = f64::from(per_second) * (1.0 + began.elapsed().as_secs_f64());
    assert!(answered <= allowed, "{answered}, {allowed} allowed");
    echoing.stop();
}

#[test]
fn what_cannot_be_inherited_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let stream: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let socket2 = |domain, kind| socket2::Socket::new(domain, kind, None).unwrap();
    let unbound: OwnedFd = socket2(socket2::Domain::IPV4, socket2::Type::DGRAM).into();
    for fd in [stream, file, unbound] {
        let error = DatagramSocket::inherited(fd).unwrap_err();
        assert!(error.to_string().starts_with("cannot use the inherited descriptor"), "{error}");
    }
    let many: OwnedFd = UdpSocket::bind("224.0.0.1:0").unwrap().into();
    let error = DatagramSocket::inherited(many).unwrap_err();
    assert!(error.to_string().contains("a multicast address"), "{error}");
    let unix: OwnedFd = UnixDatagram::unbound().unwrap().into();
    assert!(DatagramSocket::inherited(unix).is_ok(), "the other end of a pair, for example");
}

#[test]
fn each_address_to_its_kind() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = DatagramOptions::default();
        for (uri, count) in
            [("udp://localhost:0", 1), ("udp://127.0.0.1:0", 1), ("unixgram:@e-t", 1)]
        {
            let bound = DatagramSocket::bind(&uri.parse().unwrap(), &options).await.unwrap();
            assert!(bound.len() >= count, "{uri}");
        }
        let streams = echo_core::SocketOptions::default();
        for uri in ["udp://127.0.0.1:0", "unixgram:@e-t"] {
            let error =
                echo_core::Listener::bind(&uri.parse().unwrap(), &streams).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        for uri in ["tcp://127.0.0.1:0", "unix:@e-t"] {
            let error = DatagramSocket::bind(&uri.parse().unwrap(), &options).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    });
}

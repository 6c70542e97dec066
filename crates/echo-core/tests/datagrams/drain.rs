//! What a drain does with datagrams, and with sockets that others hold.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use super::*;

/// Lets a service begin that is draining already: its runtime never had time to look.
fn drained_at_once<C>(
    bind: impl FnOnce() -> DatagramSocket,
    send: impl FnOnce(&LocalAddr) -> C,
) -> (Report, C) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = Service::default();
    runtime.block_on(async {
        let socket = bind();
        let client = send(socket.local_addr());
        service.drain().start(PATIENCE);
        let echo = Arc::new(DatagramEcho::new(Mode::Auto));
        let report = serve_datagrams(socket, service.clone(), echo).await.unwrap();
        assert_eq!(service.stats().datagrams.answered, report.datagrams);
        assert_eq!(service.stats().datagrams.left_in_queue, 0);
        (report, client)
    })
}

#[test]
fn what_is_queued_is_answered() {
    let addr = "127.0.0.1:0".parse().unwrap();
    let bind = || DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap().remove(0);
    let queued = 1000_u16;
    let (report, client) = drained_at_once(bind, |local| {
        let LocalAddr::Udp(addr) = local else { panic!("{local:?}") };
        let client = udp_client(*addr);
        for number in 0..queued {
            assert_eq!(client.send(&number.to_be_bytes()).unwrap(), 2);
        }
        client
    });
    assert_eq!(report.datagrams, u64::from(queued));
    for number in 0..queued {
        let mut reply = [0; 9];
        assert_eq!(client.recv(&mut reply).unwrap(), 2);
        assert_eq!(reply[..2], number.to_be_bytes());
    }
    // The socket is closed: ICMP says so.
    client.send(b"too late").unwrap();
    let error = client.recv(&mut [0; 9]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn what_is_queued_on_a_unix_socket_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let name = UnixName::Path(path.clone());
    let client = unix_client(&directory.path().join("client"));
    let (report, ()) = drained_at_once(
        || DatagramSocket::bind_unix(&name, None, &DatagramOptions::default()).unwrap(),
        |_| {
            for number in 0..5 {
                assert_eq!(client.send_to(&[number], &path).unwrap(), 1);
            }
        },
    );
    assert_eq!(report.datagrams, 5);
    for number in 0..5 {
        let mut reply = [0; 9];
        assert_eq!((client.recv(&mut reply).unwrap(), reply[0]), (1, number));
    }
    assert!(!path.exists());
}

/// A hard stop leaves what is queued, and that is counted.
#[test]
fn what_a_hard_stop_leaves_is_counted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for queued in [0, 5] {
        let service = Service::default();
        let report = runtime.block_on(async {
            let addr = "127.0.0.1:0".parse().unwrap();
            let mut bound = DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap();
            let LocalAddr::Udp(addr) = *bound[0].local_addr() else { panic!("no UDP") };
            let client = udp_client(addr);
            (0..queued).for_each(|_| assert_eq!(client.send(b"left").unwrap(), 4));
            service.drain().cut();
            let echo = Arc::new(DatagramEcho::new(Mode::Auto));
            serve_datagrams(bound.remove(0), service.clone(), echo).await.unwrap()
        });
        assert_eq!(report.datagrams, 0);
        assert_eq!(service.stats().datagrams.left_in_queue, u64::from(queued > 0));
    }
}

/// A sender that never pauses does not hold a drain up.
#[test]
fn a_drain_under_a_flood_ends() {
    let echoing = Echoing::udp();
    let client = echoing.client();
    std::thread::scope(|scope| {
        let (done, until) = std::sync::mpsc::channel::<()>();
        let flood = scope.spawn(move || {
            while until.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let _ = client.send(b"and on and on");
            }
        });
        while echoing.service.stats().datagrams.received < 100 {
            std::thread::yield_now();
        }
        let (report, _) = echoing.stop();
        println!("drained under a flood in {:?}", report.took);
        assert!(report.took < Duration::from_secs(30));
        drop(done);
        flood.join().unwrap();
    });
}

/// Somebody else holds the socket as well, and goes on with it.
#[test]
fn an_inherited_socket_is_let_go() {
    let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let fd: OwnedFd = theirs.try_clone().unwrap().into();
    let echoing = Echoing::start(Limits::default(), DatagramEcho::new(Mode::Auto), || {
        vec![DatagramSocket::inherited(fd).unwrap()]
    });
    let client = echoing.client();
    assert_eq!(exchange(&client, b"to the heir"), b"to the heir");
    echoing.stop();
    client.send(b"to the owner").unwrap();
    theirs.set_nonblocking(false).unwrap();
    assert_eq!(theirs.recv(&mut [0; 99]).unwrap(), 12);
}

/// What waited in a socket before it was inherited, as what a supervisor activates us for.
#[test]
fn what_waited_before_is_answered() {
    for (bound, to) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.2"),
        ("[::1]:0", "::1"),
        ("[::]:0", "::1"),
        ("[::]:0", "127.0.0.2"),
    ] {
        let theirs = UdpSocket::bind(bound).unwrap();
        let port = theirs.local_addr().unwrap().port();
        let client = udp_client(SocketAddr::new(to.parse().unwrap(), port));
        client.send(b"wake up").unwrap();
        let echoing = Echoing::start(Limits::default(), DatagramEcho::new(Mode::Auto), || {
            vec![DatagramSocket::inherited(theirs.into()).unwrap()]
        });
        let mut reply = [0; 99];
        assert_eq!(client.recv(&mut reply).unwrap(), 7, "{to} of {bound}");
        assert_eq!(exchange(&client, b"good morning"), b"good morning");
        echoing.stop();
    }
}

//! What does not come back.

use super::*;

#[test]
fn a_source_has_its_rate() {
    let echo = DatagramEcho::new(Mode::Auto).rate(rate(5));
    let echoing = Echoing::on_udp("127.0.0.1:0", Limits::default(), echo);
    // Other ports are the same source, other addresses are not.
    let (client, same) = (echoing.client(), echoing.client());
    for _ in 0..10 {
        client.send(b"?").unwrap();
        same.send(b"?").unwrap();
    }
    let datagrams = echoing.after(20);
    let refilled = datagrams.answered - 5; // One each 200 ms: the machine may be slow.
    assert_eq!(datagrams.over_rate, 15 - refilled, "{datagrams:?}");
    let other = UdpSocket::bind("127.0.0.2:0").unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.connect(("127.0.0.1", echoing.port())).unwrap();
    assert_eq!(exchange(&other, b"another source"), b"another source");
    echoing.stop();
}

/// The limits of listeners that have none of their own, which can be swapped.
#[test]
fn limits_are_swapped_while_running() {
    let slow = Limits { udp_rate: NonZeroU32::MIN, ..Limits::default() };
    let echoing = Echoing::on_udp("127.0.0.1:0", slow, DatagramEcho::new(Mode::Auto));
    let (client, other) = (echoing.client(), echoing.client());
    assert_eq!(exchange(&client, b"one"), b"one");
    for _ in 0..9 {
        client.send(b"?").unwrap();
    }
    assert!(echoing.after(10).over_rate > 0);
    let port = client.local_addr().unwrap().port();
    let fast = |ports: String| Limits {
        udp_rate: NonZeroU32::MAX,
        udp_refuse_ports: ports.parse().unwrap(),
        ..Limits::default()
    };
    echoing.service.set_limits(&fast(format!("0-1023,{port}")));
    client.send(b"?").unwrap();
    assert_eq!(echoing.after(11).refused_port, 1);
    assert_eq!(exchange(&other, b"two"), b"two");
    assert_eq!(exchange(&other, b"three"), b"three");
    echoing.service.set_limits(&fast(String::new()));
    client.send(b"four").unwrap();
    let mut reply = [0; 9];
    while client.recv(&mut reply).unwrap() != 4 {} // Some of the first ones, on a slow machine.
    echoing.stop();
}

/// Fault 41: the port of any of our UDP listeners, whoever else has it.
#[test]
fn our_own_ports_are_refused() {
    let echoing = Echoing::start(Limits::default(), DatagramEcho::new(Mode::Auto), || {
        let options = DatagramOptions::default();
        let bind = |addr: &str| DatagramSocket::bind_udp(addr.parse().unwrap(), &options).unwrap();
        [bind("127.0.0.1:0"), bind("127.0.0.2:0")].into_iter().flatten().collect()
    });
    assert_eq!(exchange(&echoing.client(), b"here"), b"here");
    let namesake = UdpSocket::bind(("127.0.0.3", echoing.port())).unwrap();
    namesake.send_to(b"from your own port", ("127.0.0.1", echoing.port())).unwrap();
    assert_eq!(echoing.after(2).refused_port, 1);
    echoing.stop();
}

/// The port of a listener that is gone may be anybody's.
#[test]
fn a_port_is_ours_as_long_as_we_listen_there() {
    let echoing = Echoing::start(Limits::default(), DatagramEcho::new(Mode::Auto), || {
        let options = DatagramOptions::default();
        DatagramSocket::bind_udp("127.0.0.1:0".parse().unwrap(), &options).unwrap()
    });
    let passing = echoing.service.child();
    let (serving, port) = {
        let _inside = echoing.runtime.enter();
        let addr = "127.0.0.1:0".parse().unwrap();
        let mut bound = DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap();
        let socket = bound.remove(0);
        let LocalAddr::Udp(addr) = *socket.local_addr() else { panic!("no UDP") };
        let echo = Arc::new(DatagramEcho::new(Mode::Auto));
        (serve_datagrams(socket, passing.clone(), echo), addr.port())
    };
    // On another address, as whoever has the port there.
    let other = UdpSocket::bind(("127.0.0.2", port)).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.connect(("127.0.0.1", echoing.port())).unwrap();
    other.send(b"?").unwrap();
    assert_eq!(echoing.after(1).refused_port, 1);
    passing.drain().start(PATIENCE);
    echoing.runtime.block_on(serving).unwrap();
    assert_eq!(exchange(&other, b"nobody else's"), b"nobody else's");
    echoing.stop();
}

/// A runtime of one thread whose clock stands still: tokens do not come back, and what is sent before the
/// service is polled waits in its queue.
fn still(test: impl AsyncFnOnce(&Service, SocketAddr)) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let addr = "127.0.0.1:0".parse().unwrap();
        let mut bound = DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap();
        let LocalAddr::Udp(addr) = *bound[0].local_addr() else { panic!("no UDP") };
        let service = Service::default();
        let echo = Arc::new(DatagramEcho::new(Mode::Raw).rate(rate(1000)));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_datagrams(bound.remove(0), service.clone(), echo));
        test(&service, addr).await;
    });
}

async fn received(service: &Service, count: u64) {
    while service.stats().datagrams.received < count {
        tokio::task::yield_now().await;
    }
}

/// Whoever finds no place in the table of rates is counted. A set of the table has 8 places.
#[test]
fn sources_that_share_a_rate_are_counted() {
    still(async |service, addr| {
        let mut sent = 0;
        // With 6,000 sources in 2,048 sets about 8 of those have more than they hold.
        for number in 0..20_000_u32 {
            let source = std::net::Ipv4Addr::from(0x7f01_0000 + number);
            UdpSocket::bind((source, 0)).unwrap().send_to(b"?", addr).unwrap();
            sent += 1;
            received(service, sent).await;
            let shared = service.stats().datagrams.rates_shared;
            assert!(sent > 8 || shared == 0, "8 sources have a place each");
            if shared > 0 {
                return;
            }
        }
        panic!("20,000 sources found 16,384 places");
    });
}

/// A socket with more than a batch lets others run, which is counted; one with less does not.
#[test]
fn full_batches_are_counted() {
    still(async |service, addr| {
        let client = udp_client(addr);
        client.send(b"alone").unwrap();
        received(service, 1).await;
        assert_eq!(service.stats().datagrams.batches_full, 0);
        (0..100).for_each(|_| assert_eq!(client.send(b"among many").unwrap(), 10));
        received(service, 101).await;
        // A turn takes 32 at least and 63 at most.
        let full = service.stats().datagrams.batches_full;
        assert!((1..=3).contains(&full), "{full} full batches");
    });
}

//! What the kernel drops is counted, also when nothing comes after it.

use super::*;

const SENT: u64 = 2000;

/// A socket whose queue is full, and has been for long.
fn full() -> DatagramSocket {
    let options = DatagramOptions { buffer: 1 << 16, ..DatagramOptions::default() };
    let bound = DatagramSocket::bind_udp("127.0.0.1:0".parse().unwrap(), &options);
    let socket = bound.unwrap().remove(0);
    let LocalAddr::Udp(addr) = *socket.local_addr() else { panic!("no UDP") };
    let client = udp_client(addr);
    for _ in 0..SENT {
        client.send(&[7; 100]).unwrap();
    }
    socket
}

#[test]
fn drops_are_counted_when_the_queue_is_empty() {
    let echoing = Echoing::start(Limits::default(), DatagramEcho::new(Mode::Auto), || vec![full()]);
    let deadline = Instant::now() + PATIENCE;
    let counted = || {
        let datagrams = echoing.service.stats().datagrams;
        datagrams.received + datagrams.kernel_drops
    };
    while counted() < SENT {
        assert!(Instant::now() < deadline, "{:?}", echoing.service.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
    let (_, datagrams) = echoing.stop();
    assert!(datagrams.kernel_drops > 0, "{datagrams:?}");
    assert_eq!(datagrams.received + datagrams.kernel_drops, SENT, "{datagrams:?}");
}

#[test]
fn drops_are_counted_in_a_drain() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = Service::default();
    runtime.block_on(async {
        let socket = full();
        service.drain().start(PATIENCE);
        let echo = Arc::new(DatagramEcho::new(Mode::Auto));
        serve_datagrams(socket, service.clone(), echo).await.unwrap();
    });
    let datagrams = service.stats().datagrams;
    assert!(datagrams.kernel_drops > 0, "{datagrams:?}");
    assert_eq!(datagrams.received + datagrams.kernel_drops, SENT, "{datagrams:?}");
}

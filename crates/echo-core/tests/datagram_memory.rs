//! What datagrams cost: nothing for each, one batch for each worker, nothing for a socket that waits.
//!
//! One test alone in its binary: it counts every allocation of the process.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and spawns what it awaits"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use echo_core::{
    DatagramEcho, DatagramOptions, DatagramSocket, LocalAddr, Mode, Service, serve_datagrams,
};
use tokio::task::JoinSet;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: all of it is the system's allocator; the counters touch no memory of its callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SOCKETS: usize = 20;
const EXCHANGES: usize = 5_000;
/// A batch, which holds every length, and what a socket and its future are.
const BATCH: usize = 2 << 20;
const SOCKET: usize = 16 << 10;

#[test]
fn a_datagram_allocates_nothing() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let service = Service::default();
    let echo = Arc::new(DatagramEcho::new(Mode::Auto));
    let before = LIVE.load(Relaxed);
    let mut serving = JoinSet::new();
    let clients: Vec<_> = (0..SOCKETS)
        .map(|_| {
            let _inside = runtime.enter();
            let addr = "127.0.0.1:0".parse().unwrap();
            let socket =
                DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap().remove(0);
            let LocalAddr::Udp(addr) = *socket.local_addr() else { unreachable!("it is UDP") };
            let serve = serve_datagrams(socket, service.clone(), Arc::clone(&echo));
            serving.spawn_on(serve, runtime.handle());
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            client.connect(addr).unwrap();
            client
        })
        .collect();
    let mut message = [7; 1000];
    message[..4].copy_from_slice(&(0x8300_0000_u32 | 996).to_be_bytes()); // A PROBE, to be stamped.
    message[28] = 0;
    let exchange = |client: &UdpSocket, message: &[u8]| {
        client.send(message).unwrap();
        assert_eq!(client.recv(&mut [0; 2000]).unwrap(), message.len());
    };
    clients.iter().for_each(|client| exchange(client, &message));
    let grown = LIVE.load(Relaxed) - before;
    println!("{SOCKETS} sockets that have served and wait: {grown} bytes");
    assert!(grown <= BATCH + SOCKETS * SOCKET, "{grown} bytes");

    let calls = CALLS.load(Relaxed);
    for number in 0..EXCHANGES {
        let client = &clients[number % SOCKETS];
        exchange(client, if number % 2 == 0 { &message } else { b"?" });
    }
    let calls = CALLS.load(Relaxed) - calls;
    println!("{EXCHANGES} exchanges: {calls} allocations");
    assert!(calls < EXCHANGES / 100, "{calls} allocations for {EXCHANGES} datagrams");

    service.drain().start(Duration::from_secs(60));
    while let Some(ended) = runtime.block_on(serving.join_next()) {
        ended.unwrap().unwrap();
    }
}

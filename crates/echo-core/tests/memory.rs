//! What a connection costs, and that a declared length costs nothing (faults 26 and 28).
//!
//! One test alone in its binary: it counts every allocation of the process.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, spawns what it awaits, and waits with a bound"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use echo_core::{Connection, Echo, Error, Handler, Kind, Limits, MAX_PAYLOAD_LEN, Mode};
use support::{echo, expect, header, in_memory, settle};
use tokio::io::AsyncWriteExt;

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: all of it is the system's allocator; the counter touches no memory of its callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONNECTIONS: usize = 1000;

struct Frames;

impl Handler for Frames {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        while let Some(payload) = connection.recv().await? {
            connection.send(&payload).await?;
        }
        Ok(())
    }
}

/// Bytes that each of a thousand connections costs when idle, and how many more when each of them
/// has sent `begun`. The idle ones include their client's half of the stream in memory.
async fn cost<H: Handler>(handler: H, warm: &[u8], begun: &[u8]) -> (usize, isize) {
    let limits = Limits { max_frame: MAX_PAYLOAD_LEN, ..Limits::default() };
    let before = LIVE.load(Relaxed);
    let (server, connector) = in_memory(limits, handler);
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        clients.push(connector.connect().await.unwrap());
    }
    // Each waits once before it is used, so that it goes back to a wait it has known.
    settle().await;
    for client in &mut clients {
        client.write_all(warm).await.unwrap();
        expect(client, warm).await;
    }
    settle().await;
    let idle = LIVE.load(Relaxed);
    for client in &mut clients {
        client.write_all(begun).await.unwrap();
    }
    settle().await;
    let under_way = LIVE.load(Relaxed);
    drop(clients);
    server.stop(support::PATIENCE).await;
    let signed = |bytes: usize| isize::try_from(bytes).unwrap();
    ((idle - before) / CONNECTIONS, (signed(under_way) - signed(idle)) / signed(CONNECTIONS))
}

#[tokio::test]
async fn a_declared_length_costs_nothing() {
    let longest = header(Kind::ECHO, MAX_PAYLOAD_LEN as usize);
    let probe = header(Kind::PROBE, MAX_PAYLOAD_LEN as usize);
    let mut some = longest.clone();
    some.extend([1; 60]);
    for begun in [&longest, &probe, &some] {
        let (idle, more) = cost(Echo::new(Mode::Auto), &echo(b"warm"), begun).await;
        println!("pass-through: {idle} bytes idle, {more} more");
        assert!(idle < 4 << 10, "an idle connection costs {idle} bytes");
        assert!(more < 2 << 10, "{begun:02x?} costs {more} bytes");
        let (idle, more) = cost(Frames, &echo(b"warm"), begun).await;
        println!("recv: {idle} bytes idle, {more} more");
        assert!(more < 2 << 10, "{begun:02x?} costs {more} bytes with recv");
    }
    // A long frame leaves nothing behind but in the stream in memory, which both have.
    let long = echo(&[3; 30_000]);
    let (passed, _) = cost(Echo::new(Mode::Auto), &long, &[]).await;
    let (received, _) = cost(Frames, &long, &[]).await;
    println!("after a long frame: pass-through {passed} bytes, recv {received}");
    assert!(received < passed + 1024, "recv keeps {received} bytes, pass-through {passed}");
}

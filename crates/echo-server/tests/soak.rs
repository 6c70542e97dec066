//! Load of every ordinary kind for long: what the process holds afterwards is what it held before
//! (fault 80). `LONG=1` goes on for ten minutes, and allows memory to grow by 1 MiB an hour.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, clippy::print_stdout, reason = "helpers of tests do as tests do")]

mod support;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::http::Admin;
use support::process::{descriptors, eventually, kib, long};
use support::traffic::*;
use support::{PATIENCE, Server};

const CLIENTS: usize = 8;

/// Exchanges on connections that come and go: short and long, in order, cut off and garbage.
fn streams(server: &Server, number: usize, until: Instant) -> u64 {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut exchanges = 0;
    while Instant::now() < until {
        let peer = Peer::connect(&server.uris()[random.usize(..3)]);
        if random.bool() {
            peer.hello();
        }
        for _ in 0..random.usize(..50) {
            let len = [0, 1, 64, 1000, 20_000, 200_000][random.usize(..6)];
            peer.round_trip(&echo(&vec![number as u8; len]));
            exchanges += 1;
        }
        match random.usize(..4) {
            0 => peer.reset(),
            1 => _ = peer.try_send(&[0x7F; 100]),
            2 => _ = peer.try_send(&header(ECHO, 1 << 20)),
            _ => {
                peer.half_close();
                peer.read_to_end();
            }
        }
    }
    exchanges
}

/// Datagrams, one at a time.
fn datagrams(server: &Server, until: Instant) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(server.address_of(3)).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (mut exchanges, mut answer) = (0, [0; 2000]);
    while Instant::now() < until {
        let sent = vec![exchanges as u8; 1 + exchanges as usize % 1400];
        assert_eq!(socket.send(&sent).ok(), Some(sent.len()));
        assert_eq!(socket.recv(&mut answer).ok(), Some(sent.len()), "on loopback none is lost");
        assert!(answer[..sent.len()] == sent);
        exchanges += 1;
    }
    exchanges
}

/// Load for so long; then nobody is connected. Gives what the process holds then: KiB and descriptors.
fn load(server: &Server, admin: &Admin, time: Duration, exchanges: &AtomicU64) -> (u64, usize) {
    let until = Instant::now() + time;
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || exchanges.fetch_add(streams(server, number, until), Relaxed));
        }
        scope.spawn(move || exchanges.fetch_add(datagrams(server, until), Relaxed));
    });
    eventually("all connections have ended", || {
        let metrics = admin.metrics().0;
        let mut open = metrics.lines().filter(|line| line.starts_with("echo_connections{"));
        open.all(|line| line.ends_with(" 0"))
    });
    // The last question's own connection goes in its time.
    let looks = (0..100).map(|_| {
        thread::sleep(Duration::from_millis(1));
        descriptors(server.pid())
    });
    let fds = looks.min().unwrap_or_default();
    (kib(server.pid(), "VmRSS"), fds)
}

#[test]
fn what_is_held_does_not_grow() {
    let (warm_up, time) = if long() { (60, 600) } else { (1, 3) };
    let folder = tempfile::tempdir().expect("a folder");
    let unix = format!("--listen=unix:{}", folder.path().join("echo").display());
    let mut server = Server::start(&[
        "--listen=tcp://127.0.0.1:0",
        "--listen=tcp://127.0.0.1:0?mode=framed",
        &unix,
        "--listen=udp://127.0.0.1:0?rate=1000000",
        "--admin=127.0.0.1:0",
        "--linger=200ms",
        "--frame-timeout=1s",
    ]);
    let admin = Admin::of(&server);
    let exchanges = AtomicU64::new(0);
    let (before, fds_before) = load(&server, &admin, Duration::from_secs(warm_up), &exchanges);
    let (after, fds_after) = load(&server, &admin, Duration::from_secs(time), &exchanges);
    println!(
        "{} exchanges; {before} KiB after {warm_up} s, {after} KiB {time} s later; \
         {fds_before} and {fds_after} descriptors",
        exchanges.load(Relaxed),
    );
    assert_eq!(fds_before, fds_after, "descriptors");
    // In a short run nothing is warm yet: what the allocator keeps in its first seconds.
    let allowed = if long() { time * 1024 / 3600 } else { 2048 };
    assert!(after <= before + allowed, "{before} KiB became {after}, {allowed} more are allowed");
    assert_eq!(server.stop(), Some(0));
}

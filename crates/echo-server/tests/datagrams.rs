//! UDP and Unix datagram listeners beside the streams: what comes back, what does not, and the drain.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use support::process::{eventually, is_stopped, kib};
use support::traffic::*;
use support::{PATIENCE, Server, Signal};

const UDP: &str = "--listen=udp://127.0.0.1:0";
const TCP: &str = "--listen=tcp://127.0.0.1:0";

/// A client that hears nothing from any other address.
fn client(server: &Server, index: usize) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    SockRef::from(&client).set_recv_buffer_size(4 << 20).expect("a larger buffer");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.connect(server.address_of(index)).expect("an address");
    client
}

fn unix_client(path: &Path) -> UnixDatagram {
    let client = UnixDatagram::bind(path).expect("a free path");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client
}

fn assert_echoes(client: &UdpSocket, message: &[u8]) {
    client.send(message).expect("it is sent");
    let mut reply = vec![0; 65_536];
    let len = client.recv(&mut reply).expect("it comes back");
    assert!(reply[..len] == *message, "{} bytes came back as {len}", message.len());
}

/// Faults 29 and 44: empty, one byte, oversize for every other tool, garbage, control frames.
#[test]
fn datagrams_come_back_beside_streams() {
    let mut server = Server::start(&[TCP, UDP, "--listen=udp://[::1]:0?mode=raw"]);
    assert!(server.uris()[1].starts_with("udp://127.0.0.1:"), "{:?}", server.uris());
    let udp = client(&server, 1);
    let tcp = Peer::connect(&server.uris()[0]);
    let mut random = fastrand::Rng::with_seed(1);
    let mut count = 0;
    for len in [0, 1, 2, 3, 4, 5, 2048, 2049, 9000, 65_507] {
        let garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        assert_echoes(&udp, &garbage);
        tcp.round_trip(b"and a frame on the stream");
        count += 1;
    }
    for kind in [ECHO, HELLO, GOAWAY, ERROR, 0x84, 0x90, 0xFF] {
        assert_echoes(&udp, &frame(kind, &[7; 40]));
        count += 1;
    }
    let too_long = udp.send(&[0; 65_508]).expect_err("no datagram is so long");
    assert_eq!(too_long.raw_os_error(), Some(90), "EMSGSIZE");
    drop(tcp);
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    assert_eq!((datagrams.get("received"), datagrams.get("answered")), (count, count));
}

/// A queue filled while the process was stopped is answered in the drain, every datagram of it.
#[test]
fn what_was_queued_when_the_signal_came_is_answered() {
    // Four workers have two sockets.
    for workers in ["--workers=1", "--workers=4"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server");
        let unix = format!("--listen=unixgram:{}", path.display());
        let mut server = Server::start(&[UDP, &unix, workers]);
        let clients: Vec<_> = (0..10).map(|_| client(&server, 0)).collect();
        let local = unix_client(&directory.path().join("client"));
        clients.iter().for_each(|client| assert_echoes(client, b"here"));
        server.signal(Signal::STOP);
        eventually("the process is stopped", || is_stopped(server.pid()));
        for number in 0..100_u8 {
            for client in &clients {
                client.send(&[number; 100]).unwrap();
            }
        }
        for number in 0..5 {
            local.send_to(&[number], &path).unwrap();
        }
        server.signal(Signal::TERM);
        server.signal(Signal::CONT);
        for client in &clients {
            for number in 0..100 {
                let mut reply = [0; 200];
                assert_eq!(client.recv(&mut reply).expect("each is answered"), 100);
                assert_eq!(reply[..100], [number; 100]);
            }
        }
        for number in 0..5 {
            let mut reply = [0; 9];
            assert_eq!((local.recv(&mut reply).expect("each is answered"), reply[0]), (1, number));
        }
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        assert!(server.summary().get("datagrams").is_none_or(|queued| *queued <= 1005));
        assert_eq!(server.datagrams().get("answered"), 1015);
        assert!(!path.exists());
    }
}

/// Streams may take their time to end; UDP is closed as soon as its queue is empty.
#[test]
fn udp_is_closed_while_streams_drain() {
    let mut server = Server::start(&[TCP, UDP, "--drain-timeout=10min"]);
    let udp = client(&server, 1);
    assert_echoes(&udp, b"here");
    let peer = Peer::connect(&server.uris()[0]);
    peer.send(&header(ECHO, 10)); // A frame under way.
    settle_one(&peer);
    server.signal(Signal::TERM);
    udp.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    eventually("UDP is closed", || {
        let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
        udp.send(b"?").is_err_and(refused) || udp.recv(&mut [0; 9]).is_err_and(refused)
    });
    assert!(server.is_running());
    peer.send(&[0; 10]);
    assert_eq!(peer.read_to_end().0, [&header(ECHO, 10)[..], &[0; 10]].concat());
    drop(peer);
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
}

fn settle_one(peer: &Peer) {
    support::process::settle([peer]);
}

/// Fault 43: a flood that nobody can serve is dropped and counted, by the kernel and by the rate; the
/// log is short, the memory bounded, and whoever comes later is served.
#[test]
fn a_flood_is_dropped_and_counted() {
    let other_source = "--listen=udp://127.0.0.1:0?rate=1000000";
    let mut server = Server::start(&[UDP, other_source, "--udp-rate=100", "--workers=1"]);
    let (limited, open) = (client(&server, 0), client(&server, 1));
    assert_echoes(&limited, b"here");
    assert_echoes(&open, b"here");
    let before = kib(server.pid(), "VmRSS");
    server.signal(Signal::STOP);
    eventually("the process is stopped", || is_stopped(server.pid()));
    let large = vec![7; 60_000];
    for _ in 0..1000 {
        limited.send(b"one of many").unwrap();
        open.send(&large).unwrap();
    }
    server.signal(Signal::CONT);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        limited.send(b"one of many").unwrap();
    }
    // What comes back tells that the queue is empty again; the kernel tells of its drops with it.
    open.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut reply = vec![0; 65_536];
    eventually("the flood is over", || {
        open.send(b"still there?").unwrap();
        std::iter::repeat_with(|| open.recv(&mut reply)).map_while(Result::ok).any(|len| len == 12)
    });
    let grown = kib(server.pid(), "VmRSS").saturating_sub(before);
    println!("resident after the flood: {grown} KiB more");
    assert!(grown <= 6 << 10, "{grown} KiB for one worker's batch of 2 MiB");
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    println!("{datagrams:?}");
    assert!(datagrams.get("over_rate") > 0 && datagrams.get("kernel_drops") > 0, "{datagrams:?}");
    assert!(server.stderr().lines().count() <= 5, "{}", server.stderr());
}

#[test]
fn a_drain_under_a_flood_ends() {
    let mut server = Server::start(&[UDP, "--drain-timeout=10min"]);
    let flood = client(&server, 0);
    let replies = flood.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        let (done, stop) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let _ = flood.send(b"and on and on");
            }
        });
        for _ in 0..1000 {
            replies.recv(&mut [0; 99]).expect("the flood is there, and answered");
        }
        server.signal(Signal::TERM);
        let began = Instant::now();
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        println!("drained under a flood in {:?}", began.elapsed());
        drop(done);
    });
    server.datagrams();
}

/// A second signal ends it like everything else.
#[test]
fn unix_paths_are_those_of_streams() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo");
    let uri = format!("--listen=unixgram:{}?perm=0600", path.display());
    let mut first = Server::start(&[&uri]);
    first.signal(Signal::KILL);
    first.wait(PATIENCE);
    assert!(path.exists(), "a killed server leaves its path");
    let mut second = Server::start(&[&uri]);
    let me = unix_client(&directory.path().join("me"));
    me.send_to(b"replaced", &path).unwrap();
    assert_eq!(me.recv(&mut [0; 99]).unwrap(), 8);
    let mut command = support::command();
    command.arg(&uri);
    let mut third = Server::spawn(command);
    assert_eq!(third.wait(PATIENCE).code(), Some(69));
    assert!(third.stderr().contains("another process listens there"), "{}", third.stderr());
    UnixDatagram::unbound().unwrap().send_to(b"from nobody", &path).unwrap();
    me.send_to(&vec![7; 65_537], &path).unwrap();
    me.send_to(b"still there", &path).unwrap();
    assert_eq!(me.recv(&mut [0; 99]).unwrap(), 11);
    assert_eq!(second.stop(), Some(0));
    assert!(!path.exists());
    let datagrams = second.datagrams();
    assert_eq!((datagrams.get("unnamed"), datagrams.get("truncated")), (1, 1));
}

/// A Unix peer that is connected to another takes no answer from us (EPERM): its own doing, and nothing
/// for the operator to read.
#[test]
fn what_a_unix_peer_does_is_not_logged() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut server = Server::start(&[&format!("--listen=unixgram:{}", path("echo").display())]);
    let _other = unix_client(&path("other"));
    let peer = unix_client(&path("peer"));
    peer.connect(path("other")).unwrap();
    peer.send_to(b"?", path("echo")).unwrap();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.datagrams().get("failed"), 1);
    assert!(!server.stderr().contains("dropped"), "{}", server.stderr());
}

/// The command that the log tells to try works.
#[test]
fn the_hint_for_an_abstract_name_works() {
    let there = std::process::Command::new("socat").arg("-V").output();
    if there.is_err() {
        support::skip("the_hint_for_an_abstract_name_works", "socat");
        return;
    }
    for kind in ["unixgram", "unix"] {
        let uri = format!("--listen={kind}:@echo-server-hint-{}-{kind}", std::process::id());
        let mut server = Server::start(&[&uri]);
        eventually("the hint is logged", || server.stderr().contains("try: "));
        let stderr = server.stderr();
        let (_, hint) = stderr.lines().find_map(|line| line.split_once("try: ")).unwrap();
        let output = std::process::Command::new("sh").args(["-c", hint]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hi\n", "{hint}: {output:?}");
        assert_eq!(server.stop(), Some(0));
    }
}

#[test]
fn healthcheck_asks_datagrams() {
    let directory = tempfile::tempdir().unwrap();
    let unix = format!("--listen=unixgram:{}/echo", directory.path().display());
    let mut server = Server::start(&[UDP, &unix, "--listen=unixgram:@echo-server-healthcheck"]);
    let asked = |target: &str, timeout: &str| {
        let mut command = support::command();
        let output = command.args(["healthcheck", target, "--timeout", timeout]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for uri in server.uris().to_vec() {
        let (code, told) = asked(&uri, "60s");
        assert!(code == Some(0) && told.contains("(datagram)"), "{told}");
    }
    let uris = server.uris().to_vec();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = format!("udp://{}", silent.local_addr().unwrap());
    assert_eq!(server.stop(), Some(0));
    for uri in &uris {
        let (code, told) = asked(uri, "60s");
        assert!(code == Some(1) && told.contains("refused: "), "{told}");
    }
    let (code, told) = asked(&silent, "50ms");
    assert_eq!(code, Some(1), "{told}");
}

/// One line says what an open port is protected by; a port that only this host reaches needs none.
#[test]
fn an_open_port_says_how_it_is_protected() {
    let mut server = Server::start(&[
        UDP,
        "--listen=udp://[::]:0",
        "--listen=udp://0.0.0.0:0?rate=77",
        "--udp-rate=1234",
        "--udp-refuse-ports=0-1023,5353",
    ]);
    assert_eq!(server.stop(), Some(0));
    let stderr = server.stderr();
    let told: Vec<_> = stderr.lines().filter(|line| line.contains("open to the network")).collect();
    assert_eq!(told.len(), 2, "{stderr}");
    for (line, uri, rate) in
        [(told[0], &server.uris()[1], "1234"), (told[1], &server.uris()[2], "77")]
    {
        let place = uri.split('?').next().unwrap();
        for word in [place, rate, "0-1023,5353"] {
            assert!(line.contains(word), "{word} is missing in: {line}");
        }
    }
}

#[test]
fn a_udp_port_in_use_is_69() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let uri = format!("--listen=udp://{}", holder.local_addr().unwrap());
    let mut command = support::command();
    command.args([TCP, &uri]);
    let mut server = Server::spawn(command);
    assert_eq!(server.wait(PATIENCE).code(), Some(69));
    assert_eq!(server.stdout(), "");
    assert!(server.stderr().contains("is in use: ss -lunp"), "{}", server.stderr());
}

/// However many cores: with its UDP sockets on two addresses, and the 32 descriptors of all the pipes that
/// workers may have, the server keeps within the 64 that it does not grant to connections.
#[test]
fn many_cores_take_few_descriptors() {
    let args =
        ["--listen=udp://127.0.0.1:0", "--listen=udp://[::1]:0", "--listen=tcp://127.0.0.1:0"];
    let mut server = Server::start(&[&args[..], &["--workers=128"]].concat());
    let open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let sockets = std::fs::read_to_string(format!("/proc/{}/net/udp", server.pid())).unwrap();
    let port = format!(":{:04X} ", server.address_of(0).port());
    assert_eq!(sockets.matches(&port).count(), 8, "{sockets}");
    let open = open();
    println!("{open} descriptors");
    assert!(open + 32 <= 64, "{open} descriptors are open");
    assert_eq!(server.stop(), Some(0));
}

//! The test vectors of PROTOCOL.md over real sockets: those of streams whole, byte by byte, and split at
//! every point.

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

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use echo_core::{
    DatagramEcho, DatagramOptions, DatagramSocket, Echo, Limits, LocalAddr, Mode, Service,
    serve_datagrams,
};
use support::{on_tcp, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const PROTOCOL: &str = include_str!("../PROTOCOL.md");

struct Vector {
    name: &'static str,
    mode: Mode,
    max_frame: u32,
    sent: Vec<u8>,
    received: Vec<Pattern>,
    reset: bool,
}

/// What one byte of an answer, or the rest of a frame, has to be.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    Byte(u8),
    Any,
    RestOfFrame,
}

fn vectors() -> Vec<Vector> {
    let block = PROTOCOL.split("```vectors\n").nth(1).expect("PROTOCOL.md has no vectors");
    let block = block.split("```").next().unwrap();
    block.lines().map(parse).collect()
}

fn parse(line: &'static str) -> Vector {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [name, mode, max_frame, sent, received, end] = fields[..] else { panic!("{line}") };
    let sent = pattern(sent).into_iter().map(|byte| match byte {
        Pattern::Byte(byte) => byte,
        other => panic!("{other:?} in what {name} sends"),
    });
    assert!(end == "fin" || end == "reset", "{name} ends with {end}");
    Vector {
        name,
        mode: mode.parse().unwrap(),
        max_frame: max_frame.parse().unwrap(),
        sent: sent.collect(),
        received: pattern(received),
        reset: end == "reset",
    }
}

fn pattern(text: &str) -> Vec<Pattern> {
    let mut pattern = Vec::new();
    let mut rest = if text == "_" { "" } else { text };
    while !rest.is_empty() {
        let len = if rest.starts_with('*') { 1 } else { 2 };
        let (digits, others) = rest.split_at(len);
        pattern.push(match digits {
            "*" => Pattern::RestOfFrame,
            "??" => Pattern::Any,
            digits => Pattern::Byte(u8::from_str_radix(digits, 16).unwrap()),
        });
        rest = others;
    }
    pattern
}

/// Whether `got` is what `pattern` says: all of it if `whole`, else a start of it.
fn matches(pattern: &[Pattern], got: &[u8], whole: bool) -> bool {
    let mut at = 0;
    for byte in pattern {
        if at >= got.len() && !whole {
            return true;
        }
        match *byte {
            Pattern::Byte(byte) if got.get(at) == Some(&byte) => at += 1,
            Pattern::Any if at < got.len() => at += 1,
            Pattern::RestOfFrame => at = end_of_frame(got, at),
            _ => return false,
        }
    }
    at == got.len()
}

/// Where the frame ends that the byte before `at` belongs to.
fn end_of_frame(wire: &[u8], at: usize) -> usize {
    let mut end = 0;
    while end < at {
        let Some(&[_, a, b, c]) = wire.get(end..end + 4) else { return usize::MAX };
        end += 4 + u32::from_be_bytes([0, a, b, c]) as usize;
    }
    end
}

async fn check(vector: &Vector, addr: SocketAddr, pieces: &[&[u8]]) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut sent = Ok(());
    for piece in pieces {
        if sent.is_ok() {
            sent = stream.write_all(piece).await;
        }
        // Each turn of this runtime looks at the sockets: the server reads the pieces one by one.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
    }
    let mut got = Vec::new();
    let end = match sent {
        Ok(()) => match stream.shutdown().await {
            Ok(()) => stream.read_to_end(&mut got).await.map(|_| ()),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let name = vector.name;
    match end {
        Ok(()) => {
            assert!(!vector.reset, "{name} in {pieces:02x?}: a clean end");
            assert!(matches(&vector.received, &got, true), "{name} in {pieces:02x?}: {got:02x?}");
        }
        Err(error) => {
            assert!(vector.reset, "{name} in {pieces:02x?}: {error}");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{name}");
            assert!(matches(&vector.received, &got, false), "{name} in {pieces:02x?}: {got:02x?}");
        }
    }
}

/// Faults 8, 27, 29 and 37.
#[tokio::test]
async fn every_vector_in_every_split() {
    let vectors = vectors();
    assert!(vectors.len() > 20, "only {} vectors in PROTOCOL.md", vectors.len());
    for vector in &vectors {
        let limits = Limits { max_frame: vector.max_frame, ..Limits::default() };
        let (server, addr) = on_tcp(limits, Echo::new(vector.mode));
        soon(async {
            check(vector, addr, &[&vector.sent]).await;
            check(vector, addr, &vector.sent.chunks(1).collect::<Vec<_>>()).await;
            for at in 1..vector.sent.len() {
                let (one, other) = vector.sent.split_at(at);
                check(vector, addr, &[one, other]).await;
            }
        })
        .await;
        let report = soon(server.stop(support::PATIENCE)).await;
        assert_eq!(report.drained.forced, 0, "{}", vector.name);
    }
}

/// Each datagram vector over UDP. What follows it tells what got no answer.
#[tokio::test]
async fn every_datagram_vector() {
    let block = PROTOCOL.split("```datagrams\n").nth(1).expect("PROTOCOL.md has no datagrams");
    let vectors: Vec<_> = block.split("```").next().unwrap().lines().collect();
    assert!(vectors.len() > 10, "only {} vectors of datagrams", vectors.len());
    for line in vectors {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, mode, sent, received] = fields[..] else { panic!("{line}") };
        let sent: Vec<u8> = pattern(sent)
            .into_iter()
            .map(|byte| match byte {
                Pattern::Byte(byte) => byte,
                other => panic!("{other:?} in what {name} sends"),
            })
            .collect();
        let addr = "127.0.0.1:0".parse().unwrap();
        let socket = DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap().remove(0);
        let LocalAddr::Udp(addr) = *socket.local_addr() else { panic!("{name}: no UDP") };
        let echo = Arc::new(DatagramEcho::new(mode.parse().unwrap()));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(addr).await.unwrap();
        let asking = async {
            let mut reply = [0; 99];
            client.send(&sent).await.unwrap();
            client.send(b"what follows").await.unwrap();
            if received != "none" {
                let len = client.recv(&mut reply).await.unwrap();
                let right = matches(&pattern(received), &reply[..len], true);
                assert!(right, "{name}: {:02x?}", &reply[..len]);
            }
            let len = client.recv(&mut reply).await.unwrap();
            assert_eq!(&reply[..len], b"what follows", "after {name}");
        };
        soon(async {
            tokio::select! {
                _ = serve_datagrams(socket, Service::default(), echo) => panic!("it ended"),
                () = asking => {}
            }
        })
        .await;
    }
}

/// The reader of the vectors itself: a wildcard must not hide a difference after it.
#[test]
fn patterns() {
    let frames = [0x82, 0, 0, 2, 7, 7, 0, 0, 0, 1, 0x61];
    assert!(matches(&pattern("82??????07*0000000161"), &frames, true));
    assert!(!matches(&pattern("82??????07*0000000162"), &frames, true));
    assert!(!matches(&pattern("82??????07*"), &frames, true));
    assert!(!matches(&pattern("82??????06*0000000161"), &frames, true));
    assert!(matches(&pattern("000000016100"), &[0, 0, 0], false));
    assert!(!matches(&pattern("000000016100"), &[0, 0, 1], false));
    assert!(!matches(&pattern("00"), &[], true));
}

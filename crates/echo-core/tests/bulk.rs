//! Bulk: what goes through the worker's pipe comes back as it came, whatever the lengths, the pauses
//! and the ends.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and spawns what it awaits"
)]

mod support;

use std::time::Duration;

use echo_core::{
    Drain, Echo, Kind, Limits, Listener, LocalAddr, Mode, PROBE_MIN_LEN, Service, SocketOptions,
    UnixName,
};
use support::{Running, echo, frame, on_tcp, soon};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

/// Lengths around what decides: a read, a pipe, half of each, a header more or less.
const LENGTHS: [usize; 17] = [
    0,
    1,
    4096,
    32_764,
    32_768,
    32_772,
    65_532,
    65_536,
    65_540,
    131_072,
    131_073,
    262_144,
    1 << 20,
    3,
    70_000,
    40_000,
    900_001,
];

/// Frames of these lengths, none like another, with a probe among them.
fn traffic(rounds: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(rounds);
    let mut all = Vec::new();
    for _ in 0..rounds {
        for len in LENGTHS {
            let mut payload = vec![0; len];
            random.fill(&mut payload);
            all.extend(echo(&payload));
        }
    }
    all
}

/// Sends `all`, reads what comes back with pauses in which the server runs into a full socket, and
/// compares.
async fn comes_back(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    all: Vec<u8>,
    what: &str,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent = all.clone();
    let write = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::with_capacity(all.len());
    let mut buffer = vec![0; 100_000];
    soon(async {
        loop {
            let read = reader.read(&mut buffer).await.unwrap();
            if read == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..read]);
            for _ in 0..got.len() % 40 {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    write.await.unwrap();
    let differs = got.iter().zip(&all).position(|(got, sent)| got != sent);
    assert_eq!((got.len(), differs), (all.len(), None), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_frames_come_back_byte_for_byte() {
    let all = traffic(6);
    for mode in [Mode::Framed, Mode::Raw, Mode::Auto] {
        let (server, addr) = on_tcp(Limits::default(), Echo::new(mode));
        let socket = TcpSocket::new_v4().unwrap();
        // Little room at the peer: most writes are cut short.
        socket.set_recv_buffer_size(16 << 10).unwrap();
        comes_back(socket.connect(addr).await.unwrap(), all.clone(), "TCP, little room").await;
        comes_back(TcpStream::connect(addr).await.unwrap(), all.clone(), "TCP").await;
        let stats = server.service.stats();
        assert_eq!((stats.bytes_in, stats.bytes_out), (2 * all.len() as u64, 2 * all.len() as u64));
        if mode != Mode::Raw {
            assert_eq!(stats.frames, 2 * 6 * LENGTHS.len() as u64);
        }
        assert_eq!(server.stop(Duration::from_secs(60)).await.accepted, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let listener =
        Listener::bind_unix(&UnixName::Path(path.clone()), None, &SocketOptions::default())
            .unwrap();
    assert!(matches!(listener.local_addr(), LocalAddr::Unix(_)));
    let server = Running::start(
        listener,
        &Service::new(Limits::default(), Drain::new()),
        Echo::new(Mode::Framed),
    );
    comes_back(UnixStream::connect(&path).await.unwrap(), traffic(6), "Unix").await;
    server.stop(Duration::from_secs(60)).await;
}

/// A probe's stamp is written over its first bytes, the rest passes as it came.
#[tokio::test]
async fn the_rest_of_a_long_probe_passes() {
    let (server, addr) = on_tcp(Limits::default(), Echo::new(Mode::Framed));
    let payload = vec![7; 1 << 20];
    let request = [echo(&[1; 200_000]), frame(Kind::PROBE, &payload), echo(b"last")].concat();
    let (mut reader, mut writer) = TcpStream::connect(addr).await.unwrap().into_split();
    let write = async {
        writer.write_all(&request).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, read) = soon(async { tokio::join!(write, reader.read_to_end(&mut got)) }).await;
    read.unwrap();
    let stamped = 200_004 + 4..200_004 + 4 + PROBE_MIN_LEN as usize;
    assert_eq!(got.len(), request.len());
    assert!(got[..stamped.start] == request[..stamped.start]);
    assert!(got[stamped.end..] == request[stamped.end..]);
    assert_eq!(server.stop(Duration::from_secs(60)).await.drained.total(), 0);
}

/// Fault 6: an end inside a payload that is passing is a reset, and what came back before it is
/// right.
#[tokio::test]
async fn an_end_inside_a_long_payload_is_a_reset() {
    for cut in [100_000, 131_072, 500_000, (1 << 20) + 3] {
        let (server, addr) = on_tcp(Limits::default(), Echo::new(Mode::Framed));
        let whole = echo(&vec![9; 1 << 20]);
        let (mut reader, mut writer) = TcpStream::connect(addr).await.unwrap().into_split();
        let write = async {
            writer.write_all(&whole[..cut]).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = soon(async { tokio::join!(write, reader.read_to_end(&mut got)) }).await;
        assert!(read.is_err(), "{cut}: a cut frame ended like a whole one");
        assert!(whole.starts_with(&got), "{cut}");
        assert_eq!(server.service.stats().truncated, 1);
        server.stop(Duration::from_secs(60)).await;
    }
}

/// Fault 9: what a peer that does not read can leave with us stays within one read, and comes when
/// it reads.
#[tokio::test]
async fn a_drain_answers_what_bulk_has_left() {
    let (server, addr) = on_tcp(Limits::default(), Echo::new(Mode::Framed));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let client = socket.connect(addr).await.unwrap();
    let (mut reader, mut writer) = client.into_split();
    let whole = echo(&vec![5; 1 << 20]);
    let mut sent = 0;
    // Until nothing moves any more: the server holds what it could not write.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(200), writer.write(&whole[sent % whole.len()..]))
            .await
    {
        sent += written.unwrap();
    }
    server.drain(Duration::from_secs(60));
    let mut got = Vec::new();
    // The rest of the frame that is under way may come.
    let rest = whole.len() - sent % whole.len();
    let finish = async {
        _ = writer.write_all(&whole[whole.len() - rest..]).await;
    };
    let (_, read) = soon(async { tokio::join!(finish, reader.read_to_end(&mut got)) }).await;
    assert!(got.chunks(whole.len()).all(|frame| whole.starts_with(frame)));
    assert!(read.is_ok() && got.len() % whole.len() == 0, "{} bytes, {read:?}", got.len());
    drop((reader, writer));
    assert_eq!(server.ended().await.drained.completed, 1);
}

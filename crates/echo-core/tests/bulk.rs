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

use std::io::{Read as _, Write as _};
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

fn passing(mode: Mode) -> Echo {
    Echo::new(mode).splice(true)
}

/// Frames of these lengths, none like another.
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
        let (server, addr) = on_tcp(Limits::default(), passing(mode));
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
        passing(Mode::Framed),
    );
    comes_back(UnixStream::connect(&path).await.unwrap(), traffic(6), "Unix").await;
    server.stop(Duration::from_secs(60)).await;
}

/// A probe's stamp is written over its first bytes, the rest passes as it came.
#[tokio::test]
async fn the_rest_of_a_long_probe_passes() {
    let (server, addr) = on_tcp(Limits::default(), passing(Mode::Framed));
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
        let (server, addr) = on_tcp(Limits::default(), passing(Mode::Framed));
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
    let (server, addr) = on_tcp(Limits::default(), passing(Mode::Framed));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let (mut reader, mut writer) = socket.connect(addr).await.unwrap().into_split();
    let whole = echo(&vec![5; 1 << 20]);
    // Frames until the server holds what it cannot write, and then the rest of the last.
    let service = server.service.clone();
    let write = tokio::spawn(async move {
        let mut sent = 0;
        while !service.drain().is_started() || sent % whole.len() > 0 {
            let rest = &whole[sent % whole.len()..];
            match writer.write(&rest[..rest.len().min(10_000)]).await {
                Ok(written) => sent += written,
                Err(_) => break,
            }
        }
        writer
    });
    let held = || {
        let stats = server.service.stats();
        (stats.bytes_in, stats.bytes_in - stats.bytes_out)
    };
    soon(async {
        loop {
            let (read, kept) = held();
            assert!(kept <= 64 << 10, "{kept} bytes are kept");
            if kept > 0 && read > 1 << 20 {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.drain(Duration::from_secs(60));
    let mut got = Vec::new();
    let read = soon(reader.read_to_end(&mut got)).await;
    let whole = echo(&vec![5; 1 << 20]);
    assert!(got.chunks(whole.len()).all(|frame| whole.starts_with(frame)));
    assert!(read.is_ok() && got.len() % whole.len() == 0, "{} bytes, {read:?}", got.len());
    drop((reader, write.await.unwrap()));
    assert_eq!(server.ended().await.drained.total(), 1);
}

/// Peers that leave in the middle of bulk leave nothing behind in the pipe: what others get is
/// theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_of_a_peer_that_left_reaches_another() {
    let (server, addr) = on_tcp(Limits::default(), passing(Mode::Raw));
    for round in 0..30_u8 {
        let leaving: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn(async move {
                    let mut stream = TcpStream::connect(addr).await.unwrap();
                    // More than the sockets hold: it ends when the reset comes, or when it is enough.
                    let mut some = vec![0xEE; 1 << 20];
                    for _ in 0..4 {
                        if stream.write_all(&some).await.is_err()
                            || stream.read(&mut some[..40_000]).await.is_err()
                        {
                            return;
                        }
                    }
                    stream.set_zero_linger().unwrap();
                })
            })
            .collect();
        let mine = vec![round; 3 << 20];
        comes_back(TcpStream::connect(addr).await.unwrap(), mine, "among leaving peers").await;
        for peer in leaving {
            peer.await.unwrap();
        }
    }
    server.drain(Duration::from_secs(60));
    server.ended().await;
}

/// An urgent byte, which splice(2) takes for the end or for nothing there, is skipped as in every read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_data_is_not_the_end() {
    let (server, addr) = on_tcp(Limits::default(), passing(Mode::Raw));
    for _ in 0..8 {
        let mut writer = std::net::TcpStream::connect(addr).unwrap();
        let mut reader = writer.try_clone().unwrap();
        reader.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let half = vec![1; 700_000];
        let write = tokio::task::spawn_blocking(move || {
            writer.write_all(&half).unwrap();
            socket2::SockRef::from(&writer).send_out_of_band(b"!").unwrap();
            writer.write_all(&half).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let read = tokio::task::spawn_blocking(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).map(|_| got.len())
        });
        assert_eq!(read.await.unwrap().unwrap(), 1_400_000);
        write.await.unwrap();
    }
    server.stop(Duration::from_secs(60)).await;
}

/// Faults 7, 9 and 79: the deadlines hold in bulk as elsewhere.
#[tokio::test]
async fn deadlines_hold_in_bulk() {
    let short = Duration::from_millis(100);
    let fast = std::num::NonZeroU32::MAX;
    let frame = echo(&vec![3; 1 << 20]);
    // A payload that stops.
    let limits = Limits { frame_timeout: short, min_rate: fast, ..Limits::default() };
    let (server, addr) = on_tcp(limits, passing(Mode::Framed));
    let (mut reader, mut writer) = TcpStream::connect(addr).await.unwrap().into_split();
    let mut got = Vec::new();
    let stalls = async {
        writer.write_all(&frame[..700_000]).await.unwrap();
    };
    let (read, ()) = soon(async { tokio::join!(reader.read_to_end(&mut got), stalls) }).await;
    assert!(read.is_err() && frame.starts_with(&got));
    assert_eq!(server.service.stats().frame_timeouts, 1);
    server.stop(Duration::from_secs(60)).await;
    // A peer that does not read.
    let limits = Limits { write_timeout: short, min_rate: fast, ..Limits::default() };
    let (server, addr) = on_tcp(limits, passing(Mode::Raw));
    let mut client = TcpStream::connect(addr).await.unwrap();
    soon(async { while client.write_all(&frame).await.is_ok() {} }).await;
    assert_eq!(server.service.stats().write_timeouts, 1);
    server.stop(Duration::from_secs(60)).await;
    // A payload that stops, in a drain.
    let (server, addr) = on_tcp(Limits::default(), passing(Mode::Framed));
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(&frame[..300_000]).await.unwrap();
    client.read_exact(&mut vec![0; 300_000]).await.unwrap();
    let report = server.stop(short).await;
    assert_eq!(report.drained.forced, 1);
}

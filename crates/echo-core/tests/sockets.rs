//! What only the kernel does: half-close, resets, its queues, and descriptors that others hold.

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

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use echo_core::{
    Connection, Drain, Echo, Error, Handler, Limits, Listener, LocalAddr, Mode, Reason, Service,
    SocketOptions, UnixName,
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use support::{
    PATIENCE, Replay, Running, buckets, cases, echo, frames, goaway, hello, on_tcp, seed, soon,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MODES: [Mode; 3] = [Mode::Raw, Mode::Auto, Mode::Framed];

fn tcp() -> (Listener, SocketAddr) {
    let addr = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind_tcp(addr, &SocketOptions::default()).unwrap();
    let LocalAddr::Tcp(addr) = *listener.local_addr() else { unreachable!() };
    (listener, addr)
}

/// A plain blocking client: nothing that it does runs this test's reactor.
fn blocking_client(addr: SocketAddr) -> StdStream {
    let stream = StdStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn read_blocking(mut stream: impl Read + Send + 'static) -> std::io::Result<Vec<u8>> {
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    });
    read.await.unwrap()
}

/// Fault 5: all of a burst comes back although its sender has closed its side.
#[tokio::test]
async fn half_close_after_a_burst_of_10_000_frames() {
    for mode in MODES {
        let (_server, addr) = on_tcp(Limits::default(), Echo::new(mode));
        let burst: Vec<u8> = (0..10_000u32).flat_map(|n| echo(&n.to_be_bytes())).collect();
        let (mut reader, mut writer) = TcpStream::connect(addr).await.unwrap().into_split();
        let write = async {
            writer.write_all(&burst).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = soon(async { tokio::join!(write, reader.read_to_end(&mut got)) }).await;
        read.unwrap();
        assert!(got == burst, "{mode:?}: {} of {} bytes", got.len(), burst.len());
    }
}

/// Fault 6: a reset at every byte of a session ends that connection and nothing else.
#[tokio::test]
async fn a_reset_at_every_byte() {
    let session = [hello(), echo(b"payload"), echo(&[7; 300]), hello()].concat();
    let (server, addr) = on_tcp(Limits::default(), Echo::new(Mode::Auto));
    for round in 0..2 {
        for at in 0..=session.len() {
            let mut client = TcpStream::connect(addr).await.unwrap();
            client.write_all(&session[..at]).await.unwrap();
            if round == 1 {
                tokio::task::yield_now().await;
            }
            client.set_zero_linger().unwrap();
        }
    }
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(b"fine").await.unwrap();
    soon(client.read_exact(&mut [0; 4])).await.unwrap();
    drop(client);
    let ended = soon(async {
        while server.service.stats().active > 0 {
            tokio::task::yield_now().await;
        }
        server.service.stats().ended
    })
    .await;
    assert_eq!((ended.panicked, ended.forced), (0, 0));
    assert_eq!(soon(server.stop(PATIENCE)).await.drained.total(), 0);
}

/// What lies in the kernel's queue when the drain starts is answered, though the server has not
/// heard of it: no turn of this one-threaded runtime comes between the write and the drain.
#[tokio::test]
async fn a_drain_answers_what_the_kernel_holds() {
    let burst = [hello(), echo(b"request").repeat(2000)].concat();
    for round in 0..cases(50, 2000) {
        let (server, addr) = on_tcp(Limits::default(), Echo::new(Mode::Auto));
        let mut client = blocking_client(addr);
        if round % 2 == 0 {
            // Accepted, and waiting.
            while server.service.stats().accepted == 0 {
                tokio::task::yield_now().await;
            }
        }
        client.write_all(&burst).unwrap();
        server.drain(PATIENCE);
        let got = soon(read_blocking(client)).await.unwrap();
        assert!(got.ends_with(&goaway(Reason::Drain, 2001)), "round {round}: {}", got.len());
        assert_eq!(frames(&got).len(), 2002);
        assert_eq!(buckets(soon(server.ended()).await.drained), [1, 0, 0, 0, 0]);
    }
}

const QUEUED: u64 = 50;

/// How many of the queued were answered; the others were reset with nothing read.
async fn answered(clients: Vec<impl Read + Send + 'static>) -> u64 {
    let mut answered = 0;
    for client in clients {
        match soon(read_blocking(client)).await.unwrap_or_default() {
            got if got.is_empty() => {}
            got => {
                assert_eq!(got, echo(b"queued"));
                answered += 1;
            }
        }
    }
    answered
}

/// The listener's queue is served in a drain: TCP and Unix, whose path is gone then.
#[tokio::test]
async fn a_drain_serves_the_listeners_queue() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let name = UnixName::Path(path.clone());
    let unix = Listener::bind_unix(&name, None, &SocketOptions::default()).unwrap();
    let (tcp, addr) = tcp();
    let service = Service::new(Limits::default(), Drain::new());
    let mut tcp_clients = Vec::new();
    let mut unix_clients = Vec::new();
    for _ in 0..QUEUED {
        let mut client = blocking_client(addr);
        client.write_all(&echo(b"queued")).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        tcp_clients.push(client);
        let mut client = StdUnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&echo(b"queued")).unwrap();
        unix_clients.push(client);
    }
    service.drain().start(PATIENCE);
    let on_tcp = Running::start(tcp, &service, Echo::new(Mode::Auto));
    let on_unix = Running::start(unix, &service, Echo::new(Mode::Auto));
    let (answered_tcp, answered_unix) = (answered(tcp_clients).await, answered(unix_clients).await);
    for (server, answered) in [(on_tcp, answered_tcp), (on_unix, answered_unix)] {
        let report = soon(server.ended()).await;
        assert_eq!(report.accepted + report.reset_in_queue, QUEUED);
        assert_eq!((report.accepted, report.drained.completed), (answered, answered));
        // A machine that stood still for 100 ms may reset some.
        assert!(answered > 0);
    }
    assert!(!path.exists());
    assert!(StdStream::connect(addr).is_err(), "the port is closed");
}

/// A socket that somebody else holds too is let go without accepting: its queue is for them.
#[tokio::test]
async fn a_drain_leaves_the_queue_of_an_inherited_socket_alone() {
    let theirs = StdListener::bind("127.0.0.1:0").unwrap();
    let addr = theirs.local_addr().unwrap();
    let ours =
        Listener::inherited(theirs.try_clone().unwrap().into(), &SocketOptions::default()).unwrap();
    let service = Service::new(Limits::default(), Drain::new());
    let _client = blocking_client(addr);
    service.drain().start(PATIENCE);
    let server = Running::start(ours, &service, Echo::new(Mode::Auto));
    assert_eq!(soon(server.ended()).await.accepted, 0);
    // The shared file description is non-blocking now.
    theirs.set_nonblocking(false).unwrap();
    theirs.accept().unwrap();
}

/// One that nobody else holds is emptied like one that was bound here, and takes its path along.
#[tokio::test]
async fn a_drain_empties_the_queue_of_an_inherited_socket_that_is_owned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let ours = Listener::inherited(theirs.into(), &SocketOptions::default()).unwrap().owned();
    let service = Service::new(Limits::default(), Drain::new());
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    service.drain().start(PATIENCE);
    let server = Running::start(ours, &service, Echo::new(Mode::Auto));
    assert_eq!(soon(server.ended()).await.drained.completed, 1);
    assert!(!path.exists());
}

/// Fault 18: the limit per source, and its places that come back.
#[tokio::test]
async fn a_source_at_its_limit_is_refused() {
    let limits = Limits {
        max_per_source: NonZeroUsize::new(2).unwrap(),
        spare_loopback: false,
        ..Limits::default()
    };
    let (server, addr) = on_tcp(limits, Echo::new(Mode::Raw));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(b"x").await.unwrap();
        soon(client.read_u8()).await.unwrap();
        held.push(client);
    }
    for _ in 0..10 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        assert!(soon(client.read_u8()).await.is_err());
    }
    assert_eq!(server.service.stats().source_refused, 10);
    held.pop();
    while server.service.stats().active > 1 {
        tokio::task::yield_now().await;
    }
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(b"x").await.unwrap();
    soon(client.read_u8()).await.unwrap();
}

/// A sender that never pauses: the last pass takes at most 1 MiB, then comes the end.
#[tokio::test]
async fn a_drain_is_not_held_up_by_a_sender_that_never_pauses() {
    for mode in [Mode::Raw, Mode::Framed] {
        let limits = Limits { linger: Duration::from_secs(2), ..Limits::default() };
        let (server, addr) = on_tcp(limits, Echo::new(mode));
        let mut client = blocking_client(addr);
        let mut flood = client.try_clone().unwrap();
        let flood = std::thread::spawn(move || {
            let frame = echo(&[5; 10_000]);
            while flood.write_all(&frame).is_ok() {}
        });
        let reader = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            // Past the linger it is reset, and what had been read stands.
            let _ = client.read_to_end(&mut all);
            all
        });
        while server.service.stats().bytes_out < 4 << 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.drain(PATIENCE);
        let report = soon(server.ended()).await;
        assert_eq!(buckets(report.drained), [0, 0, 1, 0, 0], "it went on sending past our FIN");
        assert!(report.took < PATIENCE / 2, "{report:?}");
        let got = soon(reader).await.unwrap();
        flood.join().unwrap();
        if mode == Mode::Framed {
            assert!(got.starts_with(&echo(&[5; 10_000])));
        }
    }
}

/// Drains at random moments under load: each client gets a prefix of its answer, and GOAWAY's count
/// is exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_at_any_moment_loses_nothing() {
    let seed = seed();
    let _replay = Replay(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..cases(40, 2000) {
        let (server, addr) = on_tcp(Limits::default(), Echo::new(Mode::Auto));
        let clients: Vec<_> =
            (0..16).map(|_| tokio::spawn(numbered(addr, rng.usize(1..40_000)))).collect();
        let pause = rng.u64(0..8000);
        tokio::time::sleep(Duration::from_micros(pause)).await;
        server.drain(PATIENCE);
        for client in clients {
            soon(client).await.unwrap();
        }
        let report = soon(server.ended()).await;
        assert_eq!(report.drained.total(), report.drained.completed + report.drained.failed);
        assert_eq!(report.drained.panicked, 0);
    }
}

/// Sends numbered frames until the server stops, and checks all that it answered.
async fn numbered(addr: SocketAddr, len: usize) {
    let Ok(stream) = TcpStream::connect(addr).await else { return };
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        if writer.write_all(&hello()).await.is_err() {
            return;
        }
        for number in 0..500_000_u32 {
            let mut payload = vec![number as u8; len];
            payload.extend(number.to_be_bytes());
            if writer.write_all(&echo(&payload)).await.is_err() {
                return;
            }
        }
    });
    let mut got = Vec::new();
    // A connect that met the closing listener is reset with nothing read.
    let clean = reader.read_to_end(&mut got).await.is_ok();
    writing.abort();
    if !clean {
        assert!(got.is_empty(), "cut after {} bytes", got.len());
        return;
    }
    let frames = frames(&got);
    if frames.is_empty() {
        return;
    }
    let (last, echoes) = frames.split_last().unwrap();
    assert_eq!(frame_bytes(last), goaway(Reason::Drain, echoes.len() as u64));
    for (number, (_, payload)) in echoes.iter().skip(1).enumerate() {
        let number = number as u32;
        assert!(payload.ends_with(&number.to_be_bytes()) && payload.len() == len + 4);
        assert!(payload[..len].iter().all(|&byte| byte == number as u8));
    }
}

fn frame_bytes((kind, payload): &(echo_core::Kind, Vec<u8>)) -> Vec<u8> {
    support::frame(*kind, payload)
}

/// Echoes, but reads nothing before the drain has reached its connection.
struct Late;

impl Handler for Late {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        while !connection.is_draining() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Echo::new(Mode::Raw).run(connection).await
    }
}

/// A drain answers of what has arrived at most 1 MiB, and counts where there is more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_pass_that_is_full_is_counted() {
    const LAST_PASS: usize = 1 << 20;
    let listening = StdListener::bind("127.0.0.1:0").unwrap();
    // Connections have the sizes of their listener. More than the system allows everybody takes a right.
    if set_socket_recv_buffer_size_force(&listening, 16 << 20).is_err() {
        println!("SKIPPED a_last_pass_that_is_full_is_counted: the right to enlarge buffers");
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI has it");
        return;
    }
    let addr = listening.local_addr().unwrap();
    for sent in [LAST_PASS, LAST_PASS + (64 << 10)] {
        let listener =
            Listener::inherited(listening.try_clone().unwrap().into(), &SocketOptions::default());
        let service = Service::default();
        let running = Running::start(listener.unwrap(), &service, Late);
        let mut client = blocking_client(addr);
        let mut sender = client.try_clone().unwrap();
        let sending = tokio::task::spawn_blocking(move || sender.write_all(&vec![7; sent]));
        soon(sending).await.unwrap().unwrap();
        while unacknowledged(&client) > 0 || service.stats().active == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        running.drain(PATIENCE);
        let answered = tokio::task::spawn_blocking(move || {
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer);
            answer.len()
        });
        assert_eq!(soon(answered).await.unwrap(), LAST_PASS);
        assert_eq!(service.stats().last_pass_full, u64::from(sent > LAST_PASS));
        running.ended().await;
    }
}

/// Bytes that the peer's side has not confirmed.
fn unacknowledged(stream: &StdStream) -> u64 {
    let local = format!(":{:04X}", stream.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line[1].ends_with(&local)).expect("it is open");
    u64::from_str_radix(line[4].split(':').next().unwrap(), 16).unwrap()
}

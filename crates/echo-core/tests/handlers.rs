//! Handlers of one's own: whole frames with `recv` and `send`, and an extension of the echo.

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

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use echo_core::{
    Connection, Echo, Error, Extension, Features, Handler, Header, HelloReply, Kind, Limits,
    MAX_PAYLOAD_LEN, Mode, Reason,
};
use support::{
    PATIENCE, buckets, echo, expect, frame, frames, goaway, header, hello, in_memory, on_tcp,
    read_all, settle, soon,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The ten lines.
struct Frames;

impl Handler for Frames {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        while let Some(payload) = connection.recv().await? {
            connection.send(&payload).await?;
        }
        Ok(())
    }
}

/// Drops every `recv` that waits, again and again.
struct Impatient(Arc<AtomicUsize>);

impl Handler for Impatient {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                received = connection.recv() => match received? {
                    Some(payload) => connection.send(&payload).await?,
                    None => return Ok(()),
                },
                () = tokio::task::yield_now() => {
                    self.0.fetch_add(1, SeqCst);
                }
            }
        }
    }
}

/// Every kind of frame that a handler with `recv` can meet, and what it is answered.
fn conversation() -> (Vec<u8>, Vec<Kind>) {
    let sent = [
        echo(b"one"),
        echo(b""),
        hello(),
        frame(Kind::ECHO, &[7; 70]),
        frame(Kind::HELLO, &[0, 1, 0, 0, 0, 0]),
        frame(Kind::PROBE, &[1; 32]),
        frame(Kind::PROBE, &[2; 50]),
        frame(Kind::PROBE, &[3; 5]),
        frame(Kind::PROBE, &[3; 90]),
        frame(Kind::HELLO, &[0; 3]),
        echo(b"last"),
    ];
    let (echo, hello, error, probe) = (Kind::ECHO, Kind::HELLO, Kind::ERROR, Kind::PROBE);
    let kinds = [echo, echo, hello, error, hello, probe, probe, error, error, error, echo];
    (sent.concat(), kinds.to_vec())
}

fn small() -> Limits {
    Limits { max_frame: 60, ..Limits::default() }
}

/// Fault 8, and `recv` is cancel safe at every byte of every frame.
#[tokio::test]
async fn recv_can_be_dropped_at_every_byte() {
    let (sent, kinds) = conversation();
    for piece in [1, 2, 3, 5, 7, sent.len()] {
        let cancelled = Arc::new(AtomicUsize::new(0));
        let (server, connector) = in_memory(small(), Impatient(cancelled.clone()));
        let mut client = connector.connect().await.unwrap();
        for piece in sent.chunks(piece) {
            client.write_all(piece).await.unwrap();
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
        client.shutdown().await.unwrap();
        let got = frames(&soon(read_all(&mut client)).await);
        assert_eq!(got.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), kinds);
        assert_eq!((&got[0].1[..], &got[10].1[..]), (&b"one"[..], &b"last"[..]));
        assert_eq!(got[6].1[25..], [2; 25], "the rest of a probe comes back as it was");
        assert!(cancelled.load(SeqCst) >= sent.len() / piece);
        assert_eq!(buckets(soon(server.stop(PATIENCE)).await.drained), [0; 5]);
    }
}

#[tokio::test]
async fn a_handler_with_recv_speaks_the_protocol_at_every_split() {
    let (sent, kinds) = conversation();
    let (_server, connector) = in_memory(small(), Frames);
    for at in 0..sent.len() {
        let mut client = connector.connect().await.unwrap();
        client.write_all(&sent[..at]).await.unwrap();
        settle().await;
        client.write_all(&sent[at..]).await.unwrap();
        client.shutdown().await.unwrap();
        let got = frames(&soon(read_all(&mut client)).await);
        assert_eq!(got.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), kinds, "at {at}");
    }
}

#[tokio::test]
async fn a_burst_is_answered_before_recv_waits() {
    let (server, connector) = in_memory(Limits::default(), Frames);
    let mut client = connector.connect().await.unwrap();
    let burst = [hello(), echo(b"request").repeat(5000)].concat();
    client.write_all(&burst).await.unwrap();
    let mut got = vec![0; burst.len() + 12];
    soon(client.read_exact(&mut got)).await.unwrap();
    assert!(got[16..] == burst[4..]);
    server.drain(PATIENCE);
    assert_eq!(soon(read_all(&mut client)).await, goaway(Reason::Drain, 5001));
}

/// Fault 27: frames of 1 MiB, and of the most that a header can declare.
#[tokio::test]
async fn the_longest_frames_through_recv() {
    let limits = Limits { max_frame: MAX_PAYLOAD_LEN, ..Limits::default() };
    let (_server, connector) = in_memory(limits, Frames);
    let mut client = connector.connect().await.unwrap();
    for len in [1 << 20, MAX_PAYLOAD_LEN as usize] {
        let sent = echo(&vec![len as u8 | 1; len]);
        let (mut reader, mut writer) = tokio::io::split(&mut client);
        let mut got = vec![0; sent.len()];
        let (wrote, read) =
            soon(async { tokio::join!(writer.write_all(&sent), reader.read_exact(&mut got)) })
                .await;
        wrote.unwrap();
        read.unwrap();
        assert!(got == sent);
    }
}

/// Sends without waiting for the peer to read, and drops every send that waits.
struct Hasty;

impl Handler for Hasty {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        for index in 0..10u8 {
            let payload = [index; 60_000];
            tokio::select! {
                biased;
                sent = connection.send(&payload) => sent?,
                () = tokio::task::yield_now() => {}
            }
        }
        Ok(())
    }
}

/// What is promised of `send`: dropped while it waits, it has queued its frame whole.
#[tokio::test]
async fn a_dropped_send_neither_tears_nor_drops_its_frame() {
    let (_server, connector) = in_memory(Limits::default(), Hasty);
    let mut client = connector.connect().await.unwrap();
    settle().await;
    let got = frames(&soon(read_all(&mut client)).await);
    let all: Vec<u8> = got.iter().map(|(_, payload)| payload[0]).collect();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_payload_over_the_header_is_refused_before_it_is_queued() {
    struct TooMuch;
    impl Handler for TooMuch {
        async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
            let error = connection.send(&vec![0; MAX_PAYLOAD_LEN as usize + 1]).await.unwrap_err();
            assert!(matches!(error, Error::FrameTooLong { max: MAX_PAYLOAD_LEN, .. }));
            connection.send(b"fine").await
        }
    }
    let (_server, connector) = in_memory(Limits::default(), TooMuch);
    let mut client = connector.connect().await.unwrap();
    assert_eq!(soon(read_all(&mut client)).await, echo(b"fine"));
}

/// Returns after the first frame, whatever else has been sent.
struct Early;

impl Handler for Early {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.recv().await?;
        connection.send(&[9; 200_000]).await
    }
}

/// Fault 1: a plain close with unread input cut 300 of 300 replies.
#[tokio::test]
async fn an_early_return_cuts_no_reply() {
    let (_server, addr) = on_tcp(Limits::default(), Early);
    let expected = echo(&[9; 200_000]);
    for _ in 0..support::cases(300, 10_000) {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(&[echo(b"go"), vec![0; 100_000]].concat()).await.unwrap();
        let mut got = Vec::new();
        soon(client.read_to_end(&mut got)).await.unwrap();
        assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    }
}

/// A handler's own failure, an I/O error of a file say, is not the connection's: what it sent comes.
#[tokio::test]
async fn a_failing_handler_cuts_no_reply() {
    struct Failing;
    impl Handler for Failing {
        async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
            connection.recv().await?;
            connection.send(b"so far").await?;
            Err(std::io::Error::other("no such file").into())
        }
    }
    let (server, connector) = in_memory(Limits::default(), Failing);
    let mut client = connector.connect().await.unwrap();
    client.write_all(&echo(b"please")).await.unwrap();
    assert_eq!(read_all(&mut client).await, echo(b"so far"));
    drop(client);
    let report = server.stop(PATIENCE).await;
    assert_eq!(report.accepted, 1);
}

#[tokio::test]
async fn the_greeting_is_a_line_in_raw_mode_and_part_of_the_answer_to_hello() {
    let (_server, connector) =
        in_memory(Limits::default(), Echo::new(Mode::Raw).greeting("welcome"));
    let mut client = connector.connect().await.unwrap();
    expect(&mut client, b"welcome\n").await;
    client.write_all(b"hi").await.unwrap();
    expect(&mut client, b"hi").await;

    let (_server, connector) =
        in_memory(Limits::default(), Echo::new(Mode::Auto).greeting("welcome"));
    let mut client = connector.connect().await.unwrap();
    client.write_all(&[hello(), echo(b"hi")].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    let got = frames(&read_all(&mut client).await);
    let reply = HelloReply::parse(&got[0].1).unwrap();
    assert_eq!((&*reply.greeting, reply.max_frame), ("welcome", 1 << 20));
    let mut raw = connector.connect().await.unwrap();
    raw.write_all(b"hi").await.unwrap();
    raw.shutdown().await.unwrap();
    assert_eq!(read_all(&mut raw).await, b"hi", "in auto mode every byte sent comes back first");
}

/// An example of an extension: AUTH names the user, a file frame comes back as a stream, but only
/// for one who has a name.
#[derive(Default)]
struct Files {
    largest_chunk: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Session {
    user: Option<Bytes>,
}

const FILE: Kind = Kind(0x90);
/// The same, read into a block.
const BLOCKS: Kind = Kind(0x92);
/// Asks for more than it reads.
const PEEK: Kind = Kind(0x91);

impl Extension for Files {
    type Session = Session;

    fn features(&self) -> Features {
        Features::AUTH.with(Features::FILES)
    }

    async fn frame(
        &self,
        session: &mut Session,
        header: Header,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        match (header.kind, &session.user) {
            (Kind::AUTH, _) => {
                session.user = connection.chunk().await?;
                connection.send_frame(Kind::AUTH, b"welcome").await
            }
            (PEEK, Some(user)) => {
                let user = user.clone();
                connection.chunk().await?;
                connection.send_frame(PEEK, &user).await
            }
            (BLOCKS, Some(_)) => {
                connection.send_header(header).await?;
                let mut block = vec![0; 100_000];
                loop {
                    let len = connection.read_payload(&mut block).await?;
                    if len == 0 {
                        assert_eq!(connection.read_payload(&mut block).await?, 0);
                        return Ok(());
                    }
                    connection.send_chunk(&block[..len]).await?;
                }
            }
            (kind, Some(_)) => {
                connection.send_header(Header { kind, ..header }).await?;
                while let Some(chunk) = connection.chunk().await? {
                    self.largest_chunk.fetch_max(chunk.len(), SeqCst);
                    connection.send_chunk(&chunk).await?;
                }
                Ok(())
            }
            (kind, None) => connection.send_frame(kind, b"").await,
        }
    }
}

#[tokio::test]
async fn an_extension() {
    let largest_chunk = Arc::new(AtomicUsize::new(0));
    let files = Files { largest_chunk: largest_chunk.clone() };
    let echo_files = Echo::new(Mode::Framed).extended(files);
    let (server, connector) = in_memory(Limits { max_frame: 100, ..small() }, echo_files);
    let mut client = connector.connect().await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let file = vec![5; 3 << 20];
    let write = async {
        for piece in [
            hello(),
            frame(FILE, b"without a name"),
            frame(Kind::AUTH, b"alice"),
            frame(FILE, &file),
            frame(PEEK, &[0; 300_000]),
            frame(FILE, b""),
            frame(BLOCKS, &file),
            frame(BLOCKS, b""),
            frame(BLOCKS, b"short"),
            echo(b"between"),
        ] {
            writer.write_all(&piece).await.unwrap();
        }
    };
    let mut got = vec![0; 16 + 4 + 11 + 2 * (4 + file.len()) + 4 + 5 + 4 + 4 + 9 + 11];
    let (_, read) = soon(async { tokio::join!(write, reader.read_exact(&mut got)) }).await;
    read.unwrap();
    let got = frames(&got);
    let features = HelloReply::parse(&got[0].1).unwrap().features;
    assert_eq!(features, Features::PROBE.with(Features::AUTH).with(Features::FILES));
    assert_eq!(got[1], (FILE, vec![]));
    assert_eq!(got[2], (Kind::AUTH, b"welcome".to_vec()));
    assert!(got[3].0 == FILE && got[3].1 == file);
    assert_eq!(
        got[4..],
        [
            (PEEK, b"alice".to_vec()),
            (FILE, vec![]),
            (BLOCKS, file),
            (BLOCKS, vec![]),
            (BLOCKS, b"short".to_vec()),
            (Kind::ECHO, b"between".to_vec())
        ]
    );
    assert!(largest_chunk.load(SeqCst) <= 64 << 10, "it streams");
    server.drain(PATIENCE);
    assert_eq!(soon(read_all(&mut client)).await, goaway(Reason::Drain, 10));
}

/// A server's own frame goes out only between frames, also when an extension is cut inside one.
#[tokio::test(start_paused = true)]
async fn no_goaway_inside_an_extensions_frame() {
    let echo_files = Echo::new(Mode::Framed).extended(Files::default());
    let (server, connector) = in_memory(Limits::default(), echo_files);
    let mut client = connector.connect().await.unwrap();
    let begun = [header(FILE, 100), vec![5; 10]].concat();
    client.write_all(&[hello(), frame(Kind::AUTH, b"bob"), begun].concat()).await.unwrap();
    let got = read_all(&mut client).await;
    let file = [header(FILE, 100), vec![5; 10]].concat();
    assert!(got.ends_with(&file), "after the file's part: {:02x?}", &got[16 + 11..]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(buckets(server.service.stats().ended), [0, 0, 0, 1, 0]);
}

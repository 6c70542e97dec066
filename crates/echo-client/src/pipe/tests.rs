use std::num::NonZeroU32;

use tokio::io::{DuplexStream, duplex, split};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

/// A pipe over memory: the producer's, the consumer's and the server's ends.
struct Ends {
    stdin: mpsc::Sender<io::Result<Bytes>>,
    stdout: mpsc::Receiver<Bytes>,
    server: DuplexStream,
    pipe: JoinSet<Result<(), Failure>>,
}

fn start(dialect: Dialect, depth: usize) -> Ends {
    let (client, server) = duplex(1000);
    let (stdin, mut input) = mpsc::channel(8);
    let (output, stdout) = mpsc::channel(depth);
    let mut pipe = JoinSet::new();
    pipe.spawn(async move {
        let (mut reader, mut writer) = split(client);
        run((&mut reader, &mut writer), dialect, &mut input, &output, LIMIT).await
    });
    Ends { stdin, stdout, server, pipe }
}

impl Ends {
    async fn say(&self, bytes: &'static [u8]) {
        self.stdin.send(Ok(Bytes::from_static(bytes))).await.unwrap();
    }

    /// The server reads `bytes` and answers them.
    async fn echo(&mut self, bytes: &[u8]) {
        let mut came = vec![0; bytes.len()];
        self.server.read_exact(&mut came).await.unwrap();
        assert_eq!(came, bytes);
        self.server.write_all(bytes).await.unwrap();
    }

    async fn outcome(&mut self) -> Result<(), String> {
        self.pipe.join_next().await.unwrap().unwrap().map_err(|failure| failure.to_string())
    }
}

/// Hours of idling between two lines are nobody's fault.
#[tokio::test(start_paused = true)]
async fn only_what_is_due_counts_as_silence() {
    let mut ends = start(Dialect::Raw, 8);
    for _ in 0..3 {
        sleep(LIMIT * 100).await;
        ends.say(b"line").await;
        sleep(LIMIT - Duration::from_millis(2)).await;
        ends.echo(b"line").await;
        assert_eq!(ends.stdout.recv().await.unwrap(), "line");
    }
    let Ends { stdin, stdout, mut server, mut pipe } = ends;
    drop(stdin);
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    drop(server);
    assert_eq!(pipe.join_next().await.unwrap().unwrap(), Ok(()));
    drop(stdout);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_its_limit() {
    let mut ends = start(Dialect::Raw, 8);
    sleep(LIMIT / 2).await;
    ends.say(b"line").await;
    let begin = Instant::now();
    // Each byte that comes starts the silence anew; a question does not.
    for byte in *b"li" {
        sleep(LIMIT - Duration::from_millis(2)).await;
        ends.server.write_all(&[byte]).await.unwrap();
        ends.say(b"more").await;
    }
    let outcome = ends.outcome().await;
    assert_eq!(outcome, Err("timed out: nothing came for 30s: 10 bytes unanswered".to_owned()));
    let took = begin.elapsed();
    assert!(took > LIMIT * 2 && took < LIMIT * 3 + Duration::from_millis(10), "{took:?}");
}

/// Hours of a consumer that takes nothing are not the server's silence.
#[tokio::test(start_paused = true)]
async fn a_slow_consumer_is_no_silence() {
    let mut ends = start(Dialect::Raw, 1);
    for line in [b"one", b"two", b"six"] {
        ends.say(line).await;
        ends.echo(line).await;
        sleep(LIMIT / 2).await;
    }
    sleep(LIMIT * 100).await;
    // What came while there was no room waits in the socket, together.
    for line in ["one", "twosix"] {
        assert_eq!(ends.stdout.recv().await.unwrap(), line);
        sleep(LIMIT * 100).await;
    }
}

/// The server's end may be seen before that of stdin, which is there already.
#[tokio::test(start_paused = true)]
async fn an_end_of_stdin_that_is_not_yet_seen_counts() {
    for goaway in [false, true] {
        let dialect = Dialect::Framed { max_frame: NonZeroU32::MAX };
        let mut ends = start(dialect, 8);
        ends.say(b"line").await;
        ends.echo(b"\0\0\0\x04line").await;
        assert_eq!(ends.stdout.recv().await.unwrap(), "line");
        // Nothing runs in between: both are there when the pipe looks.
        if goaway {
            let frame = b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\x02";
            ends.server.write_all(frame).await.unwrap();
        }
        let Ends { stdin, stdout, server, mut pipe } = ends;
        drop((server, stdin));
        assert_eq!(pipe.join_next().await.unwrap().unwrap(), Ok(()), "goaway: {goaway}");
        drop(stdout);
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_inside_a_frame_is_told() {
    let mut ends = start(Dialect::Framed { max_frame: NonZeroU32::MAX }, 8);
    ends.say(b"line").await;
    let mut frame = [0; 8];
    ends.server.read_exact(&mut frame).await.unwrap();
    ends.server.write_all(&frame[..6]).await.unwrap();
    ends.server.shutdown().await.unwrap();
    let told = "closed early: the server ended the stream inside a frame: 2 bytes unanswered";
    assert_eq!(ends.outcome().await, Err(told.to_owned()));
    assert_eq!(ends.stdout.recv().await.unwrap(), "li");
}

/// What the server sent before it stopped reading is taken, and says why.
#[tokio::test(start_paused = true)]
async fn a_broken_write_is_no_end_of_reading() {
    /// Reads on, but takes nothing.
    struct Broken;
    impl AsyncWrite for Broken {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::task::Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_shutdown(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
    }
    let dialect = Dialect::Framed { max_frame: NonZeroU32::MAX };
    for (answer, told) in [
        (&b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\x01"[..], "the server drains: 0 of 1 frames answered"),
        (b"", "broken pipe: 4 bytes unanswered"),
    ] {
        let (stdin, mut input) = mpsc::channel(8);
        let (output, _stdout) = mpsc::channel(8);
        stdin.send(Ok(Bytes::from_static(b"line"))).await.unwrap();
        let (mut server, mut reader) = duplex(1000);
        let mut writer = Broken;
        let server = async move {
            sleep(Duration::from_secs(1)).await;
            server.write_all(answer).await.unwrap();
        };
        let pipe = run((&mut reader, &mut writer), dialect, &mut input, &output, LIMIT);
        let (outcome, ()) = tokio::join!(pipe, server);
        assert_eq!(outcome, Err(Failure::ClosedEarly(told.to_owned())));
    }
}

/// A consumer that leaves ends the pipe, though nobody says anything.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_leaves_ends_it() {
    let mut ends = start(Dialect::Raw, 8);
    ends.stdout.close();
    assert_eq!(ends.outcome().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_stdin_is_told() {
    let mut ends = start(Dialect::Raw, 8);
    ends.stdin.send(Err(io::Error::from_raw_os_error(5))).await.unwrap();
    assert_eq!(ends.outcome().await, Err("cannot read stdin: Input/output error".to_owned()));
}

use std::sync::Arc;

use echo_core::client::ClosedEarly;
use echo_core::{Connection, Drain, Echo, Handler, Limits, Listener, Mode, Service};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::stdio::CHUNK;

const LIMIT: Duration = Duration::from_secs(30);

/// A pipe over memory: the producer's and the consumer's ends, and the server's drain.
struct Ends {
    stdin: mpsc::Sender<io::Result<Bytes>>,
    stdout: mpsc::Receiver<Bytes>,
    drain: Drain,
    tasks: JoinSet<Option<Result<(), String>>>,
}

/// Starts one whose output holds `depth` chunks.
async fn start(handler: impl Handler, depth: usize) -> Ends {
    let (listener, connector) = Listener::memory();
    let drain = Drain::new();
    // A server with as much patience as a consumer may need.
    let patience = Duration::from_hours(10_000);
    let limits = Limits {
        idle_timeout: patience,
        frame_timeout: patience,
        write_timeout: patience,
        ..Limits::default()
    };
    let service = Service::new(limits, drain.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        echo_core::serve(listener, service, Arc::new(handler)).await.unwrap();
        None
    });
    let (stdin, mut input) = mpsc::channel(8);
    let (output, stdout) = mpsc::channel(depth);
    let options = Options { timeout: LIMIT, ..Options::default() };
    let mut progress = Progress::new(true, true);
    let stream = Stream::open(connector, options, &mut progress).await.unwrap();
    tasks.spawn(async move {
        let mut pipe = Pipe::new(stream, progress);
        Some(pipe.run(&mut input, &output).await.map_err(|failure| failure.to_string()))
    });
    Ends { stdin, stdout, drain, tasks }
}

impl Ends {
    async fn say(&self, bytes: &'static [u8]) {
        self.stdin.send(Ok(Bytes::from_static(bytes))).await.unwrap();
    }

    /// What became of the pipe.
    async fn outcome(tasks: &mut JoinSet<Option<Result<(), String>>>) -> Result<(), String> {
        loop {
            if let Some(outcome) = tasks.join_next().await.unwrap().unwrap() {
                return outcome;
            }
        }
    }
}

/// The server's end may be seen before that of stdin, which is there already.
#[tokio::test(start_paused = true)]
async fn an_end_of_stdin_that_is_not_yet_seen_counts() {
    for _ in 0..50 {
        let mut ends = start(Echo::new(Mode::Auto), 8).await;
        ends.say(b"line").await;
        assert_eq!(ends.stdout.recv().await.unwrap(), "line");
        // Nothing runs in between: both are there when the pipe looks.
        ends.drain.start(LIMIT);
        let Ends { stdin, stdout, mut tasks, .. } = ends;
        drop(stdin);
        assert_eq!(Ends::outcome(&mut tasks).await, Ok(()));
        drop(stdout);
    }
}

/// The same of a server that did not end its side but was cut off: whenever the end of stdin is seen, it
/// is a failure.
#[tokio::test(start_paused = true)]
async fn a_reset_behind_the_last_answer_is_no_end() {
    for orderly in [true, false] {
        let (_listener, connector) = Listener::memory();
        let stream = Stream::new(connector, Options::default());
        let mut pipe = Pipe::new(stream, Progress::new(true, true));
        let (stdin, mut input) = mpsc::channel(8);
        drop(stdin);
        let how = "Connection reset by peer".to_owned();
        let early = ClosedEarly {
            how,
            orderly,
            asked: 1,
            answered: 1,
            bytes_answered: 4,
            ..ClosedEarly::default()
        };
        let over = pipe.over(Error::ClosedEarly(early.into()), &mut input);
        let told = "closed early: Connection reset by peer, all 4 bytes answered".to_owned();
        let expected = if orderly { Ok(()) } else { Err(told) };
        assert_eq!(over.map_err(|failure| failure.to_string()), expected);
    }
}

/// What stdin had to say when the server's end was seen is unanswered.
#[tokio::test(start_paused = true)]
async fn input_that_nobody_takes_is_unanswered() {
    /// Takes one message and is gone.
    struct One;
    impl Handler for One {
        async fn run(&self, connection: &mut Connection) -> Result<(), echo_core::Error> {
            if let Some(message) = connection.recv().await? {
                connection.send(&message).await?;
            }
            Ok(())
        }
    }
    let mut ends = start(One, 8).await;
    ends.say(b"line").await;
    assert_eq!(ends.stdout.recv().await.unwrap(), "line");
    let told = Ends::outcome(&mut ends.tasks).await.unwrap_err();
    let open =
        "closed early: the server ended the stream while stdin was open, all 4 bytes answered";
    // It may have been seen before or behind the GOAWAY that a handler's end brings.
    assert!(told == open || told.ends_with("stdin was still open"), "{told}");
    let mut ends = start(One, 8).await;
    ends.say(b"line").await;
    ends.say(b"more").await;
    assert_eq!(ends.stdout.recv().await.unwrap(), "line");
    let told = Ends::outcome(&mut ends.tasks).await.unwrap_err();
    assert!(told.starts_with("closed early: ") && !told.contains("stdin"), "{told}");
}

/// Hours of a consumer that takes nothing are not the server's silence, and what is under way
/// meanwhile is bounded.
#[tokio::test(start_paused = true)]
async fn a_slow_consumer_is_waited_for() {
    let mut ends = start(Echo::new(Mode::Auto), 1).await;
    let chunk = Bytes::from(vec![7; CHUNK]);
    let mut said = 0;
    while let Ok(Ok(())) =
        tokio::time::timeout_at(Instant::now() + LIMIT * 100, ends.stdin.send(Ok(chunk.clone())))
            .await
    {
        said += CHUNK;
    }
    assert!(said > CHUNK * 8 && said < 16 << 20, "{said}");
    let mut came = 0;
    while came < said {
        came += ends.stdout.recv().await.unwrap().len();
        if came % 11 == 0 {
            sleep(LIMIT * 100).await;
        }
    }
    let Ends { stdin, stdout, mut tasks, .. } = ends;
    drop(stdin);
    assert_eq!(Ends::outcome(&mut tasks).await, Ok(()));
    drop(stdout);
}

/// A consumer that leaves ends the pipe, though nobody says anything.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_leaves_ends_it() {
    let mut ends = start(Echo::new(Mode::Auto), 8).await;
    ends.stdout.close();
    assert_eq!(Ends::outcome(&mut ends.tasks).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_stdin_is_told() {
    let mut ends = start(Echo::new(Mode::Auto), 8).await;
    ends.stdin.send(Err(io::Error::from_raw_os_error(5))).await.unwrap();
    let told = "cannot read stdin: Input/output error".to_owned();
    assert_eq!(Ends::outcome(&mut ends.tasks).await, Err(told));
}

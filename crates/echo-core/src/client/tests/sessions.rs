//! Random sessions with our own server, over connections that break anywhere: each reply comes once
//! and in order.

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::copy_bidirectional;

use super::*;

/// What only the caller can mend is not tried again.
#[tokio::test(start_paused = true)]
async fn an_endpoint_of_another_kind_is_the_callers_fault() {
    for (endpoint, told) in [
        ("udp://127.0.0.1:7", "unsupported: udp://127.0.0.1:7: datagrams are for a DatagramClient"),
        ("unixgram:/x", "unsupported: unixgram:/x: datagrams are for a DatagramClient"),
        ("systemd:x", "unsupported: systemd:x: sockets of the service manager are for listeners"),
    ] {
        let endpoint: Endpoint = endpoint.parse().unwrap();
        let mut client = Client::new(endpoint, retrying(30));
        let error = client.next().await.unwrap_err();
        assert_eq!((error.to_string(), error.fault()), (told.to_owned(), Fault::Caller));
    }
}

/// A text that tells the source names no source, or whoever prints both says it twice.
#[test]
fn a_cause_is_told_once() {
    let errors = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NetworkUnreachable]
        .map(|kind| Error::connecting("x:1", kind.into()));
    for error in errors.into_iter().chain([Error::Unresolved(io::Error::other("no such name"))]) {
        assert!(std::error::Error::source(&error).is_none(), "{error:?}");
    }
}

/// What was not sent was not always asked wrongly.
#[test]
fn a_message_that_was_not_sent_has_its_own_fault() {
    let waited = Duration::from_secs(1);
    assert_eq!(Error::from(PushError::Blocked { waited }).fault(), Fault::Path);
    assert_eq!(Error::from(PushError::NoMemory).fault(), Fault::Path);
    assert_eq!(Error::from(PushError::Full).fault(), Fault::Caller);
}

/// A path that passes so many bytes up and down, in random pieces, and breaks then.
async fn break_somewhere(
    mut near: DuplexStream,
    mut far: DuplexStream,
    (mut up, mut down): (usize, usize),
    mut random: fastrand::Rng,
) {
    let (mut here, mut there) = (vec![0; 3000], vec![0; 3000]);
    let mut open = true;
    while up > 0 && down > 0 {
        let most = random.usize(1..=3000);
        tokio::task::yield_now().await;
        tokio::select! {
            read = near.read(&mut here[..most.min(up)]), if open => match read {
                Ok(0) => {
                    open = false;
                    far.shutdown().await.unwrap();
                }
                Ok(len) if far.write_all(&here[..len]).await.is_ok() => up -= len,
                _ => return,
            },
            read = far.read(&mut there[..most.min(down)]) => match read {
                Ok(len @ 1..) if near.write_all(&there[..len]).await.is_ok() => down -= len,
                _ => return,
            },
        }
    }
}

/// A session: how long its messages are and which of them are PROBEs; where each of its connections
/// breaks, but the last.
#[derive(Clone, Debug)]
struct Script {
    window: usize,
    parts: bool,
    messages: Vec<(usize, bool)>,
    breaks: Vec<(usize, usize)>,
    seed: u64,
}

fn script() -> impl Strategy<Value = Script> {
    let message = (0..2000_usize, proptest::bool::weighted(0.1));
    let place = (0..40_000_usize, 0..40_000_usize);
    let parts = (1..60_000_usize, any::<bool>(), vec(message, 1..300), vec(place, 0..30));
    (parts, any::<u64>()).prop_map(|((window, parts, messages, breaks), seed)| Script {
        window,
        parts,
        messages,
        breaks,
        seed,
    })
}

async fn session(script: &Script) {
    let mut random = fastrand::Rng::with_seed(script.seed);
    let (backend, drain, _server) = serve(Mode::Auto);
    let (mut front, connector) = scripted();
    let mut paths = JoinSet::new();
    let mut path_seed = random.fork();
    let mut breaks = script.breaks.iter();
    let relay = async move {
        loop {
            let near = front.accept().await;
            let Ok(far) = backend.connect().await else { return };
            let passes = breaks.next().copied().unwrap_or((usize::MAX, usize::MAX));
            paths.spawn(break_somewhere(near, far, passes, path_seed.fork()));
        }
    };
    let exchange = async {
        let options = Options { window: script.window, parts: script.parts, ..retrying(600) };
        let mut client = Client::connect(connector, options).await.unwrap();
        let (mut due, mut asked) = (std::collections::VecDeque::new(), 0);
        let mut parts = Vec::new();
        loop {
            while let Some(&(len, probe)) = script.messages.get(asked)
                && (client.room() > 2032 || client.unanswered() == 0)
            {
                let payload: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
                let pushed =
                    if probe { client.push_probe(&payload) } else { client.push(&payload) };
                assert_eq!(pushed, Ok(asked as u64));
                due.push_back((payload, probe));
                asked += 1;
            }
            if asked == script.messages.len() {
                client.finish();
            }
            match client.next().await.unwrap() {
                Some(Event::Reply(reply)) => {
                    let (payload, probe) = due.pop_front().unwrap();
                    assert_eq!(reply.seq, (asked - 1 - due.len()) as u64);
                    assert_eq!((reply.payload, reply.stamps.is_some()), (&payload[..], probe));
                    parts.extend_from_slice(reply.fresh);
                    assert!(parts == payload);
                    parts.clear();
                }
                Some(Event::Part(part)) => parts.extend_from_slice(part),
                Some(event @ (Event::Refused(_) | Event::Unexpected(_))) => {
                    panic!("{}", told(Some(event)))
                }
                Some(_) => {}
                None => break,
            }
        }
        assert!(due.is_empty() && asked == script.messages.len());
    };
    tokio::select! {
        () = exchange => {}
        () = relay => unreachable!(),
    }
    drain.start(Duration::from_secs(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 3000 } else { 60 }))]

    #[test]
    fn replies_come_once_over_paths_that_break(script in script()) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(session(&script));
    }
}

/// A server that drains again and again, each time another one in its place.
#[tokio::test(start_paused = true)]
async fn replies_come_once_over_restarts() {
    let (mut front, connector) = scripted();
    let mut client = std::pin::pin!(Client::connect(connector, retrying(60)));
    let mut random = fastrand::Rng::with_seed(1);
    let restarts = if std::env::var_os("LONG").is_some() { 500 } else { 20 };
    let relay = async {
        for _ in 0..restarts {
            let (backend, drain, mut server) = serve(Mode::Auto);
            let mut near = front.accept().await;
            let mut far = backend.connect().await.unwrap();
            let turns = random.usize(1..300);
            let stop = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                drain.start(Duration::from_secs(30));
            };
            // Ends when both sides have: the server's by its drain, the client's by that.
            let (passed, ()) = tokio::join!(copy_bidirectional(&mut near, &mut far), stop);
            drop((passed, near, far));
            while server.join_next().await.is_some() {}
        }
        loop {
            drop(front.accept().await);
        }
    };
    let exchange = async {
        let mut client = client.as_mut().await.unwrap();
        let (mut seen, mut asked, mut connections) = (0, 0, 1);
        while connections < restarts {
            while client.room() > 4000 {
                client.push(&[asked as u8; 300]).unwrap();
                asked += 1;
            }
            match client.next().await.unwrap().unwrap() {
                Event::Reply(reply) => {
                    assert_eq!((reply.seq, reply.payload), (seen, &[seen as u8; 300][..]));
                    seen += 1;
                }
                Event::Connected { .. } => connections += 1,
                _ => {}
            }
        }
        assert!(seen > restarts as u64);
    };
    tokio::select! {
        () = exchange => {}
        () = relay => unreachable!(),
    }
}

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UdpSocket, UnixDatagram};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::client::Family;
use crate::{DatagramEcho, DatagramOptions, DatagramSocket, Drain, Limits, Mode, Service};

mod loss;

/// A server that a script plays.
struct Server(UdpSocket);

impl Server {
    async fn bind() -> (Self, Endpoint) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("udp://{}", socket.local_addr().unwrap()).parse().unwrap();
        (Self(socket), endpoint)
    }

    /// The next datagram, and who sent it.
    async fn take(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 1 << 16];
        let (len, from) = self.0.recv_from(&mut buffer).await.unwrap();
        buffer.truncate(len);
        (buffer, from)
    }
}

/// What happens, in a word.
async fn told(client: &mut DatagramClient) -> String {
    match client.next().await {
        Ok(Some(event)) => match event {
            DatagramEvent::Reply { reply, overtaken } => {
                let how = if overtaken { "overtaken" } else { "reply" };
                format!("{how} {}", reply.seq)
            }
            DatagramEvent::Lost { seq, .. } => format!("lost {seq}"),
            DatagramEvent::Late { seq, .. } => format!("late {seq}"),
            DatagramEvent::Doubled { seq } => format!("doubled {seq}"),
            DatagramEvent::Stale { seq } => format!("stale {seq}"),
            DatagramEvent::Different { seq, at, bytes, .. } => {
                format!("different {seq} at {at}: {}", bytes.escape_ascii())
            }
            DatagramEvent::Unexpected(bytes) => format!("unexpected {}", bytes.escape_ascii()),
            DatagramEvent::Unsent { seq, why, .. } => format!("unsent {seq}: {why}"),
            DatagramEvent::Opened { .. } => "opened".to_owned(),
        },
        Ok(None) => "end".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A service of ours for datagrams, for as long as the set is kept.
async fn service(endpoint: &str, mode: Mode) -> (JoinSet<()>, Endpoint) {
    let endpoint: Endpoint = endpoint.parse().unwrap();
    let bound = DatagramSocket::bind(&endpoint, &DatagramOptions::default()).await.unwrap();
    let place = Endpoint::with_bound(&endpoint.to_string(), bound[0].local_addr());
    let service = Service::new(Limits::default(), Drain::new());
    let mut tasks = JoinSet::new();
    for socket in bound {
        let echo = Arc::new(DatagramEcho::new(mode));
        let serving = crate::serve_datagrams(socket, service.clone(), echo);
        tasks.spawn(async { _ = serving.await.unwrap() });
    }
    (tasks, place.parse().unwrap())
}

#[tokio::test]
async fn every_length_comes_back() {
    for listen in ["udp://127.0.0.1:0", "udp://[::1]:0"] {
        let (_tasks, endpoint) = service(listen, Mode::Auto).await;
        let mut client = DatagramClient::connect(&endpoint, Options::default()).await.unwrap();
        let max = if listen.contains("::") { 65_527 } else { 65_507 };
        for len in [0, 1, 1400, 2049, max] {
            let message = vec![7; len];
            let reply = client.echo(&message).await.unwrap();
            assert_eq!((reply.payload, reply.stamps), (&message[..], None));
        }
        let error = client.push(&vec![7; max + 1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("too long: {} bytes are over the {max} that fit into a datagram", max + 1)
        );
        let longest = max - PROBE_HEAD;
        assert!(client.push_probe(&vec![7; longest + 1]).is_err());
        let asked = client.push_probe(&vec![7; longest]).unwrap();
        match client.next().await.unwrap() {
            Some(DatagramEvent::Reply { reply, .. }) => {
                assert_eq!((reply.seq, reply.payload.len()), (asked, longest));
                assert!(reply.stamps.unwrap().in_server() <= reply.round_trip());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_a_path_does_is_told_apart() {
    let (server, endpoint) = Server::bind().await;
    let mut client = DatagramClient::connect(&endpoint, Options::default()).await.unwrap();
    for message in [b"zero", b"one.", b"two."] {
        client.push(message).unwrap();
    }
    let script = async {
        let mut came = Vec::new();
        for _ in 0..3 {
            came.push(server.take().await);
        }
        // Not from the address that was asked: never seen.
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(b"zero", came[0].1).await.unwrap();
        for answer in [&b"two."[..], b"two.", b"ze", b"zero", b"onE.", b"one."] {
            server.0.send_to(answer, came[0].1).await.unwrap();
        }
    };
    let judge = async {
        let mut all = Vec::new();
        for _ in 0..6 {
            all.push(told(&mut client).await);
        }
        all
    };
    let ((), all) = tokio::join!(script, judge);
    let expected = [
        "reply 2",
        "doubled 2",
        "different 0 at 2: ze",
        "overtaken 0",
        "different 1 at 2: onE.",
        "overtaken 1",
    ];
    assert_eq!(all, expected);
    client.finish();
    assert_eq!(told(&mut client).await, "end");
    assert_eq!(client.push(b"more"), Err(PushError::Finished));
}

/// The clock stands still, but for waits of everybody's: silence takes no time.
#[tokio::test(start_paused = true)]
async fn what_does_not_come_in_time_is_lost() {
    let (server, endpoint) = Server::bind().await;
    let timeout = Duration::from_secs(2);
    let options = Options { timeout, ..Options::default() };
    let mut client = DatagramClient::connect(&endpoint, options).await.unwrap();
    let began = Instant::now();
    assert_eq!(
        client.echo(b"hello").await.unwrap_err().to_string(),
        "lost: no reply to 5 bytes within 2s"
    );
    // The timer's grain is a millisecond.
    assert!((2000..=2001).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    sleep(Duration::from_secs(1)).await;
    let (came, from) = server.take().await;
    server.0.send_to(&came, from).await.unwrap();
    match client.next().await.unwrap() {
        Some(DatagramEvent::Late { seq: 0, after }) => assert!(after >= timeout, "{after:?}"),
        other => panic!("{other:?}"),
    }
    server.0.send_to(&came, from).await.unwrap();
    assert_eq!(told(&mut client).await, "doubled 0");
    // What waits in the socket is not lost, however late somebody looks.
    client.push(b"again").unwrap();
    tokio::select! {
        biased;
        event = client.next() => panic!("{event:?}"),
        () = std::future::ready(()) => {}
    }
    server.0.send_to(b"again", from).await.unwrap();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(told(&mut client).await, "reply 1");
}

#[tokio::test]
async fn a_closed_port_is_told() {
    let (server, endpoint) = Server::bind().await;
    let mut client = DatagramClient::connect(&endpoint, Options::default()).await.unwrap();
    client.push(b"first").unwrap();
    client.push(b"second").unwrap();
    let script = async {
        let (came, from) = server.take().await;
        server.take().await;
        server.0.send_to(&came, from).await.unwrap();
        drop(server);
        from
    };
    // Sent before the port is closed, answered by it once.
    let sent = async {
        let event = told(&mut client).await;
        client.push(b"third").unwrap();
        event
    };
    let (_, event) = tokio::join!(script, sent);
    assert_eq!(event, "reply 0");
    let error = client.next().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().starts_with("refused: 127.0.0.1:"), "{error}");
    assert!(!client.is_open());
    assert_eq!(client.push(b"more"), Err(PushError::Finished));
    assert!(matches!(client.next().await, Err(Error::Over)));
}

/// The error wakes who waits for a reply.
#[tokio::test]
async fn a_port_that_was_never_open_is_told_at_once() {
    let (server, endpoint) = Server::bind().await;
    drop(server);
    let mut client = DatagramClient::connect(&endpoint, Options::default()).await.unwrap();
    let began = Instant::now();
    let error = client.echo(b"hello").await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(began.elapsed() < client.options.timeout, "it is not the timeout that told");
}

/// What had come before the error is brought before it.
#[tokio::test]
async fn replies_go_before_a_closed_port() {
    let (server, endpoint) = Server::bind().await;
    let mut client = DatagramClient::connect(&endpoint, Options::default()).await.unwrap();
    client.push(b"first").unwrap();
    let (came, from) = tokio::select! {
        event = client.next() => panic!("{event:?}"),
        came = server.take() => came,
    };
    server.0.send_to(&came, from).await.unwrap();
    drop(server);
    client.push(b"second").unwrap();
    client.push(b"third").unwrap();
    assert_eq!(told(&mut client).await, "reply 0");
    assert!(matches!(client.next().await, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn unix_peers_are_answered_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    for listen in [format!("unixgram:{}", path.display()), "unixgram:@echo-core-dgrams".into()] {
        let (tasks, endpoint) = service(&listen, Mode::Auto).await;
        let mut client = DatagramClient::connect(&endpoint, Options::default()).await.unwrap();
        for len in [0, 1, 60_000] {
            let message = vec![3; len];
            assert_eq!(client.echo(&message).await.unwrap().payload, message);
        }
        // More than a send buffer has is this host's word, and about that one alone.
        client.push(&vec![3; 8 << 20]).unwrap();
        let event = told(&mut client).await;
        let expected = "unsent 3: too long: 8388608 bytes are more than this host sends";
        assert!(event.starts_with(expected), "{event}");
        assert_eq!(client.echo(b"on").await.unwrap().payload, b"on");
        drop(tasks);
        tokio::task::yield_now().await;
        let refused = client.echo(b"?").await.unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let endpoint = format!("unixgram:{}", path.display()).parse().unwrap();
    let nobody = DatagramClient::connect(&endpoint, Options::default());
    assert!(matches!(nobody.await, Err(Error::Refused { .. })));
}

/// A peer that does not read fills its queue; every wait has its end.
#[tokio::test(start_paused = true)]
async fn a_queue_that_stays_full_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _server = UnixDatagram::bind(&path).unwrap();
    let endpoint = format!("unixgram:{}", path.display()).parse().unwrap();
    let mut client = DatagramClient::connect(&endpoint, Options::default()).await.unwrap();
    let mut asked = 0;
    while client.push(&[7; 1000]).is_ok() {
        asked += 1;
    }
    client.finish();
    let (mut lost, mut unsent) = (0, 0);
    loop {
        match &told(&mut client).await[..] {
            "end" => break,
            event if event.starts_with("lost") => lost += 1,
            event => {
                assert!(event.contains("timed out: the socket took nothing"), "{event}");
                unsent += 1;
            }
        }
    }
    assert!(lost > 0 && unsent > 0, "{lost} {unsent}");
    assert_eq!(lost + unsent, asked);
}

#[tokio::test]
async fn it_may_stand_in_a_select() {
    let (_tasks, endpoint) = service("udp://127.0.0.1:0", Mode::Raw).await;
    let options = Options { window: 1 << 14, ..Options::default() };
    let mut client = DatagramClient::connect(&endpoint, options).await.unwrap();
    let (mut pushed, mut answered) = (0u64, 0u64);
    while answered < 500 {
        while pushed < 500 && client.push_probe(&pushed.to_be_bytes()).is_ok() {
            pushed += 1;
        }
        tokio::select! {
            biased;
            event = client.next() => match event.unwrap() {
                Some(DatagramEvent::Reply { reply, .. }) => {
                    assert_eq!(reply.payload, reply.seq.to_be_bytes());
                    assert_eq!(reply.stamps, None, "a raw server stamps nothing");
                    answered += 1;
                }
                other => panic!("{other:?}"),
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert!(pushed == 500 && client.unanswered() == 0);
}

#[tokio::test]
async fn the_window_bounds_what_waits() {
    let (_server, endpoint) = Server::bind().await;
    let options = Options { window: 10_000, ..Options::default() };
    let mut client = DatagramClient::connect(&endpoint, options).await.unwrap();
    // One alone may be longer.
    client.push(&[1; 20_000]).unwrap();
    assert_eq!(client.push(b""), Err(PushError::Full));
    let mut client = DatagramClient::new(&endpoint, client.options.clone());
    assert_eq!(client.push(b"early"), Err(PushError::NotConnected));
    assert_eq!(told(&mut client).await, "opened");
    let mut empty = 0;
    while client.push(b"").is_ok() {
        empty += 1;
    }
    assert!((100..200).contains(&empty), "{empty}: empty messages take room too");
}

#[tokio::test]
async fn source_and_family_are_honoured() {
    let (server, endpoint) = Server::bind().await;
    let source: IpAddr = "127.0.0.9".parse().unwrap();
    let options = Options { source: Some(source), ..Options::default() };
    let mut client = DatagramClient::connect(&endpoint, options).await.unwrap();
    client.push(b"from where?").unwrap();
    let ((_, from), event) = tokio::join!(
        async {
            let (came, from) = server.take().await;
            server.0.send_to(&came, from).await.unwrap();
            (came, from)
        },
        told(&mut client)
    );
    assert_eq!((from.ip(), &event[..]), (source, "reply 0"));
    let options = Options { family: Family::V6, ..Options::default() };
    let refused = DatagramClient::connect(&endpoint, options).await.unwrap_err();
    assert!(matches!(refused, Error::Unresolved(_)), "{refused}");
    let options = Options { source: "192.0.2.1".parse().ok(), ..Options::default() };
    let refused = DatagramClient::connect(&endpoint, options).await.unwrap_err();
    assert!(refused.to_string().contains("cannot connect from 192.0.2.1"), "{refused}");
    let stream = "tcp://127.0.0.1:1".parse().unwrap();
    let refused = DatagramClient::connect(&stream, Options::default()).await.unwrap_err();
    assert!(refused.to_string().contains("datagrams only"), "{refused}");
}

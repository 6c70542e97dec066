//! Connections that end: what goes on, what does not, and what is told.

use super::*;

/// A server that answers so many frames and part of the next one, then ends the connection.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Goaway,
    Fin,
    InsideHeader,
    InsidePayload,
}

impl Ends {
    const ALL: [Self; 4] = [Self::Goaway, Self::Fin, Self::InsideHeader, Self::InsidePayload];

    async fn play(self, mut framed: Framed, answered: usize) {
        framed.echo(answered).await;
        match self {
            Self::Goaway => framed.goaway(0, 1 + answered as u8).await,
            Self::Fin => {}
            Self::InsideHeader => framed.say(b"\0\0").await,
            Self::InsidePayload => {
                let frame = framed.frame().await;
                framed.say(&frame[..frame.len() - 1]).await;
            }
        }
        framed.0.shutdown().await.unwrap();
        framed.closed().await;
    }
}

/// What is unanswered goes out again, in order; each reply is seen once; and nothing of a torn reply
/// shows.
#[tokio::test(start_paused = true)]
async fn what_is_unanswered_is_asked_again() {
    for ends in Ends::ALL {
        let (mut server, connector) = scripted();
        let mut client = std::pin::pin!(Client::connect(connector, retrying(30)));
        let (connected, framed) = tokio::join!(&mut client, server.greet());
        let mut client = connected.unwrap();
        for payload in [&b"one"[..], b"two", b"six", b"ten"] {
            client.push(payload).unwrap();
        }
        client.finish();
        let script = async {
            ends.play(framed, 1).await;
            ends.play(server.greet().await, 1).await;
            let mut framed = server.greet().await;
            framed.echo(2).await;
            framed.closed().await;
        };
        let mut happened = Vec::new();
        let watch = async {
            while happened.last().is_none_or(|last| last != "over") {
                happened.push(next(&mut client).await);
            }
        };
        tokio::join!(script, watch);
        happened
            .retain(|told| !told.starts_with("goaway") && !told.starts_with("lost: closed early"));
        let due = ["0 one", "connected, 3 again", "1 two", "connected, 2 again"];
        assert_eq!(happened, [&due[..], &["2 six", "3 ten", "over"]].concat(), "{ends:?}");
    }
}

/// The same without another connection: it is told how it ended, behind all that came.
#[tokio::test(start_paused = true)]
async fn a_loss_is_the_end_without_retry() {
    for (ends, told) in [
        (Ends::Goaway, "the server drains: 1 of 3 frames answered"),
        (Ends::Fin, "the server ended the stream: 6 bytes unanswered"),
        (Ends::InsideHeader, "the server ended the stream inside a frame: 6 bytes unanswered"),
        (Ends::InsidePayload, "the server ended the stream inside a frame: 4 bytes unanswered"),
    ] {
        let (mut server, connector) = scripted();
        let mut client = Client::new(connector, Options::default());
        let (_, framed) = tokio::join!(client.next(), server.greet());
        for payload in [b"one", b"two", b"six"] {
            client.push(payload).unwrap();
        }
        let watch = async {
            assert_eq!(next(&mut client).await, "0 one");
            let mut last = next(&mut client).await;
            if last == "goaway Drain" {
                last = next(&mut client).await;
            }
            drop(client);
            last
        };
        let (last, ()) = tokio::join!(watch, ends.play(framed, 1));
        assert_eq!(last, format!("closed early: {told}"));
    }
}

/// In parts, what was brought is not brought again, though it comes again.
#[tokio::test(start_paused = true)]
async fn parts_are_not_repeated() {
    let (mut server, connector) = scripted();
    let options = Options { parts: true, ..retrying(30) };
    let mut client = Client::new(connector, options);
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"abcdef").unwrap();
    assert_eq!(next(&mut client).await, "sent");
    framed.say(b"\0\0\0\x06abc").await;
    assert_eq!(next(&mut client).await, "part abc");
    drop(framed);
    assert!(next(&mut client).await.starts_with("lost: closed early: the server ended"));
    let (told, mut framed) = tokio::join!(next(&mut client), server.greet());
    assert_eq!(told, "connected, 1 again");
    assert_eq!(next(&mut client).await, "sent");
    framed.say(b"\0\0\0\x06ab").await;
    assert!(client.ready().is_none());
    framed.say(b"cd").await;
    assert_eq!(next(&mut client).await, "part d");
    framed.say(b"ef").await;
    let Some(Event::Reply(reply)) = client.next().await.unwrap() else { panic!("a reply") };
    assert_eq!((reply.payload, reply.fresh), (&b"abcdef"[..], &b"ef"[..]));
    assert!(reply.resent);
}

/// With nothing due nobody connects, until a request or the caller wants it.
#[tokio::test(start_paused = true)]
async fn an_idle_client_stays_down() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(30));
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    framed.goaway(1, 1).await;
    assert_eq!(next(&mut client).await, "goaway Idle");
    let told = "lost: closed early: the server ends idle connections: 0 of 0 frames answered";
    assert_eq!(next(&mut client).await, told);
    assert!(!client.is_connected());
    tokio::select! {
        told = next(&mut client) => panic!("{told}"),
        _ = server.accept() => panic!("a connection"),
        () = sleep(Duration::from_secs(3600)) => {}
    }
    client.push(b"hello").unwrap();
    let (told, mut framed) = tokio::join!(next(&mut client), server.greet());
    assert_eq!(told, "connected, 0 again");
    let (told, ()) = tokio::join!(next(&mut client), framed.echo(1));
    assert_eq!(told, "0 hello");
    drop(framed);
    assert!(next(&mut client).await.starts_with("lost: "));
    client.reconnect();
    let (told, _framed) = tokio::join!(next(&mut client), server.greet());
    assert_eq!(told, "connected, 0 again");
    client.finish();
    tokio::select! {
        told = next(&mut client) => panic!("{told}"),
        () = sleep(Duration::from_secs(1)) => {}
    }
}

/// All was answered when the connection was lost: `finish` needs no other one.
#[tokio::test(start_paused = true)]
async fn finishing_needs_no_connection() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(30));
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    let (told, ()) = tokio::join!(next(&mut client), framed.echo(1));
    assert_eq!(told, "0 hello");
    drop(framed);
    assert!(next(&mut client).await.starts_with("lost: "));
    client.finish();
    assert_eq!(next(&mut client).await, "over");
    // And where the last reply and GOAWAY come together, there is nothing more to wait for.
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    client.finish();
    let script = async {
        framed.echo(1).await;
        framed.goaway(0, 2).await;
        framed
    };
    let (told, _open) = tokio::join!(next(&mut client), script);
    assert_eq!(told, "0 hello");
    assert_eq!(next(&mut client).await, "goaway Drain");
    assert_eq!(next(&mut client).await, "over");
}

/// All was answered, but there is the beginning of something more.
#[tokio::test(start_paused = true)]
async fn finishing_with_half_a_frame_is_no_end() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    client.finish();
    let (told, ()) = tokio::join!(next(&mut client), framed.echo(1));
    assert_eq!(told, "0 hello");
    framed.say(b"\x81\0").await;
    drop(framed);
    let told = "closed early: the server ended the stream inside a frame, all 5 bytes answered";
    assert_eq!(next(&mut client).await, told);
}

/// A server that is never there is given up after exactly the time that was allowed, one that comes
/// back is found.
#[tokio::test(start_paused = true)]
async fn the_last_try_is_at_the_end() {
    for retry in
        [Duration::ZERO, Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(30)]
    {
        let (server, connector) = scripted();
        drop(server);
        let began = Instant::now();
        let mut client = Client::new(connector, Options { retry, ..Options::default() });
        let mut attempts = 1;
        let told = loop {
            let told = next(&mut client).await;
            if !told.starts_with("retrying: refused: memory: ") {
                break told;
            }
            attempts += 1;
        };
        assert!(told.starts_with("refused: memory: "), "{told}");
        let took = began.elapsed();
        assert!(took >= retry && took <= retry + Duration::from_millis(2), "{took:?} of {retry:?}");
        // 100, 200, 400 ms and so on, half of it on average, and 2 s at most.
        let most = 3 + retry.as_millis() / 50;
        assert!(attempts <= most && (attempts > 1) == (retry > Duration::ZERO), "{attempts}");
    }
}

/// A server that only accepts and dies is no server: no connection without a reply makes the time
/// begin anew, and the first loss is the one that counts.
#[tokio::test(start_paused = true)]
async fn accepting_is_no_progress() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(30));
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    client.push(b"never").unwrap();
    let (told, ()) = tokio::join!(next(&mut client), framed.echo(1));
    assert_eq!(told, "0 hello");
    framed.goaway(0, 2).await;
    drop(framed);
    assert_eq!(next(&mut client).await, "goaway Drain");
    let began = Instant::now();
    let mut connections = 0;
    let script = async {
        loop {
            let framed = server.greet().await;
            connections += 1;
            drop(framed);
        }
    };
    let watch = async {
        loop {
            if let Err(error) = client.next().await {
                return error;
            }
        }
    };
    let error = tokio::select! {
        error = watch => error,
        () = script => unreachable!(),
    };
    let told = error.to_string();
    let start = "closed early: the server drains: 1 of 2 frames answered; \
                 no other connection within 30s: closed early: ";
    assert!(told.starts_with(start), "{told}");
    assert!(
        began.elapsed() >= Duration::from_secs(30) && began.elapsed() < Duration::from_secs(31)
    );
    assert!(connections > 10 && connections < 600, "{connections}");
}

/// The time to connect again begins with the loss, however long ago the start was.
#[tokio::test(start_paused = true)]
async fn idling_uses_up_no_time() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(30));
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    for seq in 0..3 {
        tokio::select! {
            told = next(&mut client) => panic!("{told}"),
            () = sleep(Duration::from_secs(3600)) => {}
        }
        client.push(b"hello").unwrap();
        drop(framed);
        assert!(next(&mut client).await.starts_with("lost: closed early"));
        let (told, next_framed) = tokio::join!(next(&mut client), server.greet());
        assert_eq!(told, "connected, 0 again");
        framed = next_framed;
        let (told, ()) = tokio::join!(next(&mut client), framed.echo(1));
        assert_eq!(told, format!("{seq} hello"));
    }
}

/// The words of a client that gives up begin with why the connection was lost.
#[tokio::test(start_paused = true)]
async fn giving_up_tells_of_the_loss_and_of_the_last_attempt() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(3));
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    drop(server);
    framed.goaway(0, 1).await;
    let told = loop {
        match client.next().await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.fault(), Fault::Path);
                break error.to_string();
            }
        }
    };
    let start = "closed early: the server drains: 0 of 1 frames answered; \
                 no other connection within 3s: refused: memory: ";
    assert!(told.starts_with(start), "{told}");
}

/// A server that falls silent in the middle is a loss like any other.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(60));
    let (_, _framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    let told = next(&mut client).await;
    assert_eq!(told, "lost: timed out: nothing came for 30s: 5 bytes unanswered");
    let (told, mut framed) = tokio::join!(next(&mut client), server.greet());
    assert_eq!(told, "connected, 1 again");
    let (told, ()) = tokio::join!(next(&mut client), framed.echo(1));
    assert_eq!(told, "0 hello");
}

/// A raw connection has no second life, and one that was framed does not become raw.
#[tokio::test(start_paused = true)]
async fn only_frames_go_on() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(60));
    let script = async {
        let mut stream = server.accept().await;
        let mut bytes = [0; 10];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.read_exact(&mut bytes[..5]).await.unwrap();
        stream.write_all(&bytes[..2]).await.unwrap();
    };
    let watch = async {
        assert_eq!(next(&mut client).await, "connected, 0 again");
        client.push(b"hello").unwrap();
        next(&mut client).await
    };
    let (told, ()) = tokio::join!(watch, script);
    assert_eq!(told, "closed early: the server ended the stream: 3 bytes unanswered");

    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(60));
    let (_, framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    drop(framed);
    assert!(next(&mut client).await.starts_with("lost: "));
    let script = async {
        let mut stream = server.accept().await;
        let mut bytes = [0; 10];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    };
    let (told, ()) = tokio::join!(next(&mut client), script);
    assert_eq!(told, "refused: the server spoke frames and now echoes HELLO itself");
}

/// The time of a request counts from its first sending, whatever happened to it then.
#[tokio::test(start_paused = true)]
async fn a_restart_is_part_of_the_round_trip() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(60));
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    let script = async {
        framed.frame().await;
        sleep(Duration::from_secs(20)).await;
        drop(framed);
        server.greet().await.echo(1).await;
    };
    let watch = async {
        loop {
            if let Some(Event::Reply(reply)) = client.next().await.unwrap() {
                break reply.round_trip();
            }
        }
    };
    let (round_trip, ()) = tokio::join!(watch, script);
    assert!(round_trip >= Duration::from_secs(20), "{round_trip:?}");
}

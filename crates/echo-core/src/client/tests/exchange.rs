//! What an exchange brings while its connection holds.

use super::*;

#[tokio::test(start_paused = true)]
async fn echoes_and_probes() {
    let (connector, _drain, _server) = serve(Mode::Auto);
    let mut client = Client::connect(connector, Options::default()).await.unwrap();
    let session = client.session().unwrap().clone();
    assert_eq!((session.dialect, session.fell_back), (Dialect::Framed, false));
    assert!(session.features.contains(Features::PROBE) && session.max_frame == 1 << 20);
    assert_eq!(client.echo(b"hello").await.unwrap().payload, b"hello");
    let reply = client.probe(b"body").await.unwrap();
    assert_eq!((reply.payload, reply.seq), (&b"body"[..], 1));
    assert!(reply.stamps.unwrap().in_server() <= reply.round_trip());
    assert_eq!((client.unanswered(), client.bytes_answered()), (0, 5 + 32 + 4));
    client.finish();
    assert_eq!(next(&mut client).await, "over");
    assert_eq!(client.push(b"more"), Err(PushError::Finished));
    assert_eq!(next(&mut client).await, "over", "again");
}

#[tokio::test(start_paused = true)]
async fn goes_on_raw_where_hello_is_echoed() {
    let (connector, _drain, _server) = serve(Mode::Raw);
    let mut client = Client::connect(connector, Options::default()).await.unwrap();
    assert!(client.session().unwrap().fell_back);
    assert_eq!(client.push_probe(b""), Err(PushError::NoProbe));
    for payload in [&b"hello"[..], &[7; 300_000]] {
        assert_eq!(client.echo(payload).await.unwrap().payload, payload);
    }
    // Its reply would be one that never came.
    let error = client.echo(b"").await.unwrap_err();
    assert!(matches!(error, Error::Unsent(PushError::Empty)), "{error}");
    assert_eq!(error.fault(), Fault::Caller);
    client.finish();
    assert_eq!(next(&mut client).await, "over");
}

/// Without HELLO the server sends no control frame, and its limits are not known.
#[tokio::test(start_paused = true)]
async fn speaks_frames_without_hello() {
    let (connector, _drain, _server) = serve(Mode::Auto);
    let options = Options { hello: false, ..Options::default() };
    let mut client = Client::connect(connector, options).await.unwrap();
    assert_eq!(client.session().unwrap().max_frame, MAX_PAYLOAD_LEN);
    assert_eq!(client.echo(b"hello").await.unwrap().payload, b"hello");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_before_the_first_exchange() {
    let (connector, _drain, _server) = serve(Mode::Auto);
    let mut client = Client::new(connector, Options::default());
    assert_eq!(client.push(b"early"), Err(PushError::NotConnected));
    assert!(client.session().is_none() && !client.is_connected());
    assert_eq!(next(&mut client).await, "connected, 0 again");
    let max = 1 << 20;
    assert_eq!(
        client.push(&vec![0; max + 1]),
        Err(PushError::TooLong { len: max + 1, max: 1 << 20 })
    );
    assert_eq!(
        client.push_probe(&vec![0; max - 31]),
        Err(PushError::ProbeTooLong { len: max - 31, max: 1 << 20 })
    );
    // More than the window, but alone.
    client.push(&vec![0; max]).unwrap();
    assert_eq!(client.room(), 0);
    assert_eq!(client.push(b"x"), Err(PushError::Full));
    assert!(next(&mut client).await.starts_with("0 \\x00"));
    assert!(client.room() > max - 100);
}

/// Both directions are full at once, with far more under way than the sockets hold.
#[tokio::test(start_paused = true)]
async fn reading_never_waits_for_a_write() {
    for mode in [Mode::Framed, Mode::Raw] {
        let (connector, _drain, _server) = serve(mode);
        let options = Options { window: 64 << 20, ..Options::default() };
        let mut client = Client::connect(connector, options).await.unwrap();
        let payload: Vec<u8> = (0..1 << 20).map(|at: u32| ((at * 7) >> 3) as u8).collect();
        for _ in 0..32 {
            client.push(&payload).unwrap();
        }
        client.finish();
        for seq in 0..32 {
            let Some(Event::Reply(reply)) = client.next().await.unwrap() else { panic!("{seq}") };
            assert!(reply.seq == seq && reply.payload == payload);
        }
        assert_eq!(next(&mut client).await, "over");
    }
}

#[tokio::test(start_paused = true)]
async fn replies_come_in_parts_where_asked() {
    let (mut server, connector) = scripted();
    let options = Options { parts: true, ..Options::default() };
    let mut client = Client::new(connector, options);
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"abcdef").unwrap();
    client.push(b"gh").unwrap();
    assert_eq!(next(&mut client).await, "sent");
    framed.say(b"\0\0\0\x06a").await;
    assert_eq!(next(&mut client).await, "part a");
    framed.say(b"bcd").await;
    assert_eq!(next(&mut client).await, "part bcd");
    framed.say(b"ef\0\0\0\x02g").await;
    let Some(Event::Reply(reply)) = client.next().await.unwrap() else { panic!("a reply") };
    assert_eq!((reply.payload, reply.fresh), (&b"abcdef"[..], &b"ef"[..]));
    assert_eq!(next(&mut client).await, "part g");
    framed.say(b"h").await;
    assert_eq!(next(&mut client).await, "1 gh");
}

#[tokio::test(start_paused = true)]
async fn one_request_is_refused_and_the_others_go_on() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    for payload in [b"one", b"two", b"six"] {
        client.push(payload).unwrap();
    }
    framed.say(b"").await;
    let script = async {
        framed.echo(1).await;
        framed.frame().await;
        framed.say(b"\x82\0\0\x05\0\x01\0no").await;
        framed.echo(1).await;
    };
    let (first, ()) = tokio::join!(next(&mut client), script);
    assert_eq!(first, "0 one");
    assert_eq!(next(&mut client).await, "1 refused: 1, no");
    assert_eq!(next(&mut client).await, "2 six");
    let exchange = async { client.echo(b"more").await.map(|_| ()).unwrap_err() };
    let script = async {
        framed.frame().await;
        framed.say(b"\x82\0\0\x05\0\x03\0no").await;
    };
    let (refused, ()) = tokio::join!(exchange, script);
    let told = "refused: the server says: no (error 3, malformed)";
    assert_eq!((refused.to_string(), refused.fault()), (told.to_owned(), Fault::Server));
}

/// Over a real socket, which has taken only part of it when the ERROR comes, and nothing else is due.
#[tokio::test]
async fn a_refused_message_goes_out_whole() {
    let (listener, target) = on_a_port();
    let mut client = Client::new(Endpoint::target(&target).unwrap(), Options::default());
    let greet = async {
        let mut stream = listener.accept().await.unwrap().0;
        stream.read_exact(&mut [0; HELLO.len()]).await.unwrap();
        let answer = b"\x80\0\0\x0c\0\x01\0\xff\xff\xff\0\0\0\x01\0\0";
        stream.write_all(answer).await.unwrap();
        stream
    };
    let (connected, mut stream) = tokio::join!(client.next(), greet);
    connected.unwrap();
    // More than the sockets of both sides hold.
    let big = vec![7; MAX_PAYLOAD_LEN as usize];
    client.push(&big).unwrap();
    let refuse = async {
        stream.read_exact(&mut [0; 4]).await.unwrap();
        stream.write_all(b"\x82\0\0\x05\0\x01\0no").await.unwrap();
    };
    let (refused, ()) = tokio::join!(client.next(), refuse);
    assert_eq!(told(refused.unwrap()), "0 refused: 1, no");
    tokio::select! {
        biased;
        happened = client.next() => panic!("{}", told(happened.unwrap())),
        () = tokio::task::yield_now() => {}
    }
    let script = async {
        let mut came = vec![0; big.len()];
        stream.read_exact(&mut came).await.unwrap();
        assert!(came == big);
        let mut frame = [0; 8];
        stream.read_exact(&mut frame).await.unwrap();
        stream.write_all(&frame).await.unwrap();
    };
    let (reply, ()) = tokio::join!(client.echo(b"next"), script);
    assert_eq!(reply.unwrap().payload, b"next");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_talks_by_itself_is_heard() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    framed.say(b"\0\0\0\x02hi").await;
    assert_eq!(next(&mut client).await, "unexpected \\x00\\x00\\x00\\x02hi");
    assert!(client.ready().is_none());
    let (answer, ()) = tokio::join!(client.echo(b"hello"), framed.echo(1));
    assert_eq!(answer.unwrap().payload, b"hello");
    // What comes behind the last reply and before the end is told before the end.
    framed.say(b"\0\0\0\0").await;
    framed.goaway(0, 2).await;
    assert_eq!(next(&mut client).await, "unexpected \\x00\\x00\\x00\\x00");
    assert_eq!(next(&mut client).await, "goaway Drain");
    assert_eq!(next(&mut client).await, "closed early: the server drains: 1 of 1 frames answered");
    assert!(matches!(client.next().await, Err(Error::Over)));
}

/// A defect is told behind all that came before it, and is the end.
#[tokio::test(start_paused = true)]
async fn the_first_defect_is_the_end() {
    for retry in [0, 60] {
        let (mut server, connector) = scripted();
        let mut client = Client::new(connector, retrying(retry));
        let (_, mut framed) = tokio::join!(client.next(), server.greet());
        for payload in [b"one", b"two", b"six"] {
            client.push(payload).unwrap();
        }
        let script = async {
            for _ in 0..3 {
                framed.frame().await;
            }
            framed.say(b"\0\0\0\x03one\0\0\0\x03twO\0\0\0\x03sIx").await;
        };
        let (first, ()) = tokio::join!(next(&mut client), script);
        assert_eq!(first, "0 one");
        let told = "different at byte 5: sent 0x6f, received 0x4f: \"o\" came back as \"O\", behind \
                    \"tw\"";
        assert_eq!(next(&mut client).await, told);
        assert_eq!(next(&mut client).await, "the client has ended");
        framed.closed().await;
    }
}

/// The client goes when it is dropped, wherever it is.
#[tokio::test(start_paused = true)]
async fn a_dropped_wait_loses_nothing() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    // Each step gets a moment and is dropped.
    let impatient = async {
        let mut happened = Vec::new();
        for round in 0..1000 {
            tokio::select! {
                biased;
                told = next(&mut client) => happened.push(told),
                () = tokio::task::yield_now() => {}
            }
            if client.is_connected() && round % 7 == 0 && client.unanswered() < 3 {
                client.push(&[b'a' + (round % 26) as u8; 9]).unwrap();
            }
        }
        happened
    };
    let script = async {
        let mut framed = server.greet().await;
        loop {
            let frame = framed.frame().await;
            for byte in frame {
                framed.say(&[byte]).await;
                tokio::task::yield_now().await;
            }
        }
    };
    let happened = tokio::select! {
        happened = impatient => happened,
        () = script => unreachable!(),
    };
    assert!(happened.len() > 20, "{happened:?}");
    for (seq, told) in happened[1..].iter().enumerate() {
        assert!(told.starts_with(&format!("{seq} ")), "{told}");
    }
}

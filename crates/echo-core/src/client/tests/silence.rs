//! How long a server may be silent, and that nobody else's time counts.

use tokio::net::UdpSocket;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(2);

/// Hours of idling between two requests are nobody's fault.
#[tokio::test(start_paused = true)]
async fn only_what_is_due_counts() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    for _ in 0..3 {
        tokio::select! {
            told = next(&mut client) => panic!("{told}"),
            () = sleep(LIMIT * 100) => {}
        }
        client.push(b"line").unwrap();
        let script = async {
            let frame = framed.frame().await;
            sleep(LIMIT - MOMENT).await;
            framed.say(&frame).await;
        };
        let (told, ()) = tokio::join!(next(&mut client), script);
        assert!(told.ends_with("line"), "{told}");
    }
}

/// Fault 35: the longest wait that can be written is one, for datagrams too.
#[tokio::test]
async fn any_wait_is_taken() {
    let longest = Duration::MAX;
    let options = Options {
        connect_timeout: longest,
        timeout: longest,
        retry: longest,
        ..Options::default()
    };
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, options.clone());
    let (_, framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    drop(framed);
    assert!(next(&mut client).await.starts_with("lost: "));
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    let (told, ()) = tokio::join!(next(&mut client), framed.echo(1));
    assert_eq!(told, "0 hello");

    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = format!("udp://{}", server.local_addr().unwrap()).parse().unwrap();
    let mut client = DatagramClient::connect(&target, options).await.unwrap();
    client.push(b"hello").unwrap();
    let script = async {
        let mut datagram = [0; 100];
        let (len, from) = server.recv_from(&mut datagram).await.unwrap();
        server.send_to(&datagram[..len], from).await.unwrap();
    };
    let (event, ()) = tokio::join!(client.next(), script);
    assert!(matches!(event.unwrap(), Some(DatagramEvent::Reply { .. })));
}

/// Each byte that comes starts it anew; a request does not.
#[tokio::test(start_paused = true)]
async fn it_ends_at_its_limit() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"line").unwrap();
    let began = Instant::now();
    for byte in [0, 0] {
        let wait = async {
            tokio::select! {
                told = next(&mut client) => panic!("{told}"),
                () = sleep(LIMIT - MOMENT) => {}
            }
        };
        wait.await;
        framed.say(&[byte]).await;
        client.push(b"more").unwrap();
    }
    let told = next(&mut client).await;
    assert_eq!(told, "timed out: nothing came for 30s: 12 bytes unanswered");
    let took = began.elapsed();
    assert!(took > LIMIT * 2 && took < LIMIT * 3 + MOMENT * 5, "{took:?}");
}

/// Hours in which the caller does something else are not the server's silence, be they at once or
/// between many short waits.
#[tokio::test(start_paused = true)]
async fn the_callers_time_does_not_count() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"line").unwrap();
    let began = Instant::now();
    let mut waited = Duration::ZERO;
    while waited < LIMIT - Duration::from_secs(1) {
        tokio::select! {
            told = next(&mut client) => panic!("{told}"),
            () = sleep(Duration::from_secs(1)) => {}
        }
        waited += Duration::from_secs(1);
        sleep(LIMIT * 10).await;
    }
    let frame = framed.frame().await;
    framed.say(&frame).await;
    assert_eq!(next(&mut client).await, "0 line");
    assert!(began.elapsed() > LIMIT * 200);
    // But the waits add up.
    client.push(b"line").unwrap();
    let mut waited = 0;
    loop {
        tokio::select! {
            told = next(&mut client) => {
                assert!(told.starts_with("timed out: nothing came"), "{told}");
                break;
            }
            () = sleep(Duration::from_secs(7)) => waited += 7,
        }
        assert!(waited < 100, "short waits do not add up");
        sleep(LIMIT).await;
    }
    assert!((22..=30).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn the_end_is_waited_for_as_long() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, retrying(600));
    let (_, mut framed) = tokio::join!(client.next(), server.greet());
    client.push(b"hello").unwrap();
    client.finish();
    let (told, ()) = tokio::join!(next(&mut client), framed.echo(1));
    assert_eq!(told, "0 hello");
    let began = Instant::now();
    let told = "timed out: the server did not end the stream for 30s, all 5 bytes answered";
    assert_eq!(next(&mut client).await, told);
    assert!(began.elapsed() < LIMIT + MOMENT * 5);
}

/// Every kind of silence before the first exchange has its own limit, however it trickles.
#[tokio::test(start_paused = true)]
async fn the_first_exchange_has_one_deadline() {
    let (mut server, connector) = scripted();
    let mut client = Client::new(connector, Options::default());
    let began = Instant::now();
    let script = async {
        let mut stream = server.accept().await;
        stream.write_all(b"\x80\0\x0f\xff\0\x01").await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let (told, ()) = tokio::join!(next(&mut client), script);
    assert!(told.starts_with("timed out: no answer to HELLO within 30s (a plain RFC"), "{told}");
    assert!(began.elapsed() < LIMIT + Duration::from_secs(2));
}

/// A listener that accepts nobody.
#[tokio::test(start_paused = true)]
async fn connecting_has_its_own_deadline() {
    let (_server, connector) = scripted();
    // Until the queue is full.
    let mut queued = Vec::new();
    loop {
        tokio::select! {
            biased;
            stream = connector.connect() => queued.push(stream.unwrap()),
            () = tokio::task::yield_now() => break,
        }
    }
    let began = Instant::now();
    let mut client = Client::new(connector, Options::default());
    assert_eq!(next(&mut client).await, "timed out: memory: no connection within 5s");
    assert!(began.elapsed() < Duration::from_secs(6));
}

//! When a request is lost, and when it only looks so.

use super::*;

/// A client and its server, who knows it.
async fn acquainted(timeout: Duration) -> (DatagramClient, Server, SocketAddr) {
    let (server, endpoint) = Server::bind().await;
    let options = Options { timeout, ..Options::default() };
    let mut client = DatagramClient::connect(&endpoint, options).await.unwrap();
    client.push(b"hello").unwrap();
    let serving = async {
        let (came, from) = server.take().await;
        server.0.send_to(&came, from).await.unwrap();
        from
    };
    let (from, event) = tokio::join!(serving, told(&mut client));
    assert_eq!(event, "reply 0");
    (client, server, from)
}

/// Sends what is pushed and looks no longer.
async fn send(client: &mut DatagramClient) {
    tokio::select! {
        biased;
        event = client.next() => panic!("{event:?}"),
        () = std::future::ready(()) => {}
    }
}

/// Tokio has a task wait after a number of receives, with the rest still in the socket.
#[tokio::test(start_paused = true)]
async fn many_replies_that_wait_are_not_lost() {
    let (mut client, server, from) = acquainted(Duration::from_secs(1)).await;
    for number in 1..=200u64 {
        client.push(&number.to_be_bytes()).unwrap();
        send(&mut client).await;
        assert_eq!(server.take().await.0, number.to_be_bytes());
    }
    for number in 1..=200u64 {
        server.0.send_to(&number.to_be_bytes(), from).await.unwrap();
    }
    sleep(Duration::from_secs(100)).await;
    for number in 1..=200 {
        assert_eq!(told(&mut client).await, format!("reply {number}"));
    }
}

/// The reactor has had no chance to hear of it.
#[tokio::test]
async fn a_reply_that_nobody_heard_of_is_not_lost() {
    let (mut client, server, from) = acquainted(Duration::from_secs(1)).await;
    client.options.timeout = Duration::from_millis(1);
    client.push(b"x").unwrap();
    send(&mut client).await;
    server.0.try_send_to(b"x", from).unwrap();
    while Instant::now() < client.pairing.oldest().unwrap() + client.options.timeout {
        std::hint::spin_loop();
    }
    assert_eq!(told(&mut client).await, "reply 1");
}

/// Who never stops sending does not hold up a loss for ever.
#[tokio::test]
async fn a_flood_ends_a_wait_no_less() {
    let (mut client, server, from) = acquainted(Duration::from_secs(1)).await;
    client.options.timeout = Duration::from_millis(1);
    client.push(b"x").unwrap();
    send(&mut client).await;
    let lost = tokio::task::unconstrained(async {
        for _ in 0..2 * QUEUE {
            server.0.try_send_to(b"junk", from).unwrap();
            if told(&mut client).await == "lost 1" {
                return true;
            }
        }
        false
    });
    assert!(lost.await);
}

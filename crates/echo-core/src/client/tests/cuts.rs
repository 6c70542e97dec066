//! Connections that are cut: what is counted, and what is told of the cut.

use super::*;

/// What came back stays counted when it has to come again, whether it was brought in parts or not.
#[tokio::test(start_paused = true)]
async fn the_count_of_bytes_never_goes_back() {
    for parts in [false, true] {
        let (mut server, connector) = scripted();
        let mut client = Client::new(connector, Options { parts, ..retrying(30) });
        let (_, mut framed) = tokio::join!(client.next(), server.greet());
        client.push(b"abcdef").unwrap();
        let script = async {
            framed.frame().await;
            framed.say(b"\0\0\0\x06abc").await;
        };
        let (_, ()) = tokio::join!(until(&mut client, 3), script);
        drop(framed);
        let (_, mut framed) = tokio::join!(until(&mut client, 3), server.greet());
        assert_eq!(client.bytes_answered(), 3);
        let script = async {
            framed.frame().await;
            framed.say(b"\0\0\0\x06ab").await;
            framed.say(b"cdef").await;
        };
        let (_, ()) = tokio::join!(until(&mut client, 6), script);
        assert_eq!((client.bytes_answered(), client.unanswered()), (6, 0));
    }
}

/// Goes on until so many bytes came back and there is a connection; never do they become fewer.
async fn until(client: &mut Client, bytes: u64) {
    let mut before = client.bytes_answered();
    loop {
        // Part of a reply is no event where nobody asks for parts.
        tokio::select! {
            _ = next(client) => {}
            () = sleep(Duration::from_millis(1)) => {}
        }
        let now = client.bytes_answered();
        assert!(now >= before, "{now} after {before}");
        before = now;
        if now >= bytes && client.is_connected() {
            return;
        }
    }
}

/// A reset is none of the ends that a server comes to by itself, even where all is answered.
#[tokio::test]
async fn an_end_in_order_is_told_from_a_reset() {
    for reset in [false, true] {
        let (listener, addr) = on_a_port();
        let target = format!("raw://{addr}");
        let options = Options::default();
        let (client, stream) = tokio::join!(
            Client::connect(Endpoint::target(&target).unwrap(), options),
            listener.accept()
        );
        let (mut client, mut stream) = (client.unwrap(), stream.unwrap().0);
        let script = async {
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        };
        let (reply, ()) = tokio::join!(client.echo(b"hello"), script);
        reply.unwrap();
        if reset {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
        let Err(Error::ClosedEarly(early)) = client.next().await else { panic!("an early end") };
        assert_eq!((early.orderly, early.bytes_unanswered), (!reset, 0), "{early}");
    }
}

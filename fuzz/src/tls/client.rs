//! Our client.

use std::net::TcpListener;
use std::time::Duration;

use echo_core::Endpoint;
use echo_core::client::{Client, Error, Event, Options};
use echo_core::tls::{Authorities, Client as Trust};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::wire::Wire;
use super::{CERTIFIED, other_server};
use crate::input::{Input, runtime};

/// A server that the script has in its hands.
pub fn tls_client(data: &[u8]) {
    runtime().block_on(async {
        let mut input = Input::new(data);
        let mode = ["raw", "framed", "auto"][usize::from(input.byte() % 3)];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("tls://{}?mode={mode}", listener.local_addr().unwrap());
        let mut client = JoinSet::new();
        client.spawn(converse(target.parse().unwrap()));
        // The kernel has it in the queue as soon as the client has asked.
        listener.set_nonblocking(true).unwrap();
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        };
        // No trace of it stays with the kernel, which has only so many ports.
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut wire = Wire::new(TcpStream::from_std(stream).unwrap(), other_server().into());
        wire.play(&mut input).await;
        let (asked, answered, end) = client.join_next().await.unwrap().unwrap();
        assert!(answered <= asked);
        if end.is_ok() {
            assert_eq!(answered, asked, "the end was taken for a whole one");
            assert!(wire.closed, "an end without close_notify was taken for a whole one");
        }
    });
}

/// Asks three things, and says how many were asked, how many answered, and how it ended.
async fn converse(target: Endpoint) -> (u64, u64, Result<(), Error>) {
    let trusted = Authorities::from_pem(CERTIFIED.certificate.pem().as_bytes()).unwrap();
    let tls = Some(Trust::new(Some(trusted), None).unwrap());
    let (mut asked, mut answered) = (0, 0);
    let mut client = match Client::connect(target, Options { tls, ..Options::default() }).await {
        Ok(client) => client,
        Err(error) => return (0, 0, Err(error)),
    };
    let long = vec![7; 20_000];
    let messages = [&b"hello"[..], b"\0", &long];
    for message in messages {
        asked += u64::from(client.push(message).is_ok());
    }
    client.finish();
    loop {
        match client.next().await {
            Ok(Some(Event::Reply(reply))) => {
                assert_eq!(reply.payload, messages[reply.seq as usize]);
                answered += 1;
            }
            // A refusal is an answer.
            Ok(Some(Event::Refused(_))) => answered += 1,
            Ok(Some(_)) => {}
            Ok(None) => return (asked, answered, Ok(())),
            Err(error) => return (asked, answered, Err(error)),
        }
    }
}

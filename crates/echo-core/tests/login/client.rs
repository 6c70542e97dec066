//! The client that logs in before anything else.

use std::sync::Arc;
use std::time::Duration;

use echo_core::client::{Client, Exchange, Login, Options};
use echo_core::{Connection, Error, Features, Header, Kind, Limits, Reason};

use crate::doorman::*;
use crate::support::{self, frame, goaway};

/// Who knows that word.
#[derive(Debug)]
struct Word(&'static [u8]);

impl Login for Word {
    fn start(&self, _: Features, binding: Option<Vec<u8>>) -> Result<Box<dyn Exchange>, String> {
        assert_eq!(binding, None);
        Ok(Box::new(Self(self.0)))
    }
}

impl Exchange for Word {
    fn mechanism(&self) -> &'static str {
        "WORD"
    }

    fn initial(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, String> {
        assert_eq!(challenge, b"word?");
        Ok(self.0.to_vec())
    }

    fn finish(&mut self, data: &[u8]) -> Result<(), String> {
        if data == b"welcome" { Ok(()) } else { Err("an impostor".to_owned()) }
    }
}

/// Every connection logs in before anything else, and what was due goes out behind that.
#[tokio::test]
async fn a_client_logs_in_on_every_connection() {
    let options = Options {
        login: Some(Arc::new(Word(b"word"))),
        retry: Duration::from_secs(60),
        ..Options::default()
    };
    let (server, address) = support::on_tcp(Limits::default(), doorman(true));
    let target = echo_core::Endpoint::target(&address.to_string()).unwrap();
    let mut client = Client::connect(target, options).await.unwrap();
    assert_eq!(client.echo(b"first").await.unwrap().payload, b"first");
    // GOAWAY counts AUTH frames too: a client that counted otherwise would say so.
    server.stop(Duration::from_secs(60)).await;
    let listener = echo_core::Listener::bind_tcp(address, &echo_core::SocketOptions::default());
    let Ok(listener) = listener else { return };
    let service = echo_core::Service::default();
    let _again = support::Running::start(listener, &service, doorman(true));
    assert_eq!(client.echo(b"second").await.unwrap().payload, b"second");
}

/// What goes wrong with a login is told, whosever fault it is.
#[tokio::test]
async fn a_login_that_fails_is_told() {
    let connect = |answer: Vec<u8>, features: u8| async move {
        let (mut listener, connector) = echo_core::Listener::memory();
        let client = tokio::spawn(async move {
            let options = Options { login: Some(Arc::new(Word(b"word"))), ..Options::default() };
            Client::connect(connector, options).await.map(drop).map_err(|error| error.to_string())
        });
        let greeting = [b"\x80\0\0\x0c\0\x01\0\x10\0\0\0\0\0".to_vec(), vec![features, 0, 0]];
        let script = Script([greeting.concat(), answer].concat());
        let service = echo_core::Service::default();
        listener_serve(&mut listener, script, &service).await;
        client.await.unwrap()
    };
    for (answer, features, told) in [
        (vec![], 1, "refused: the server offers no authentication"),
        (frame(Kind::ERROR, b"\0\x05\0no"), 3, "denied: no"),
        (
            frame(Kind::ERROR, b"\0\x04\x01full"),
            3,
            "refused: the server says: full (error 4, busy)",
        ),
        (frame(Kind::AUTH, b"\x01lie"), 3, "refused: an impostor"),
        (
            frame(Kind::AUTH, b""),
            3,
            "different at byte 0: the server answered AUTH with a malformed",
        ),
        (frame(Kind::ECHO, b"x"), 3, "different at byte 0: the server answered AUTH with a ECHO"),
        (support::header(Kind::AUTH, 5000), 3, "different at byte 0: "),
        (goaway(Reason::Drain, 1), 3, "closed early: the server drains before it answered AUTH"),
        (vec![], 3, "closed early: the server ended the stream before it answered AUTH"),
        (
            frame(Kind::AUTH, b"\0word?").repeat(20),
            3,
            "different at byte 0: the server answered AUTH with one challenge",
        ),
    ] {
        let error = connect(answer, features).await.unwrap_err();
        assert!(error.starts_with(told), "{error}");
    }
}

/// Says what it has to say, whatever comes, and waits for the end.
#[derive(Clone)]
struct Script(Vec<u8>);

impl echo_core::Handler for Script {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        // Raw bytes are frames of their own here: cut at their headers.
        for (kind, payload) in lenient(&self.0) {
            connection.send_frame(kind, &payload).await?;
        }
        connection.flush().await
    }
}

fn lenient(mut wire: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((head, rest)) = wire.split_first_chunk() {
        let header = Header::parse(*head);
        let len = (header.len as usize).min(rest.len());
        let padded = [&rest[..len], &vec![0; header.len as usize - len]].concat();
        all.push((header.kind, padded));
        wire = &rest[len..];
    }
    all
}

async fn listener_serve(
    listener: &mut echo_core::Listener,
    script: Script,
    service: &echo_core::Service,
) {
    let listener = std::mem::replace(listener, echo_core::Listener::memory().0);
    let running = support::Running::start(listener, service, script);
    // It ends with its only connection, whose client gives up.
    support::soon(async {
        while service.stats().ended.total() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    running.stop(Duration::ZERO).await;
}

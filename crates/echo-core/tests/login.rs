//! What a connection may do before, while and after its peer authenticates: every kind of frame in every
//! state, the deadline, the drain; and the client that logs in first. On paused time.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, spawns what it awaits, and waits with a bound"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use echo_core::client::{Client, Exchange, Login, Options};
use echo_core::{
    Access, AuthReply, AuthRequest, Connection, Echo, Error, ErrorFrame, Extension, Features,
    Header, Kind, Limits, Mode, Reason,
};
use support::{echo, frame, frames, goaway, hello, in_memory, read_all, say_hello, settle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const FILE: Kind = Kind(0x90);

/// Lets in whoever says the word, and lets who says another one do no echo.
#[derive(Clone)]
struct Doorman {
    required: bool,
}

#[derive(Default)]
enum Place {
    #[default]
    Outside,
    AtTheDoor,
    Inside,
    Aside,
}

impl Extension for Doorman {
    type Session = Place;

    fn features(&self) -> Features {
        Features::AUTH.with(Features::FILES)
    }

    fn access(&self, session: &Place) -> Access {
        match session {
            Place::Inside => Access::Full,
            Place::Aside => Access::NoEcho,
            _ if self.required => Access::Login,
            _ => Access::Full,
        }
    }

    async fn frame(
        &self,
        place: &mut Place,
        header: Header,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        let mut payload = Vec::new();
        while let Some(chunk) = connection.chunk().await? {
            payload.extend_from_slice(&chunk);
        }
        if header.kind == FILE {
            return connection.send_frame(FILE, b"file").await;
        }
        connection.set_login_under_way(false);
        let mut reply = Vec::new();
        match AuthRequest::parse(&payload) {
            Ok(AuthRequest::Start { .. }) => {
                *place = Place::AtTheDoor;
                connection.set_login_under_way(true);
                AuthReply::Challenge(b"word?").put(&mut reply);
            }
            Ok(AuthRequest::Response(word)) => {
                *place = if word == b"word" { Place::Inside } else { Place::Aside };
                connection.set_user("alice".into());
                AuthReply::Success(b"welcome").put(&mut reply);
            }
            Err(_) => return Err(Error::Malformed(Kind::AUTH)),
        }
        connection.send_frame(Kind::AUTH, &reply).await
    }
}

fn auth(request: AuthRequest<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    request.put(&mut payload);
    frame(Kind::AUTH, &payload)
}

fn start() -> Vec<u8> {
    auth(AuthRequest::Start { mechanism: b"WORD", initial: b"" })
}

fn word(word: &[u8]) -> Vec<u8> {
    auth(AuthRequest::Response(word))
}

fn doorman(required: bool) -> Echo<Doorman> {
    Echo::new(Mode::Auto).extended(Doorman { required })
}

/// Frames in words: their kind, and the code of an ERROR.
fn told(wire: &[u8]) -> Vec<String> {
    let word = |(kind, payload): (Kind, Vec<u8>)| match kind {
        Kind::ERROR => format!("ERROR {}", ErrorFrame::parse(&payload).unwrap().code.code()),
        kind => format!("{kind:?}"),
    };
    frames(wire).into_iter().map(word).collect()
}

/// The payloads of PROTOCOL.md, read, and written back.
#[test]
fn the_vectors_of_the_protocol() {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = hex.trim_matches('_');
        let pairs = (0..digits.len()).step_by(2);
        pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    };
    let text = include_str!("../PROTOCOL.md");
    let block = text.split("```auth\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(block.lines().count(), 9);
    for line in block.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let payload = bytes(words[2]);
        let mut out = Vec::new();
        match (words[1], words[3]) {
            ("client", "malformed") => assert!(AuthRequest::parse(&payload).is_err(), "{line}"),
            ("server", "malformed") => assert!(AuthReply::parse(&payload).is_err(), "{line}"),
            (_, what) => {
                let last = bytes(words[words.len() - 1]);
                let (mechanism, data) = (words[4].as_bytes(), &last[..]);
                let reply = match what {
                    "challenge" => AuthReply::Challenge(data),
                    _ => AuthReply::Success(data),
                };
                let request = match what {
                    "start" => AuthRequest::Start { mechanism, initial: data },
                    _ => AuthRequest::Response(data),
                };
                if words[1] == "client" {
                    assert_eq!(AuthRequest::parse(&payload), Ok(request), "{line}");
                    request.put(&mut out);
                } else {
                    assert_eq!(AuthReply::parse(&payload), Ok(reply), "{line}");
                    reply.put(&mut out);
                }
                assert_eq!(out, payload, "{line}");
            }
        }
    }
}

/// Every state with every kind of frame, each followed by an ECHO.
#[tokio::test(start_paused = true)]
async fn every_state_with_every_kind_of_frame() {
    let states = [
        (true, vec![]),
        (true, start()),
        (true, [start(), word(b"word")].concat()),
        (true, [start(), word(b"other")].concat()),
        (false, vec![]),
        (false, [start(), word(b"other")].concat()),
    ];
    let over = frame(Kind::ECHO, &[7; 200]);
    let events = [
        ("ECHO", echo(b"x")),
        ("empty ECHO", echo(b"")),
        ("too long", over),
        ("PROBE", frame(Kind::PROBE, &[0; 32])),
        ("HELLO", hello()),
        ("file", frame(FILE, b"name")),
        ("reserved", frame(Kind(0x42), b"")),
        ("GOAWAY", frame(Kind::GOAWAY, &[0; 10])),
    ];
    // What a kind is answered where nobody has come in, where everything goes, and without echo.
    let expected = |state: usize, event: &str| -> (&str, bool) {
        let (locked, no_echo) = (state < 2, state == 3 || state == 5);
        match event {
            "HELLO" => ("HELLO", true),
            "reserved" | "GOAWAY" => ("ERROR 2", false),
            _ if locked => ("ERROR 5", true),
            "file" => ("PUT", true),
            _ if no_echo => ("ERROR 6", true),
            "PROBE" => ("PROBE", true),
            "too long" => ("ERROR 1", true),
            _ => ("ECHO", true),
        }
    };
    for (index, (required, before)) in states.iter().enumerate() {
        for (name, event) in &events {
            let limits = Limits { max_frame: 100, ..Limits::default() };
            let (_server, connector) = in_memory(limits, doorman(*required));
            let mut client = connector.connect().await.unwrap();
            say_hello(&mut client).await;
            client.write_all(&[&before[..], event, &echo(b"y")].concat()).await.unwrap();
            client.shutdown().await.unwrap();
            let got = told(&read_all(&mut client).await);
            let got: Vec<_> = got.into_iter().filter(|word| word != "AUTH").collect();
            let (first, goes_on) = expected(index, name);
            let mut want = vec![first];
            if goes_on {
                want.push(expected(index, "ECHO").0);
            } else {
                want.push("GOAWAY");
            }
            assert_eq!(got, want, "state {index}, {name}");
        }
    }
}

/// Who asks for no control gets FIN: raw bytes, and ECHO alone.
#[tokio::test(start_paused = true)]
async fn who_gets_no_error_gets_fin() {
    for sent in [&b"text\n"[..], b"\0\0\0\x01a", b"\0\0\0\0", b"\x01"] {
        let (server, connector) = in_memory(Limits::default(), doorman(true));
        let mut client = connector.connect().await.unwrap();
        client.write_all(sent).await.unwrap();
        assert_eq!(read_all(&mut client).await, b"", "{sent:?}");
        assert_eq!(server.service.stats().denied, 1);
    }
}

/// At every split of the stream the same answers.
#[tokio::test(start_paused = true)]
async fn splits_do_not_matter() {
    let sent = [hello(), echo(b"no"), start(), word(b"word"), echo(b"yes"), echo(b"")].concat();
    for at in 1..sent.len() {
        let (_server, connector) = in_memory(Limits::default(), doorman(true));
        let mut client = connector.connect().await.unwrap();
        client.write_all(&sent[..at]).await.unwrap();
        settle().await;
        client.write_all(&sent[at..]).await.unwrap();
        client.shutdown().await.unwrap();
        let got = read_all(&mut client).await;
        assert_eq!(told(&got), ["HELLO", "ERROR 5", "AUTH", "AUTH", "ECHO", "ECHO"], "at {at}");
        assert!(got.ends_with(&[echo(b"yes"), echo(b"")].concat()));
    }
}

/// One absolute deadline, from the accept on, that no byte moves.
#[tokio::test(start_paused = true)]
async fn authentication_has_one_deadline() {
    let limits = || Limits { frame_timeout: Duration::from_secs(10), ..Limits::default() };
    for frames in [vec![], vec![hello()], vec![hello(), start()]] {
        let (server, connector) = in_memory(limits(), doorman(true));
        let began = Instant::now();
        let mut client = connector.connect().await.unwrap();
        for frame in &frames {
            client.write_all(frame).await.unwrap();
        }
        let (mut reader, mut writer) = tokio::io::split(&mut client);
        // HELLO again and again is no progress.
        let write = async {
            loop {
                tokio::time::sleep(Duration::from_millis(900)).await;
                if !frames.is_empty() && writer.write_all(&hello()).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut got = Vec::new();
        tokio::select! {
            read = reader.read_to_end(&mut got) => drop(read.unwrap()),
            () = write => {}
        }
        let took = began.elapsed();
        assert!(
            took >= Duration::from_secs(10) && took < Duration::from_millis(10_100),
            "{took:?}"
        );
        assert_eq!(server.service.stats().login_timeouts, 1);
        if !frames.is_empty() {
            assert_eq!(told(&got).last().map(String::as_str), Some("GOAWAY"));
        }
    }
    // Once in, there is none any more.
    let (_server, connector) = in_memory(limits(), doorman(true));
    let mut client = connector.connect().await.unwrap();
    client.write_all(&[hello(), start(), word(b"word")].concat()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    client.write_all(&echo(b"still")).await.unwrap();
    client.shutdown().await.unwrap();
    assert!(read_all(&mut client).await.ends_with(&echo(b"still")));
}

/// A drain lets an exchange that is under way come to its end, for 5 s at most.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_an_exchange_a_little() {
    for required in [true, false] {
        for (answers, drain, most) in [(true, 30, 2), (false, 30, 5), (false, 2, 2)] {
            let (server, connector) = in_memory(Limits::default(), doorman(required));
            let mut client = connector.connect().await.unwrap();
            say_hello(&mut client).await;
            client.write_all(&start()).await.unwrap();
            let mut challenge = [0; 10];
            client.read_exact(&mut challenge).await.unwrap();
            let began = Instant::now();
            server.drain(Duration::from_secs(drain));
            tokio::time::sleep(Duration::from_secs(1)).await;
            if answers {
                client.write_all(&word(b"word")).await.unwrap();
            }
            let mut got = Vec::new();
            let read = client.read_to_end(&mut got).await;
            let took = began.elapsed();
            assert!(took <= Duration::from_millis(most * 1000 + 200), "{took:?} {answers} {drain}");
            if answers {
                let welcome = frame(Kind::AUTH, b"\x01welcome");
                assert_eq!(got, [welcome, goaway(Reason::Drain, 3)].concat());
            } else {
                assert!(took >= Duration::from_secs(most), "{took:?}");
                assert!(read.is_err() || got.is_empty() || told(&got) == ["GOAWAY"]);
            }
        }
    }
    // Nothing is under way: nobody is waited for.
    let (server, connector) = in_memory(Limits::default(), doorman(true));
    let mut client = connector.connect().await.unwrap();
    say_hello(&mut client).await;
    let began = Instant::now();
    server.drain(Duration::from_secs(30));
    assert_eq!(read_all(&mut client).await, goaway(Reason::Drain, 1));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

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
        (frame(Kind::ERROR, b"\0\x05\0no"), 3, "denied: wrong name or password"),
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

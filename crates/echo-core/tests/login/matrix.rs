//! Every state with every event.

use std::time::Duration;

use echo_core::{Kind, Limits, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::doorman::*;
use crate::support::{echo, frame, goaway, hello, in_memory, read_all, say_hello};

/// Where a conversation is: whether users alone are served, where its peer was known to be from the start, and what
/// was said.
const STATES: [(&str, bool, Place, &[Said]); 9] = [
    ("outside", true, Place::Outside, &[]),
    ("challenged", true, Place::Outside, &[Said::Start]),
    ("inside", true, Place::Outside, &[Said::Start, Said::Word]),
    ("without echo", true, Place::Outside, &[Said::Start, Said::Other]),
    ("known", true, Place::Inside, &[]),
    ("known without echo", true, Place::Aside, &[]),
    ("open", false, Place::Outside, &[]),
    ("open, challenged", false, Place::Outside, &[Said::Start]),
    ("open, without echo", false, Place::Outside, &[Said::Start, Said::Other]),
];

#[derive(Clone, Copy)]
enum Said {
    Start,
    Word,
    Other,
}

impl Said {
    fn wire(self) -> Vec<u8> {
        match self {
            Self::Start => start(),
            Self::Word => word(b"word"),
            Self::Other => word(b"other"),
        }
    }
}

/// Says that, and what comes next.
async fn told_after(state: (&str, bool, Place, &[Said]), event: &[u8]) -> Vec<String> {
    let (_, required, known, said) = state;
    let limits = Limits { max_frame: 100, ..Limits::default() };
    let (_server, connector) = in_memory(limits, doorman_who_knows(required, known));
    let mut client = connector.connect().await.unwrap();
    say_hello(&mut client).await;
    let before: Vec<u8> = said.iter().flat_map(|said| said.wire()).collect();
    client.write_all(&[&before, event].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    told(&read_all(&mut client).await).split_off(said.len())
}

/// Every state with every kind of frame, each followed by an ECHO.
#[tokio::test(start_paused = true)]
async fn every_state_with_every_kind_of_frame() {
    let events = [
        ("ECHO", echo(b"x")),
        ("empty ECHO", echo(b"")),
        ("too long", frame(Kind::ECHO, &[7; 200])),
        ("PROBE", frame(Kind::PROBE, &[0; 32])),
        ("HELLO", hello()),
        ("file", frame(FILE, b"name")),
        ("reserved", frame(Kind(0x42), b"")),
        ("GOAWAY", frame(Kind::GOAWAY, &[0; 10])),
        ("ERROR", frame(Kind::ERROR, &[0; 3])),
        ("AUTH start", start()),
        ("AUTH response", word(b"word")),
        ("AUTH, another response", word(b"other")),
        ("AUTH, malformed", frame(Kind::AUTH, b"\x07")),
        ("AUTH, empty", frame(Kind::AUTH, b"")),
        ("AUTH, too long", frame(Kind::AUTH, &[0; 4097])),
    ];
    // What is answered, and whether the conversation goes on: where nobody has come in, everywhere else, and
    // without echo.
    let expected = |state: &str, event: &str| -> (&str, bool) {
        let locked = matches!(state, "outside" | "challenged");
        match event {
            "HELLO" => ("HELLO", true),
            "reserved" | "GOAWAY" | "ERROR" => ("ERROR 2", false),
            "AUTH, too long" => ("ERROR 1", true),
            // The doorman ends those himself, without a word.
            "AUTH, malformed" | "AUTH, empty" => ("", false),
            _ if event.starts_with("AUTH") => ("AUTH", true),
            _ if locked => ("ERROR 5", true),
            "file" => ("PUT", true),
            _ if state.ends_with("without echo") => ("ERROR 6", true),
            "PROBE" => ("PROBE", true),
            "too long" => ("ERROR 1", true),
            _ => ("ECHO", true),
        }
    };
    for state in STATES {
        for (name, event) in &events {
            // Whoever answers with a word has come to another place.
            let after = match *name {
                "AUTH start" if state.0 == "inside" || state.0.starts_with("known") => "outside",
                "AUTH start" if state.1 => "challenged",
                "AUTH start" => "open",
                "AUTH response" => "inside",
                "AUTH, another response" => "without echo",
                _ => state.0,
            };
            let got = told_after(state, &[&event[..], &echo(b"y")].concat()).await;
            let (first, goes_on) = expected(state.0, name);
            let next = if goes_on { expected(after, "ECHO").0 } else { "GOAWAY" };
            let expected = if first.is_empty() { vec![] } else { vec![first, next] };
            assert_eq!(got, expected, "{}, {name}", state.0);
        }
    }
}

/// Every state with its peer's end, between frames and inside one of AUTH's: nothing more is said, but that a frame
/// was cut.
#[tokio::test(start_paused = true)]
async fn every_state_with_an_end() {
    for state in STATES {
        assert_eq!(told_after(state, b"").await, [""; 0], "{}", state.0);
        let got = told_after(state, &word(b"word")[..6]).await;
        assert_eq!(got, [""; 0], "{}, inside a frame", state.0);
    }
}

/// Every state with a drain: at once, but where an exchange is under way, which may still come to its end.
#[tokio::test(start_paused = true)]
async fn every_state_with_a_drain() {
    for (name, required, known, said) in STATES {
        let (server, connector) = in_memory(Limits::default(), doorman_who_knows(required, known));
        let mut client = connector.connect().await.unwrap();
        say_hello(&mut client).await;
        for said in said {
            client.write_all(&said.wire()).await.unwrap();
            let mut answer = vec![0; auth_answer(*said)];
            client.read_exact(&mut answer).await.unwrap();
        }
        server.drain(Duration::from_secs(30));
        let mut expected = Vec::new();
        let mut answered = 1 + said.len() as u64;
        if name.ends_with("challenged") {
            client.write_all(&word(b"word")).await.unwrap();
            expected = frame(Kind::AUTH, b"\x01welcome");
            answered += 1;
        }
        expected.extend(goaway(Reason::Drain, answered));
        assert_eq!(read_all(&mut client).await, expected, "{name}");
    }
}

/// How long the answer is, in all.
fn auth_answer(said: Said) -> usize {
    match said {
        Said::Start => frame(Kind::AUTH, b"\0word?").len(),
        Said::Word | Said::Other => frame(Kind::AUTH, b"\x01welcome").len(),
    }
}

/// Who is known may say anything from the start, and who may not echo no raw bytes either.
#[tokio::test(start_paused = true)]
async fn who_is_known_needs_no_word() {
    let places = [(Place::Outside, &b""[..]), (Place::Inside, b"text\n"), (Place::Aside, b"")];
    for (known, expected) in places {
        let (server, connector) = in_memory(Limits::default(), doorman_who_knows(true, known));
        let mut client = connector.connect().await.unwrap();
        client.write_all(b"text\n").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, expected, "{known:?}");
        let stats = server.service.stats();
        let counted = (u64::from(known == Place::Outside), u64::from(known == Place::Aside));
        assert_eq!((stats.denied, stats.forbidden), counted, "{known:?}");
    }
    // There is no deadline for what is done.
    let (_server, connector) = in_memory(Limits::default(), doorman_who_knows(true, Place::Inside));
    let mut client = connector.connect().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    client.write_all(&echo(b"late")).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, echo(b"late"));
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

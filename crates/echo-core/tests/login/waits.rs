//! How long a login may take, by itself and in a drain; and that what comes in pieces is the same.

use std::time::Duration;

use echo_core::{Kind, Limits, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::doorman::*;
use crate::support::{echo, frame, goaway, hello, in_memory, read_all, say_hello, settle};

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

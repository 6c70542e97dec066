use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::listener::Listener;
use std::future::poll_fn;

/// A dialogue, and a script's end of it behind the first exchange.
async fn pair() -> (Dialogue, DuplexStream) {
    let (mut listener, connector) = Listener::memory();
    let options = Options { timeout: Duration::from_secs(7), ..Options::default() };
    let server = async {
        let accepted = poll_fn(|cx| listener.poll_accept(cx)).await;
        let (Stream::Memory(mut stream), _) = accepted.unwrap() else { panic!("in memory") };
        let mut hello = [0; 10];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(b"\x80\0\0\x0c\0\x01\0\x10\0\0\0\0\0\x05\0\0").await.unwrap();
        stream
    };
    let (dialogue, stream) = tokio::join!(Dialogue::connect(connector, &options), server);
    (dialogue.unwrap(), stream)
}

#[tokio::test(start_paused = true)]
async fn small_frames_go_out_together_and_answers_come_in_order() {
    let (mut dialogue, mut server) = pair().await;
    dialogue.send(Kind::REMOVE, &[b"ab", b"c"]).await.unwrap();
    dialogue.send(Kind::READ, &[b"1234"]).await.unwrap();
    let script = async {
        let mut asked = [0; 15];
        server.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"\x97\0\0\x03abc\x94\0\0\x041234");
        server.write_all(b"\x97\0\0\0\x91\0\0\x02").await.unwrap();
        server.write_all(b"hi").await.unwrap();
    };
    let (first, ()) = tokio::join!(dialogue.recv(), script);
    assert_eq!(first.unwrap(), (Header { kind: Kind::REMOVE, len: 0 }, Bytes::new()));
    assert_eq!(dialogue.recv().await.unwrap().1, "hi");
    assert_eq!(dialogue.unanswered(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_long_is_waited_for_and_the_next_is_not() {
    let (mut dialogue, mut server) = pair().await;
    dialogue.send(Kind::REMOVE, &[b"a"]).await.unwrap();
    let script = async {
        sleep(Duration::from_secs(100)).await;
        server.write_all(b"\x97\0\0\0").await.unwrap();
    };
    let (answer, ()) = tokio::join!(dialogue.recv_late(Duration::from_secs(94)), script);
    answer.unwrap();
    dialogue.send(Kind::REMOVE, &[b"a"]).await.unwrap();
    let began = tokio::time::Instant::now();
    assert!(matches!(dialogue.recv().await, Err(Error::TimedOut(_))));
    assert_eq!(began.elapsed().as_secs(), 7);
}

/// Two sides that both write: the client reads while it cannot write.
#[tokio::test(start_paused = true)]
async fn a_long_frame_does_not_wait_for_answers_to_be_received() {
    let (mut dialogue, server) = pair().await;
    dialogue.send(Kind::READ, &[b"1234"]).await.unwrap();
    dialogue.flush().await.unwrap();
    let (mut read, mut write) = tokio::io::split(server);
    let answer = [&b"\x91\x08\0\0"[..], &vec![7; 512 << 10]].concat();
    let script = async {
        write.write_all(&answer).await.unwrap();
        let mut asked = vec![0; 8 + 4 + (600 << 10)];
        read.read_exact(&mut asked).await.unwrap();
    };
    let data = vec![1; 600 << 10];
    let sending = async {
        dialogue.send(Kind::DATA, &[&data]).await.unwrap();
        dialogue.recv().await.unwrap().1.len()
    };
    assert_eq!(tokio::join!(sending, script).0, 512 << 10);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_told() {
    for (came, told) in [
        (&b"\x97\0\0\0\x97\0\0\0"[..], "different at byte 0: the server sent REMOVE unasked"),
        (b"\x90\0\0\0", "different at byte 0: the server answered REMOVE with PUT"),
        (b"\x97\x01\0\x01", "different at byte 0: the server answers with 65537 bytes"),
        (b"\x97\0\0", "closed early: the server ended the stream inside a frame"),
        (b"", "closed early: the server ended the stream"),
        (
            b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\x02",
            "closed early: the server drains: 0 of 1 frames answered",
        ),
        (b"\x81\0\0\0", "different at byte 0: the server's GOAWAY cannot be read"),
    ] {
        let (mut dialogue, mut server) = pair().await;
        dialogue.send(Kind::REMOVE, &[b"a"]).await.unwrap();
        dialogue.flush().await.unwrap();
        server.write_all(came).await.unwrap();
        drop(server);
        let error = loop {
            match dialogue.recv().await {
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.starts_with(told), "{error}");
    }
}

/// What is longer than what was asked for is not waited for, and takes no memory.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_is_told_by_its_header() {
    let (mut dialogue, mut server) = pair().await;
    for len in [0_u32, 200_000] {
        dialogue.send(Kind::READ, &[&len.to_be_bytes()]).await.unwrap();
    }
    server.write_all(b"\x91\0\0\0\x91\x03\x0d\x41").await.unwrap();
    dialogue.recv().await.unwrap();
    let error = dialogue.recv().await.unwrap_err().to_string();
    let told = "different at byte 0: the server answers with 200001 bytes, and 200000 at most were to come";
    assert_eq!(error, told);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_it() {
    let (mut dialogue, _server) = pair().await;
    dialogue.send(Kind::REMOVE, &[b"a"]).await.unwrap();
    let error = dialogue.recv().await.unwrap_err().to_string();
    assert_eq!(error, "timed out: no answer to REMOVE for 7s");
    let (mut dialogue, _server) = pair().await;
    let error = dialogue.send(Kind::DATA, &[&vec![0; 1 << 20]]).await.unwrap_err().to_string();
    assert!(error.starts_with("timed out: "), "{error}");
}

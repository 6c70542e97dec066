//! How connections under TLS end: in order, cut, and in a drain.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use echo_core::Limits;
use echo_core::client::{Client, Error, Event};
use echo_core::tls::Policy;

use crate::support::{Authority, Other, Running, acknowledged, all, blocking, taken, until, write};

/// FIN without close_notify: what came is answered, with close_notify, and it is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stream_is_answered_and_counted() {
    let authority = Arc::new(Authority::new());
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let (addr, known) = (running.addr, Arc::clone(&authority));
    let back = blocking(move || {
        let mut stream = known.other_client(addr);
        write(&mut stream, b"hello");
        stream.sock.shutdown(Shutdown::Write).unwrap();
        all(&mut stream).unwrap()
    });
    assert_eq!(back.await, b"hello");
    until(|| running.service.stats().ended.failed == 1).await;
    let stats = running.service.stats();
    assert_eq!((stats.tls.truncated, stats.tls.broken), (1, 0));
    running.drain().await;
}

/// What is changed on its way breaks the stream: nothing of it is believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_record_breaks_the_stream() {
    let authority = Arc::new(Authority::new());
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let (addr, known) = (running.addr, Arc::clone(&authority));
    blocking(move || {
        let mut stream = known.other_client(addr);
        write(&mut stream, b"hello");
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        // A record of application data that nobody with the key has made.
        write(&stream.sock, &[&[0x17, 3, 3, 0, 32][..], &[0; 32]].concat());
        let mut rest = [0; 9];
        assert!(stream.read(&mut rest).is_err(), "an alert, or a reset");
    })
    .await;
    until(|| running.service.stats().ended.failed == 1).await;
    assert_eq!(running.service.stats().tls.broken, 1);
    running.drain().await;
}

/// Clients that never stop sending: of each, all that the server's last word counts has come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_no_reply() {
    let authority = Authority::new();
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..16 {
        let (target, options) = (running.target(), authority.options());
        clients.spawn(async move {
            let mut client = Client::connect(target, options).await.unwrap();
            let message = vec![number; 1 + usize::from(number) * 1777];
            let mut answered = 0;
            loop {
                while client.push(&message).is_ok() {}
                match client.next().await {
                    Ok(Some(Event::Reply(reply))) => {
                        assert_eq!(reply.payload, message);
                        answered += 1;
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("nobody asked it to end"),
                    Err(Error::ClosedEarly(early)) => {
                        let goaway = early.goaway.unwrap_or_else(|| panic!("{early:?}"));
                        // The first frame was HELLO.
                        assert_eq!(goaway.answered, answered + 1, "{early:?}");
                        return;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    until(|| running.service.stats().frames > 2_000).await;
    let report = running.drain().await;
    assert_eq!(report.drained.total(), 16);
    assert_eq!(report.drained.completed, 16, "{report:?}");
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

/// A client of rustls's own that has said HELLO.
async fn greeted(running: &Running, authority: &Arc<Authority>) -> Other {
    let (addr, known) = (running.addr, Arc::clone(authority));
    blocking(move || {
        let mut stream = known.other_client(addr);
        write(&mut stream, b"\x80\0\0\0");
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        let mut hello = vec![0; usize::from(head[3])];
        stream.read_exact(&mut hello).unwrap();
        stream
    })
    .await
}

/// What a socket holds when the drain begins is answered, in plaintext and ciphertext.
#[tokio::test]
async fn the_last_pass_takes_what_has_arrived() {
    let authority = Arc::new(Authority::new());
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let mut stream = greeted(&running, &authority).await;
    // This thread is the server's only one: it reads nothing before the drain has begun.
    write(&mut stream, b"\0\0\0\x01a\0\0\0\x01b");
    write(&mut stream, b"\0\0\0\x01c");
    acknowledged(&stream.sock).await;
    let drained = running.drain();
    let back = blocking(move || {
        let back = all(&mut stream);
        stream.conn.send_close_notify();
        write(&mut stream, b"");
        back
    });
    let (report, back) = tokio::join!(drained, back);
    let back = back.unwrap();
    let goaway = back.strip_prefix(b"\0\0\0\x01a\0\0\0\x01b\0\0\0\x01c").unwrap();
    assert!(report.took < std::time::Duration::from_secs(30), "the pass is over: {report:?}");
    assert_eq!(goaway[0], 0x81);
    assert_eq!(goaway.last(), Some(&4), "HELLO and three");
    assert_eq!(report.drained.total(), 1);
}

/// So is what the rest of a record makes readable, of which most was read before.
#[tokio::test]
async fn the_last_pass_takes_a_record_that_was_read_in_part() {
    let authority = Arc::new(Authority::new());
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let mut stream = greeted(&running, &authority).await;
    let frame = b"\0\0\0\x0ctwelve bytes";
    // A full record and a short one.
    let frames = frame.repeat(1024 + 10);
    stream.conn.writer().write_all(&frames).unwrap();
    let mut wire = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut wire).unwrap();
    }
    write(&stream.sock, &wire[..16_000]);
    taken(&stream.sock).await;
    // This thread is the server's only one: it reads nothing before the drain has begun.
    write(&stream.sock, &wire[16_000..]);
    let drained = running.drain();
    let back = blocking(move || all(&mut stream));
    let (_, back) = tokio::join!(drained, back);
    let back = back.unwrap();
    assert!(back.starts_with(&frames), "{} of {} bytes came back", back.len(), frames.len());
}

//! Handshakes that come to nothing, and those that wait.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use echo_core::client::{Client, Error};
use echo_core::tls::Policy;
use echo_core::{HandshakeFault, Limits};

use crate::support::{Authority, Running, SOON, all, blocking, until, write};

/// What is no TLS gets an alert and the end of the stream, and the next one is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_handshake_is_turned_away() {
    let authority = Authority::new();
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let wrong: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x80\0\0\0",
        &[0; 4096],
        &[0xff; 64],
        // A record of the handshake without sense.
        b"\x16\x03\x01\x00\x05hello",
    ];
    for (index, bytes) in wrong.iter().enumerate() {
        let (addr, bytes) = (running.addr, bytes.to_vec());
        let back = blocking(move || {
            let stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            write(&stream, &bytes);
            all(&stream).unwrap()
        });
        let back = back.await;
        assert!(back.is_empty() || back[0] == 0x15, "an alert or nothing: {back:?}");
        until(|| running.service.stats().ended.failed == index as u64 + 1).await;
    }
    let tls = running.service.stats().tls;
    assert_eq!(tls.failed(HandshakeFault::NotTls), wrong.len() as u64, "{tls:?}");
    let mut client = Client::connect(running.target(), authority.options()).await.unwrap();
    client.echo(b"still here").await.unwrap();
    running.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_is_ended() {
    let authority = Authority::new();
    let limits = Limits { frame_timeout: Duration::from_millis(300), ..Limits::default() };
    let running = Running::start(Policy::Always(authority.server()), limits);
    let addr = running.addr;
    let trickle = blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        // A header that announces 512 bytes, which come one at a time.
        write(&stream, &[0x16, 3, 1, 2, 0]);
        let mut sent = 0;
        while stream.write_all(&[1]).is_ok() && sent < 511 {
            sent += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    let silent = blocking(move || all(TcpStream::connect(addr).unwrap()));
    let (_, silent) = tokio::join!(trickle, silent);
    assert!(silent.is_ok_and(|bytes| bytes.is_empty()));
    until(|| running.service.stats().tls.failed(HandshakeFault::TimedOut) == 2).await;
    let ended = blocking(move || drop(TcpStream::connect(addr).unwrap()));
    ended.await;
    until(|| running.service.stats().tls.failed(HandshakeFault::Ended) == 1).await;
    assert_eq!(running.service.stats().tls.under_way, 0);
    running.drain().await;
}

/// Half a handshake does not hold a drain up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_handshakes_in_time() {
    let authority = Authority::new();
    let limits = Limits { frame_timeout: Duration::from_secs(3600), ..Limits::default() };
    let running = Running::start(Policy::Always(authority.server()), limits);
    let stream = TcpStream::connect(running.addr).unwrap();
    write(&stream, &[0x16, 3, 1]);
    until(|| running.service.stats().tls.under_way == 1).await;
    let began = tokio::time::Instant::now();
    // Our end follows the server's.
    let (report, ended) = tokio::join!(running.drain(), blocking(move || all(stream)));
    assert!(ended.is_ok());
    assert!(began.elapsed() >= Duration::from_millis(4_900), "it had its 5 s");
    assert_eq!(report.drained.failed, 1);
}

/// A certificate that is swapped is that of connections to come; those that are open go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_leaves_open_connections_alone() {
    let (one, other) = (Authority::new(), Authority::new());
    let running = Running::start(Policy::Always(one.server()), Limits::default());
    let mut open = Client::connect(running.target(), one.options()).await.unwrap();
    running.port.set(Policy::Always(other.server()));
    open.echo(b"goes on").await.unwrap();
    let mut new = Client::connect(running.target(), other.options()).await.unwrap();
    new.echo(b"new").await.unwrap();
    let error = Client::connect(running.target(), one.options()).await.unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    running.drain().await;
}

//! Peers that know TLS and mean no good, and old ones.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use echo_core::client::Client;
use echo_core::tls::Policy;
use echo_core::{HandshakeFault, Limits};
use rustls::HandshakeKind;

use crate::support::{Authority, Other, Running, SOON, all, blocking, until, write};

/// A whole handshake whose first flight comes a byte at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_byte_by_byte_is_one() {
    let authority = Arc::new(Authority::new());
    let limits = Limits { frame_timeout: Duration::from_secs(3600), ..Limits::default() };
    let running = Running::start(Policy::Detect(authority.server()), limits);
    let mut stream = authority.other_client(running.addr);
    stream.sock.set_nodelay(true).unwrap();
    let mut hello = Vec::new();
    stream.conn.write_tls(&mut hello).unwrap();
    blocking(move || {
        for byte in hello {
            write(&stream.sock, &[byte]);
        }
        echo(&mut stream, b"hello");
    })
    .await;
    running.drain().await;
}

/// An offer of TLS 1.2 alone: it is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_tls_is_told_so() {
    let running = Running::start(Policy::Always(Authority::new().server()), Limits::default());
    // Version 3.3, a random value, no session, one cipher (ECDHE-RSA-AES128-GCM-SHA256), no compression, and the
    // extensions that 1.2 needs: signature_algorithms, supported_groups.
    let extensions = b"\x00\x0d\x00\x04\x00\x02\x04\x03\x00\x0a\x00\x04\x00\x02\x00\x17";
    let body = [
        &b"\x03\x03"[..],
        &[7; 32],
        b"\x00\x00\x02\xc0\x2f\x01\x00",
        &[0, extensions.len() as u8],
        extensions,
    ]
    .concat();
    let message = [&[1, 0, 0, body.len() as u8], &body[..]].concat();
    let record = [&[0x16, 3, 1, 0, message.len() as u8], &message[..]].concat();
    let addr = running.addr;
    let told = blocking(move || {
        let stream = TcpStream::connect(addr).unwrap();
        write(&stream, &record);
        all(stream).unwrap()
    });
    // A fatal alert: protocol_version.
    assert_eq!(told.await, [0x15, 3, 3, 0, 2, 2, 70]);
    until(|| running.service.stats().tls.failed(HandshakeFault::Incompatible) == 1).await;
    running.drain().await;
}

/// Plaintext records of every kind that a peer can repeat for ever, before the handshake and after it: none is
/// repeated for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_records_end_the_connection() {
    let authority = Arc::new(Authority::new());
    // Whoever goes on sending is read from no longer than that.
    let limits = Limits { linger: Duration::from_millis(200), ..Limits::default() };
    let running = Running::start(Policy::Always(authority.server()), limits);
    let floods: [(&str, &[u8]); 5] = [
        ("empty", b"\x17\x03\x03\x00\x00"),
        ("empty, of the handshake", b"\x16\x03\x03\x00\x00"),
        ("warnings", b"\x15\x03\x03\x00\x02\x01\x5a"),
        ("changes of the cipher", b"\x14\x03\x03\x00\x01\x01"),
        ("longer than a record", b"\x17\x03\x03\x41\x01"),
    ];
    for (index, (what, record)) in floods.into_iter().enumerate() {
        for shaken in [false, true] {
            let (addr, known) = (running.addr, Arc::clone(&authority));
            let came = blocking(move || {
                let mut stream = known.other_client(addr);
                if shaken {
                    echo(&mut stream, b"x");
                }
                // It may have had enough before the end of it.
                let _ = stream.sock.write_all(&record.repeat(50_000));
                let _ = stream.sock.shutdown(Shutdown::Write);
                all(&stream.sock).unwrap_or_default().len()
            });
            let came = came.await;
            assert!(came < 1000, "{what}, {shaken}: {came} bytes in answer");
            let ended = 2 * index as u64 + u64::from(shaken) + 1;
            until(|| running.service.stats().ended.total() == ended).await;
        }
    }
    let stats = running.service.stats();
    let failed: u64 = HandshakeFault::ALL.iter().map(|fault| stats.tls.failed(*fault)).sum();
    assert_eq!((failed, stats.tls.broken, stats.tls.truncated), (5, 5, 0), "{stats:?}");
    running.drain().await;
}

/// Changes of keys: with data in between each is answered once; without, they are an attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_changed_as_often_as_data_comes() {
    let authority = Arc::new(Authority::new());
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let (addr, known) = (running.addr, Arc::clone(&authority));
    blocking(move || {
        let mut stream = known.other_client(addr);
        echo(&mut stream, b"shaken");
        for _ in 0..500 {
            stream.conn.refresh_traffic_keys().unwrap();
            echo(&mut stream, b"x");
        }
        for _ in 0..100 {
            stream.conn.refresh_traffic_keys().unwrap();
        }
        let mut flood = Vec::new();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut flood).unwrap();
        }
        write(&stream.sock, &flood);
        let back = all(&stream.sock).unwrap_or_default();
        assert!(back.len() <= flood.len(), "{} bytes for {}", back.len(), flood.len());
    })
    .await;
    until(|| running.service.stats().ended.failed == 1).await;
    assert_eq!(running.service.stats().tls.broken, 1);
    running.drain().await;
}

/// No tickets, so nothing is resumed and there is no early data: each connection is a whole handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_resumed() {
    let authority = Arc::new(Authority::new());
    let running = Running::start(Policy::Always(authority.server()), Limits::default());
    let config = authority.other_config();
    for number in 1..=3 {
        let (addr, known, config) = (running.addr, Arc::clone(&authority), Arc::clone(&config));
        blocking(move || {
            let mut stream = known.other_client_with(addr, config);
            echo(&mut stream, b"x");
            assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(stream.conn.tls13_tickets_received(), 0);
            assert!(stream.conn.early_data().is_none());
        })
        .await;
        assert_eq!(running.service.stats().tls.handshakes, number);
    }
    running.drain().await;
}

/// A handshake that has begun goes on with the certificate that it began with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_leaves_handshakes_alone() {
    let (one, other) = (Arc::new(Authority::new()), Authority::new());
    let running = Running::start(Policy::Always(one.server()), Limits::default());
    let mut stream = one.other_client(running.addr);
    let mut hello = Vec::new();
    stream.conn.write_tls(&mut hello).unwrap();
    write(&stream.sock, &hello[..100]);
    until(|| running.service.stats().tls.under_way == 1).await;
    running.port.set(Policy::Always(other.server()));
    blocking(move || {
        write(&stream.sock, &hello[100..]);
        echo(&mut stream, b"shaken with the first");
    })
    .await;
    let mut new = Client::connect(running.target(), other.options()).await.unwrap();
    new.echo(b"new").await.unwrap();
    running.drain().await;
}

fn echo(stream: &mut Other, bytes: &[u8]) {
    stream.sock.set_read_timeout(Some(SOON)).unwrap();
    write(&mut *stream, bytes);
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, bytes);
}

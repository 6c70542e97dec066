//! A connection under TLS whose path takes little at once.

use std::future::poll_fn;

use rcgen::generate_simple_self_signed;
use rustls::pki_types::ServerName;
use tokio::io::duplex;

use super::*;
use crate::Listener;
use crate::client::{Client, Dialect, hello};
use crate::stream::Peer;
use crate::tls::{self, Identity, Server};

/// Less than two records.
const ROOM: usize = 20_000;

/// The records of one write.
const WRITE: usize = 60_000;

/// Both ends of a path, agreed on their keys.
async fn secured() -> (tls::Session, tls::Session) {
    let made = generate_simple_self_signed(["server".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let (server, trusting) =
        (Server::new(identity, None).unwrap(), tls::Client::new(None, None).unwrap());
    let (here, there) = duplex(ROOM);
    let name = ServerName::try_from("server").unwrap();
    let mut here = tls::Session::client(Stream::Memory(here), &trusting, name).unwrap();
    let mut there = tls::Session::server(Stream::Memory(there), &server, &[]).unwrap();
    let (ours, theirs) =
        tokio::join!(poll_fn(|cx| here.poll_handshake(cx)), poll_fn(|cx| there.poll_handshake(cx)));
    ours.and(theirs).unwrap();
    (here, there)
}

/// A server answers each record as it comes, while the next ones of the same write wait for room: what is answered
/// was sent, though the write is not over, and what waits goes out though nothing else is written.
#[tokio::test(start_paused = true)]
async fn a_record_is_answered_before_all_of_its_write_is_out() {
    let (here, mut there) = secured().await;
    let (_listener, connector) = Listener::memory();
    let mut driver = Driver::new(connector.into(), Options::default());
    let session = hello::unasked(Dialect::Raw, Peer::Memory);
    let stream = Stream::Tls(Box::new(here));
    driver.go_up(Up { stream, session, asked: 0, input: Vec::new() }).unwrap();
    let mut client = Client { driver };
    let message: Vec<u8> = (0..WRITE).map(|at| (at % 251) as u8).collect();
    let served = async {
        let mut record = vec![0; 16 << 10];
        let mut answered = 0;
        while answered < WRITE {
            let len = poll_fn(|cx| there.poll_read(cx, &mut record)).await.unwrap();
            let mut at = 0;
            while at < len {
                at += poll_fn(|cx| there.poll_write(cx, &record[at..len])).await.unwrap();
            }
            answered += len;
        }
    };
    let echoed = async {
        let reply = client.echo(&message).await.unwrap();
        assert!(reply.payload == message);
    };
    // What hangs ends with the client's time.
    tokio::join!(echoed, served);
}

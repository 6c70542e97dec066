//! A stream under TLS that was cut is told apart from one that ended in order: in the access log and the metrics.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::ending::Settings;
use support::http::Admin;
use support::{PATIENCE, Server};

/// A server, and what its clients begin with.
fn serve() -> (Server, Arc<ClientConfig>) {
    let settings = Settings::new("");
    let (cert, key) = (settings.beside("cert"), settings.beside("key"));
    let made = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&made).unwrap();
    std::fs::write(&cert, certificate.pem()).unwrap();
    std::fs::write(&key, made.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(echo_core::tls::provider());
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    let server = Server::start(&[
        "--listen=tls://127.0.0.1:0?mode=raw",
        "--admin=127.0.0.1:0",
        "--access-log",
        "--linger=500ms",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ]);
    (server, config)
}

fn connect(
    server: &Server,
    config: &Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let address = server.uris()[0].strip_prefix("tls://").unwrap().split('?').next().unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(tls, socket)
}

#[test]
fn a_cut_is_no_end_in_order() {
    let (mut server, config) = serve();
    let admin = Admin::of(&server);
    for (in_order, ending, cut) in [(true, "completed", 0), (false, "failed", 1)] {
        let mut stream = connect(&server, &config);
        stream.write_all(b"hello").unwrap();
        if in_order {
            stream.conn.send_close_notify();
        }
        stream.flush().unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).unwrap();
        assert_eq!(back, "hello", "what came is answered, with close_notify, in either case");
        let line = server.wait_for_stderr(&format!("ending={ending}"));
        assert!(line.contains("received=5 sent=5"), "{line}");
        let sample = r#"echo_tls_streams_cut_total{fault="truncated"}"#;
        assert_eq!(admin.metrics().get(sample), cut);
    }
    assert_eq!(server.stop(), Some(0));
}

/// Keys that are changed without end cost work and bring nothing: rustls takes 32 changes between bytes of a stream,
/// and the stream is cut, as one of bytes that are no TLS.
#[test]
fn keys_may_not_change_for_ever() {
    let (server, config) = serve();
    let admin = Admin::of(&server);
    let broken = || admin.metrics().get(r#"echo_tls_streams_cut_total{fault="broken"}"#);
    let mut stream = connect(&server, &config);
    let change = |stream: &mut StreamOwned<ClientConnection, TcpStream>, times: usize| {
        (0..times).try_for_each(|_| {
            stream.conn.refresh_traffic_keys().unwrap();
            stream.flush()
        })
    };
    let mut back = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).unwrap();
    for _ in 0..3 {
        change(&mut stream, 32).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut back).unwrap();
        assert_eq!((&back, broken()), (b"hello", 0));
    }
    // The last of them may find the connection reset.
    let _ = change(&mut stream, 33);
    let end = stream.read(&mut back);
    assert!(end.is_err(), "{end:?}");
    server.wait_for_stderr("ending=failed");
    assert_eq!(broken(), 1);
}

/// What a session under TLS holds is no sign that its peer still sends: it ends in order, as without TLS.
#[test]
fn a_silent_peer_is_no_sender() {
    let (mut server, config) = serve();
    let mut stream = connect(&server, &config);
    let mut back = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0, "with close_notify");
}

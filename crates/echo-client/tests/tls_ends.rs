//! A server's stream that was cut under TLS is no end: the client says so, and by its exit code.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::daemon::program;

#[test]
fn a_cut_is_no_end_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tls");
    let made = Command::new(program())
        .args(["tls", "self-signed", "--name", "127.0.0.1", "--out"])
        .arg(&out)
        .output();
    assert!(made.unwrap().status.success());
    let cert = out.join("cert.pem");
    let builder = ServerConfig::builder_with_provider(echo_core::tls::provider());
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let chain = vec![CertificateDer::from_pem_file(&cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(out.join("key.pem")).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.send_tls13_tickets = 0;
    let config = Arc::new(config);
    for in_order in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("tls://{}?mode=raw", listener.local_addr().unwrap());
        let config = Arc::clone(&config);
        let serving = thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
            let mut came = Vec::new();
            stream.read_to_end(&mut came).unwrap();
            stream.write_all(&came).unwrap();
            if in_order {
                stream.conn.send_close_notify();
            }
            stream.flush().unwrap();
            stream.sock.shutdown(Shutdown::Write).unwrap();
            // Our end follows the client's, so that nothing is reset.
            let _ = stream.sock.read_to_end(&mut came);
        });
        let mut client = Command::new(env!("CARGO_BIN_EXE_echo-client"))
            .arg("--ca")
            .arg(&cert)
            .arg(&target)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        client.stdin.take().unwrap().write_all(b"hello").unwrap();
        let ended = client.wait_with_output().unwrap();
        serving.join().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.stdout, b"hello", "what came is shown in either case: {told}");
        if in_order {
            assert_eq!((ended.status.code(), told.as_str()), (Some(0), ""));
        } else {
            assert_eq!(ended.status.code(), Some(1), "{told}");
            assert!(told.starts_with("echo-client: closed early: "), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
    }
}

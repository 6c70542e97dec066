//! Certificates of the server: wrong ones told before it starts, new ones taken up while it serves.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;

use echo_core::client::{Client, Error, Options};
use echo_core::tls;
use rcgen::{CertificateParams, KeyPair};
use support::ending::{Settings, ends, with_args};
use support::{PATIENCE, Server};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// A certificate without an authority, and its key.
fn made() -> (String, String) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A client that trusts this certificate alone.
async fn connect(uri: &str, trusted: &str) -> Result<Client, Error> {
    let trusted = tls::Authorities::from_pem(trusted.as_bytes()).unwrap();
    let tls = Some(tls::Client::new(Some(trusted), None).unwrap());
    let options =
        Options { tls, connect_timeout: PATIENCE, timeout: PATIENCE, ..Options::default() };
    Client::connect(uri.parse::<echo_core::Endpoint>().unwrap(), options).await
}

#[test]
fn wrong_certificates_are_told_before_the_start() {
    let settings = Settings::new("");
    let path = |name: &str| settings.beside(name);
    let ((cert, key), (_, other_key)) = (made(), made());
    for (name, text) in [("cert", &cert), ("key", &key), ("other", &other_key)] {
        fs::write(path(name), text).unwrap();
    }
    fs::write(path("empty"), "").unwrap();
    fs::write(path("garbage"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let (cert, key) = (path("cert"), path("key"));
    let check = |args: &[&str]| {
        let listen = ["--listen", "tls://127.0.0.1:0", "check"];
        ends(with_args(&[args, &listen[..]].concat()))
    };
    let (code, told, _) = check(&["--tls-cert", &cert, "--tls-key", &key]);
    assert_eq!(code, Some(0), "{told}");
    for (args, told, expected) in [
        (vec![], "tls:// takes --tls-cert and --tls-key", 64),
        (vec!["--tls-cert", &*cert], "go together", 78),
        (vec!["--tls-key", &*key], "go together", 78),
        (vec!["--tls-client-ca", &*cert], "go together", 78),
        (vec!["--tls-cert", &*cert, "--tls-key", &*path("other")], "the key is not that of", 78),
        (vec!["--tls-cert", &*cert, "--tls-key", &*path("none")], "No such file", 78),
        (vec!["--tls-cert", "/", "--tls-key", &*key], "it is no file", 78),
        (vec!["--tls-cert", &*path("empty"), "--tls-key", &*key], "no certificate: write PEM", 78),
        (vec!["--tls-cert", &*path("garbage"), "--tls-key", &*key], "unreadable: ", 78),
        (vec!["--tls-cert", &*cert, "--tls-key", &*cert], "no private key: write PEM", 78),
    ] {
        let (code, _, stderr) = check(&args);
        assert!(stderr.contains(told), "{args:?}: {stderr}");
        assert_eq!((code, stderr.lines().count()), (Some(expected), 1), "{args:?}: {stderr}");
    }
}

/// New certificates under load: who is connected goes on, and who comes gets the new one. A wrong one
/// changes nothing.
#[test]
fn a_reload_takes_up_new_certificates() {
    let settings = Settings::new("");
    let path = |name: &str| settings.beside(name);
    let write = |(cert, key): &(String, String)| {
        fs::write(path("cert"), cert).unwrap();
        fs::write(path("key"), key).unwrap();
    };
    let first = made();
    write(&first);
    let (cert, key, control) = (path("cert"), path("key"), path("control"));
    let args = [
        "--listen",
        "tls://127.0.0.1:0",
        "--control",
        &control,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ];
    let mut server = Server::start_command(with_args(&args), 1);
    let reload = || ends(with_args(&["ctl", "reload", "--control", &control]));
    let uri = server.uris()[0].clone();
    let (code, told, _) = ends(with_args(&["healthcheck", &uri]));
    assert!(code == Some(0) && told.contains("framed, TLS"), "{told}");
    Runtime::new().unwrap().block_on(async {
        let mut busy = JoinSet::new();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        for _ in 0..4 {
            let mut client = connect(&uri, &first.0).await.unwrap();
            let stopped = stopped.clone();
            busy.spawn(async move {
                let message = vec![7; 20_000];
                while !*stopped.borrow() {
                    assert_eq!(client.echo(&message).await.unwrap().payload, message);
                }
            });
        }
        let mut before = first.clone();
        for _ in 0..5 {
            let new = made();
            write(&new);
            assert_eq!(reload().0, Some(0));
            connect(&uri, &new.0).await.unwrap().echo(b"new").await.unwrap();
            let error = connect(&uri, &before.0).await.unwrap_err();
            assert!(error.to_string().starts_with("untrusted: "), "{error}");
            before = new;
        }
        fs::write(path("key"), made().1).unwrap();
        let (code, _, told) = reload();
        assert_eq!(code, Some(1));
        assert!(told.contains("the key is not that of the first certificate"), "{told}");
        connect(&uri, &before.0).await.unwrap().echo(b"as before").await.unwrap();
        stop.send(true).unwrap();
        while let Some(client) = busy.join_next().await {
            client.unwrap();
        }
    });
    assert_eq!(server.stop(), Some(0));
}

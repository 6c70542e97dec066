//! Certificates of the server: wrong ones told before it starts, new ones taken up while it serves.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    let ((cert_text, key_text), (_, other_key)) = (made(), made());
    for (name, text) in [("cert", &cert_text), ("key", &key_text), ("other", &other_key)] {
        fs::write(path(name), text).unwrap();
    }
    fs::write(path("empty"), "").unwrap();
    fs::write(path("garbage"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let (cert, key) = (path("cert"), path("key"));
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(path("encrypted"), encrypted).unwrap();
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
        -----END RSA PRIVATE KEY-----\n";
    fs::write(path("older"), older).unwrap();
    fs::write(path("cut"), &key_text[..key_text.len() / 2]).unwrap();
    fs::write(path("typo"), key_text.replacen('M', "!", 1)).unwrap();
    fs::write(path("cut-cert"), &cert_text[..cert_text.len() / 2]).unwrap();
    let encrypted_key = |name: &str| {
        let key = path(name);
        format!("cannot use {key}: the key is encrypted: decrypt it (openssl pkey -in {key}")
    };
    let cut = |name: &str| format!("cannot use {}: unreadable: it is cut off:", path(name));
    let damaged = |name: &str| format!("cannot use {}: unreadable: ", path(name));
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
        (vec!["--tls-cert", &*path("garbage"), "--tls-key", &*key], &damaged("garbage"), 78),
        (vec!["--tls-cert", &*path("cut-cert"), "--tls-key", &*key], &cut("cut-cert"), 78),
        (vec!["--tls-cert", &*cert, "--tls-key", &*path("cut")], &cut("cut"), 78),
        (vec!["--tls-cert", &*cert, "--tls-key", &*path("typo")], &damaged("typo"), 78),
        (
            vec!["--tls-cert", &*cert, "--tls-key", &*path("encrypted")],
            &encrypted_key("encrypted"),
            78,
        ),
        (vec!["--tls-cert", &*cert, "--tls-key", &*path("older")], &encrypted_key("older"), 78),
        (vec!["--tls-cert", &*cert, "--tls-key", &*cert], "no private key: write PEM", 78),
    ] {
        let (code, _, stderr) = check(&args);
        assert!(stderr.contains(told), "{args:?}: {stderr}");
        assert_eq!((code, stderr.lines().count()), (Some(expected), 1), "{args:?}: {stderr}");
    }
}

/// A certificate whose time is wrong is told by `check`, at the start and at a reload, in a line each; the server
/// starts all the same.
#[test]
fn certificates_whose_time_is_wrong_are_told() {
    let settings = Settings::new("");
    let path = |name: &str| settings.beside(name);
    let (cert, key, control) = (path("cert"), path("key"), path("control"));
    let write = |begin: i64, end: i64| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let today = rcgen::date_time_ymd(1970, 1, 1) + now;
        // An hour and a half more, so that neither day nor hour is over while this runs.
        let day = |days: i64| Duration::from_secs(days.unsigned_abs() * 86_400 + 5400);
        params.not_before = if begin < 0 { today - day(begin) } else { today + day(begin) };
        params.not_after = if end < 0 { today - day(end) } else { today + day(end) };
        let made = KeyPair::generate().unwrap();
        fs::write(&cert, params.self_signed(&made).unwrap().pem()).unwrap();
        fs::write(&key, made.serialize_pem()).unwrap();
    };
    let common = ["--listen", "tls://127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
    let check = || ends(with_args(&[&common[..], &["check"]].concat()));
    let cases = [
        (-2, 40, None),
        (-2, 29, Some("expires in 29 days")),
        (-2, 0, Some("expires in 1 hour")),
        (-9, -3, Some("has expired 3 days ago: clients refuse it")),
        (2, 90, Some("is not valid before 2 days from now: clients refuse it")),
    ];
    for (begin, end, told) in cases {
        write(begin, end);
        let (code, stdout, stderr) = check();
        assert_eq!((code, stderr.as_str(), stdout.lines().count()), (Some(0), "", 1), "{stdout}");
        let told = told.map(|told| format!("; but the certificate in {cert} {told}"));
        assert!(
            told.map_or_else(|| !stdout.contains("but"), |told| stdout.trim_end().ends_with(&told)),
            "{stdout}"
        );
    }
    write(-9, -3);
    let args = [&common[..], &["--control", &control]].concat();
    let mut server = Server::start_command(with_args(&args), 1);
    server.wait_for_stderr(&format!("WARN the certificate in {cert} has expired 3 days ago"));
    for (begin, end, told) in cases {
        write(begin, end);
        assert_eq!(ends(with_args(&["ctl", "reload", "--control", &control])).0, Some(0));
        if let Some(told) = told {
            server.wait_for_stderr_times(told, 1);
        }
    }
    assert_eq!(server.stop(), Some(0));
    let told = server.stderr().lines().filter(|line| line.contains("WARN")).count();
    assert_eq!(told, 5, "one line each: {}", server.stderr());
    // Of a chain the worst.
    let good = made();
    fs::write(&cert, format!("{}{}", good.0, fs::read_to_string(&cert).unwrap())).unwrap();
    fs::write(&key, good.1).unwrap();
    let (_, stdout, _) = check();
    assert!(
        stdout.contains(&format!("but an authority's certificate in {cert} is not")),
        "{stdout}"
    );
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

/// Metrics and the access log name a listener as it was written.
#[test]
fn a_listener_is_told_as_it_was_written() {
    let settings = Settings::new("");
    let (cert, key) = made();
    fs::write(settings.beside("cert"), &cert).unwrap();
    fs::write(settings.beside("key"), key).unwrap();
    let (cert_path, key_path) = (settings.beside("cert"), settings.beside("key"));
    let args = ["--listen=tls://127.0.0.1:0", "--listen=tcp://127.0.0.1:0", "--access-log"];
    let tls = ["--admin=127.0.0.1:0", "--tls-cert", &cert_path, "--tls-key", &key_path];
    let server = Server::start(&[&args[..], &tls].concat());
    let (uri, plain) = (server.uris()[0].clone(), server.uris()[1].clone());
    Runtime::new().unwrap().block_on(async {
        drop(connect(&uri, &cert).await.unwrap());
    });
    server.wait_for_stderr(&format!("listener=\"{uri}\""));
    let metrics = support::http::Admin::of(&server).metrics();
    for (uri, count) in [(uri, 1), (plain, 0)] {
        let sample = format!("echo_connections_accepted_total{{listener=\"{uri}\"}}");
        assert!(metrics.0.contains(&format!("{sample} {count}\n")), "{sample} in:\n{}", metrics.0);
    }
}

/// A reload may change how one address is spoken with: its counts go on under the new name, and who came before is
/// told as what it was.
#[test]
fn a_listener_that_changes_is_told_as_it_is_now() {
    let settings = Settings::new("");
    let (cert, key) = made();
    fs::write(settings.beside("cert"), &cert).unwrap();
    fs::write(settings.beside("key"), key).unwrap();
    let (cert_path, key_path) = (settings.beside("cert"), settings.beside("key"));
    let control = settings.beside("control");
    let write = |scheme: &str| {
        settings.write(&format!(
            "listen = [\"{scheme}://127.0.0.1:0\"]\ntls-cert = {cert_path:?}\ntls-key = {key_path:?}\n"
        ));
    };
    write("tcp");
    let args = ["--config", settings.path(), "--control", &control, "--access-log"];
    let server =
        Server::start_command(with_args(&[&args[..], &["--admin=127.0.0.1:0"]].concat()), 1);
    let admin = support::http::Admin::of(&server);
    let plain = server.uris()[0].clone();
    let secured = plain.replace("tcp:", "tls:");
    let before = support::traffic::Peer::connect(&plain);
    before.hello();
    let reload = |scheme: &str| {
        write(scheme);
        assert_eq!(ends(with_args(&["ctl", "reload", "--control", &control])).0, Some(0));
    };
    let assert_told = |now: &str, other: &str, accepted: u64| {
        let metrics = admin.metrics();
        let sample = format!("echo_connections_accepted_total{{listener=\"{now}\"}} {accepted}\n");
        assert!(metrics.0.contains(&sample), "{sample} in:\n{}", metrics.0);
        assert!(!metrics.0.contains(other), "{other} in:\n{}", metrics.0);
    };
    assert_told(&plain, &secured, 1);
    reload("tls");
    assert_told(&secured, &plain, 1);
    drop(before);
    server.wait_for_stderr(&format!("listener=\"{plain}\""));
    Runtime::new().unwrap().block_on(async {
        drop(connect(&secured, &cert).await.unwrap());
    });
    server.wait_for_stderr(&format!("listener=\"{secured}\""));
    reload("tcp");
    assert_told(&plain, &secured, 2);
}

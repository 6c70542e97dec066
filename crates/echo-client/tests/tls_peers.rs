//! TLS of other hands: servers of OpenSSL's and socat's, and certificates that openssl has made.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use support::daemon::{Daemon, program};
use support::peer::Peer;
use support::*;

/// Where these servers listen, and nobody else's.
const HOST: &str = "127.0.0.79";

/// A folder with a server's certificate, and an authority and a client's certificate of openssl's making.
struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let house = Self { folder: tempfile::tempdir().unwrap() };
        let out = house.text("server");
        house.run(
            program().to_str().unwrap(),
            &["tls", "self-signed", "--name", HOST, "--out", &out],
        );
        let new = ["req", "-x509", "-newkey", "ed25519", "-nodes"];
        house.openssl(
            &[&new[..], &["-subj", "/CN=clients", "-keyout", "ca.key", "-out", "ca.pem"]].concat(),
        );
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=alice"];
        let kind = [
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-addext",
            "extendedKeyUsage=clientAuth",
        ];
        let files = ["-keyout", "alice.key", "-out", "alice.pem"];
        house.openssl(&[&new[..], &signed, &kind, &files].concat());
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn openssl(&self, args: &[&str]) {
        self.run("openssl", args);
    }

    fn run(&self, command: &str, args: &[&str]) {
        let output = Command::new(command).args(args).current_dir(self.folder.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A server of other hands: a shell's command in the folder, to which `$PORT` is free.
    fn serve(&self, command: &str) -> (Peer, String) {
        let port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port();
        let folder = self.folder.path().display();
        let script = format!("cd '{folder}' && PORT={port} && ADDRESS={HOST}:{port} && {command}");
        (Peer::start("sh", &["-c", &script]), format!("tls://{HOST}:{port}"))
    }

    /// What trusts the server, and waits for it.
    fn trusting(&self) -> [String; 5] {
        let ca = self.text("server/cert.pem");
        ["--ca", &ca, "--retry", "60s", "-q"].map(str::to_owned)
    }
}

fn client(task: &[&str], args: &[String]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_echo-client"))
        .args(task)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Who forgot that a server speaks TLS is told.
#[test]
fn plain_targets_of_tls_servers_are_told() {
    if !has("plain_targets_of_tls_servers_are_told", "openssl", "version") {
        return;
    }
    let house = House::new();
    let tls =
        ["--tls-cert", &house.text("server/cert.pem"), "--tls-key", &house.text("server/key.pem")];
    let ours = Daemon::start(&[&["--listen", &format!("tls://{HOST}:0")][..], &tls].concat());
    let server = "mkfifo loop && exec openssl s_server -quiet -accept $ADDRESS -tls1_3 \
                  -cert server/cert.pem -key server/key.pem 0<>loop 1>loop";
    let (_theirs, uri) = house.serve(server);
    // It is there.
    assert_eq!(client(&["send", &uri, "hi"], &house.trusting()).0, Some(0));
    // OpenSSL's has no word for what is no TLS.
    for (uri, told_so) in [
        (&ours.target, "the server speaks TLS there: try tls://\n"),
        (&uri, "one of TLS tls://HOST:PORT)\n"),
    ] {
        let plain = uri.replace("tls://", "tcp://");
        let file = house.text("ca.pem");
        for (task, arg) in [("send", "a"), ("ls", "a"), ("put", &file), ("get", "a"), ("rm", "a")] {
            let (code, told) = client(&[task, &plain, arg, "--retry=0"], &[]);
            assert_eq!(code, Some(1), "{told}");
            assert!(told.ends_with(told_so), "{task}: {told}");
        }
    }
}

/// By the file that is at fault, in words about it.
#[test]
fn keys_that_cannot_be_used_are_told_by_their_file() {
    if !has("keys_that_cannot_be_used_are_told_by_their_file", "openssl", "version") {
        return;
    }
    let house = House::new();
    let new = ["genpkey", "-algorithm", "RSA", "-out", "rsa.key"];
    house.openssl(&new);
    let locked = ["-passout", "pass:secret"];
    house.openssl(
        &[&["pkcs8", "-topk8", "-in", "rsa.key", "-out", "new.key"][..], &locked].concat(),
    );
    let old = ["rsa", "-aes256", "-traditional", "-in", "rsa.key", "-out", "old.key"];
    house.openssl(&[&old[..], &locked].concat());
    let whole = fs::read_to_string(house.path("alice.key")).unwrap();
    let cert = fs::read_to_string(house.path("alice.pem")).unwrap();
    fs::write(house.path("cut.key"), whole.replace("-----END", "")).unwrap();
    fs::write(house.path("odd.key"), whole.replace("\nM", "\n?")).unwrap();
    fs::write(house.path("odd.pem"), cert.replace("\nM", "\n?")).unwrap();
    fs::write(house.path("cut.pem"), cert.replace("-----END", "")).unwrap();
    fs::write(house.path("broken.pem"), cert.replace("CERTIFICATE-----", "CERTIFICATE")).unwrap();
    fs::write(house.path("false.pem"), cert.replace("\nM", "\nN")).unwrap();
    let base64 = "unreadable: what stands between -----BEGIN and -----END is no Base64";
    let cut = "unreadable: it is cut off: an -----END line is missing";
    for (shown, key, at, why) in [
        ("alice.pem", "new.key", "new.key", "the key is encrypted: decrypt it (openssl pkey -in "),
        ("alice.pem", "old.key", "old.key", "the key is encrypted: decrypt it (openssl pkey -in "),
        ("alice.pem", "cut.key", "cut.key", cut),
        ("alice.pem", "odd.key", "odd.key", base64),
        ("alice.pem", "ca.pem", "ca.pem", "no private key: "),
        ("alice.pem", "ca.key", "ca.key", "the key is not that of the first certificate"),
        ("odd.pem", "alice.key", "odd.pem", base64),
        ("cut.pem", "alice.key", "cut.pem", cut),
        ("broken.pem", "alice.key", "broken.pem", "unreadable: a -----BEGIN line of it is broken"),
        ("false.pem", "alice.key", "false.pem", "unreadable: "),
        ("alice.key", "alice.key", "alice.key", "no certificate: "),
    ] {
        let (cert, key) = (house.text(shown), house.text(key));
        let (code, told) =
            client(&["send", "tls://127.0.0.1:1", "hi", "--cert", &cert, "--key", &key], &[]);
        let expected = format!("{}: {why}", house.text(at));
        assert!(code == Some(1) && told.lines().count() == 1, "{told}");
        assert!(told.starts_with("echo-client: cannot use ") && told.contains(&expected), "{told}");
        assert!(!told.contains("Base64Decode") && !told.contains("EncodingError"), "{told}");
        let other = if at == shown { key } else { cert };
        assert!(
            why.contains("first certificate") || at == "alice.key" || !told.contains(&other),
            "{told}"
        );
    }
    let (code, told) =
        client(&["send", "tls://127.0.0.1:1", "hi", "--ca", &house.text("odd.pem")], &[]);
    assert_eq!(
        (code, told),
        (Some(1), format!("echo-client: cannot use {}: {base64}\n", house.text("odd.pem")))
    );
}

/// A certificate can be trusted by itself where it is signed by itself, and is no authority's.
#[test]
fn certificates_are_trusted_by_themselves_as_the_help_says() {
    if !has("certificates_are_trusted_by_themselves_as_the_help_says", "openssl", "version") {
        return;
    }
    let house = House::new();
    let new = ["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=server"];
    let name = format!("subjectAltName=IP:{HOST}");
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
    let make = |name_of: &str, more: &[&str]| {
        let (key, pem) = (format!("{name_of}.key"), format!("{name_of}.pem"));
        let files = ["-addext", &name, "-keyout", &key, "-out", &pem];
        house.openssl(&[&new[..], &files, more].concat());
    };
    make("own", &leaf);
    make("authority", &[]);
    make("signed", &[&leaf[..], &["-CA", "ca.pem", "-CAkey", "ca.key"]].concat());
    let help = Command::new(env!("CARGO_BIN_EXE_echo-client")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("if it is signed by itself and no authority's (CA:FALSE)"), "{help}");
    for (shown, trusted, told) in [
        ("own", "own", None),
        ("signed", "ca", None),
        ("signed", "signed", Some("give the certificate of its authority")),
        ("authority", "authority", Some("it needs one that is not (CA:FALSE)")),
    ] {
        let (cert, key) =
            (house.text(&format!("{shown}.pem")), house.text(&format!("{shown}.key")));
        let listen = format!("tls://{HOST}:0");
        let daemon = Daemon::start(&["--listen", &listen, "--tls-cert", &cert, "--tls-key", &key]);
        let ca = house.text(&format!("{trusted}.pem"));
        let (code, text) = client(&["send", &daemon.target, "hi", "--ca", &ca], &[]);
        match told {
            None => assert_eq!((code, &*text), (Some(0), "hi\n"), "{shown} {trusted}"),
            Some(told) => assert!(code == Some(1) && text.contains(told), "{shown}: {text}"),
        }
    }
}

/// OpenSSL's s_server, whose output is its input: an echo. It asks for a certificate as well, and gets one.
#[test]
fn sends_to_openssl() {
    if !has("sends_to_openssl", "openssl", "version") {
        return;
    }
    let house = House::new();
    let server = "mkfifo loop && exec openssl s_server -quiet -accept $ADDRESS -tls1_3 \
                  -cert server/cert.pem -key server/key.pem";
    let (_server, uri) = house.serve(&format!("{server} 0<>loop 1>loop"));
    let raw = format!("{uri}?mode=raw");
    let task = ["send", &raw, "one", "two words"];
    assert_eq!(client(&task, &house.trusting()), (Some(0), "one\ntwo words\n".to_owned()));
    // It echoes HELLO too, which is found out.
    assert_eq!(client(&["send", &uri, "hi"], &house.trusting()), (Some(0), "hi\n".to_owned()));
    let (code, told) = client(&["send", &raw, "hi", "--ca", &house.text("ca.pem")], &[]);
    assert!(code == Some(1) && told.starts_with("echo-client: untrusted: "), "{told}");
    // One that takes whom its authority vouches for.
    let house = House::new();
    let (_server, uri) = house
        .serve(&format!("{server} -Verify 1 -CAfile ca.pem -verify_return_error 0<>loop 1>loop"));
    let raw = format!("{uri}?mode=raw");
    let shown =
        ["--cert", &house.text("alice.pem"), "--key", &house.text("alice.key")].map(str::to_owned);
    let with = [&house.trusting()[..], &shown].concat();
    assert_eq!(client(&["send", &raw, "hi"], &with), (Some(0), "hi\n".to_owned()));
    let (code, told) = client(&["send", &raw, "hi"], &house.trusting());
    assert!(code == Some(1) && told.starts_with("echo-client: refused: "), "{told}");
}

/// Its `-rev` is no echo, which is told, but where a line reads the same from either end.
#[test]
fn openssl_that_reverses_is_told() {
    if !has("openssl_that_reverses_is_told", "openssl", "version") {
        return;
    }
    let house = House::new();
    let server =
        "exec openssl s_server -rev -accept $ADDRESS -cert server/cert.pem -key server/key.pem";
    let (_server, uri) = house.serve(server);
    let raw = format!("{uri}?mode=raw");
    let (code, told) = client(&["send", &raw, "abba\n"], &house.trusting());
    assert!(code == Some(0) && told.starts_with("abba"), "{told}");
    let (code, told) = client(&["send", &raw, "abcd\n"], &house.trusting());
    assert!(code == Some(1) && told.starts_with("echo-client: different at byte 0: "), "{told}");
}

/// A certificate that openssl has made lets its user in, by our client and by openssl's; the password is another way.
#[test]
fn certificates_of_openssl_let_users_in() {
    if !has("certificates_of_openssl_let_users_in", "openssl", "version") {
        return;
    }
    let house = House::new();
    let text = |name: &str| house.text(name);
    let (users, password) = (text("users.toml"), text("password"));
    fs::write(&password, "secret").unwrap();
    let ours = program().to_str().unwrap();
    house.run(ours, &["user", "add", "alice", "--no-password", "--users", &users]);
    let bob = ["user", "add", "bob", "--password-file", &password, "--users", &users];
    house.run(ours, &bob);
    let listen = format!("tls://{HOST}:0?auth=required");
    let (cert, key, ca) = (text("server/cert.pem"), text("server/key.pem"), text("ca.pem"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let daemon = Daemon::start(&[&["--listen", &listen, "--users", &users][..], &tls].concat());
    let uri = daemon.target.split('?').next().unwrap().to_owned();
    let task = ["send", &uri, "hi", "--ca", &cert];
    let (shown, its_key) = (text("alice.pem"), text("alice.key"));
    let certificate = ["--cert", &shown, "--key", &its_key];
    let bob = ["--user", "bob", "--password-file", &password];
    let alice = ["--user", "alice", "--password-file", &password];
    let came_in = (Some(0), "hi\n".to_owned());
    assert_eq!(client(&[&task[..], &certificate].concat(), &[]), came_in);
    assert_eq!(client(&[&task[..], &bob].concat(), &[]), came_in);
    assert_eq!(client(&[&task[..], &certificate, &bob].concat(), &[]), came_in);
    for (with, told) in [
        (
            &[][..],
            "refused: the server says: authenticate first (error 5, denied): give --user NAME, or under tls:// --cert FILE --key FILE",
        ),
        (&alice, "denied: wrong name or password"),
    ] {
        let told = format!("echo-client: {told}\n");
        assert_eq!(client(&[&task[..], with].concat(), &[]), (Some(1), told));
    }
    // One that is no user's is told from none.
    let others = text("others.toml");
    house.run(ours, &["user", "add", "bob", "--password-file", &password, "--users", &others]);
    let stranger = Daemon::start(&[&["--listen", &listen, "--users", &others][..], &tls].concat());
    let uri_there = stranger.target.split('?').next().unwrap();
    let told = "echo-client: refused: the server says: authenticate first (error 5, denied): the certificate is \
                no user's there: give that of one, or --user NAME\n";
    let task = ["send", uri_there, "hi", "--ca", &cert];
    assert_eq!(client(&[&task[..], &certificate].concat(), &[]), (Some(1), told.to_owned()));
    // Text by openssl, whose input stays open until the reply is there.
    let address = uri.trim_start_matches("tls://");
    let mut openssl = Command::new("openssl")
        .args(["s_client", "-quiet", "-no_ign_eof", "-connect", address, "-CAfile", &cert])
        .args(["-cert", &shown, "-key", &its_key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    openssl.stdin.as_ref().unwrap().write_all(b"hello\n").unwrap();
    let mut reply = [0; 6];
    openssl.stdout.take().unwrap().read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello\n");
    drop(openssl.stdin.take());
    openssl.wait().unwrap();
}

/// socat's, through which any size comes back, and the end in order.
#[test]
fn copies_through_socat_under_tls() {
    if !has("copies_through_socat_under_tls", "socat", "-V")
        || !has("the same", "openssl", "version")
    {
        return;
    }
    let house = House::new();
    // After the client's end it waits for cat's.
    let (_server, uri) = house.serve(
        "exec socat -t 60 OPENSSL-LISTEN:$PORT,bind=127.0.0.79,fork,reuseaddr,verify=0,\
         cert=server/cert.pem,key=server/key.pem EXEC:cat",
    );
    let target = format!("{uri}?mode=raw");
    let args = house.trusting();
    let args: Vec<_> = args.iter().map(String::as_str).chain([target.as_str()]).collect();
    for size in [0, 1, 16_384, 16_385, 65_537, 1 << 20] {
        pipe(&args, &noise(size)).copied(&noise(size));
    }
}

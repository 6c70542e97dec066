//! With libgsasl at the other end: both mechanisms, either side, right and wrong.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use echo_scram::{Binding, Client, Credentials, Error, Mechanism, Password, Server, Verifier};

/// Debian's Python: another one may lie before it in the path.
const PYTHON: &str = "/usr/bin/python3";

const EXPORTER: [u8; 32] = [7; 32];

/// libgsasl at one side.
struct Gsasl {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Gsasl {
    fn start(side: &str, mechanism: Mechanism, user: &str, password: &str, exporter: &str) -> Self {
        let mut child = Command::new(PYTHON)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gsasl.py"))
            .args([side, mechanism.name(), user, password, exporter])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { stdin: child.stdin.take(), stdout, child }
    }

    /// What it says; nothing once it has failed.
    fn hear(&mut self) -> Vec<u8> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        STANDARD.decode(line.trim()).unwrap()
    }

    fn say(&mut self, message: &[u8]) {
        // It may have ended: its code says why.
        let _ = writeln!(self.stdin.as_ref().unwrap(), "{}", STANDARD.encode(message));
    }

    /// Whether the exchange has succeeded for it.
    fn succeeds(mut self) -> bool {
        self.stdin = None;
        self.child.wait().unwrap().success()
    }
}

/// Whether libgsasl is there, with channel binding by the exporter (2.2.0 and later).
fn is_there() -> bool {
    let probe = "import ctypes, sys; g = ctypes.CDLL('libgsasl.so.18'); \
                 g.gsasl_check_version.restype = ctypes.c_char_p; \
                 sys.exit(g.gsasl_check_version(b'2.2.0') is None)";
    let found = Command::new(PYTHON).args(["-c", probe]).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    eprintln!("SKIPPED gsasl: libgsasl 2.2.0 or later, and python3");
    assert!(std::env::var_os("CI").is_none_or(|it| it != "true"), "CI has it");
    false
}

/// The mechanism, what our side binds to, and what libgsasl's does.
fn channels() -> [(Mechanism, Option<Vec<u8>>, String); 2] {
    [
        (Mechanism::Sha256, None, "-".to_owned()),
        (Mechanism::Sha256Plus, Some(EXPORTER.to_vec()), STANDARD.encode(EXPORTER)),
    ]
}

const USERS: [(&str, &str); 4] = [
    ("user", "pencil"),
    ("a,b=c", "p,=x"),
    ("m\u{fc}ller", "pa\u{df}wort"),
    ("\u{2168}", "I\u{ad}X"),
];

#[test]
fn our_client_and_its_server() {
    if !is_there() {
        return;
    }
    for (mechanism, binding, exporter) in channels() {
        for (user, password) in USERS {
            for wrong in [false, true] {
                let mut server = Gsasl::start("server", mechanism, user, password, &exporter);
                let given = if wrong { "another" } else { password };
                let credentials = Credentials::new(user, Password::new(given).unwrap()).unwrap();
                let binding = binding.clone().map_or(Binding::Unsupported, Binding::TlsExporter);
                let (client, first) = Client::start(Arc::new(credentials), binding).unwrap();
                server.say(&first);
                let (client, proof) = client.answer(&server.hear()).unwrap();
                server.say(&proof);
                let judged = client.verify(&server.hear());
                assert_eq!(judged.is_ok(), !wrong, "{mechanism:?} {user} {judged:?}");
                assert_eq!(server.succeeds(), !wrong, "{mechanism:?} {user}");
            }
        }
    }
}

#[test]
fn its_client_and_our_server() {
    if !is_there() {
        return;
    }
    for (mechanism, binding, exporter) in channels() {
        for (user, password) in USERS {
            for wrong in [false, true] {
                let given = if wrong { "another" } else { password };
                let mut client = Gsasl::start("client", mechanism, user, given, &exporter);
                let server = Server::start(mechanism, binding.as_deref(), &client.hear()).unwrap();
                assert_eq!(server.user(), echo_scram::prepare_name(user).unwrap());
                let password = Password::new(password).unwrap();
                let verifier = Verifier::derive(&password, 4096).unwrap();
                let (server, challenge) = server.challenge(verifier).unwrap();
                client.say(&challenge);
                let judged = server.finish(&client.hear());
                if let Ok(signature) = &judged {
                    client.say(signature);
                }
                assert_eq!(judged.is_ok(), !wrong, "{mechanism:?} {user} {judged:?}");
                assert_eq!(client.succeeds(), !wrong, "{mechanism:?} {user}");
            }
        }
    }
}

/// Another channel than the client's: somebody sits in between.
#[test]
fn a_foreign_channel_is_denied_by_both() {
    if !is_there() {
        return;
    }
    let (mechanism, other) = (Mechanism::Sha256Plus, STANDARD.encode([8; 32]));
    let mut client = Gsasl::start("client", mechanism, "user", "pencil", &other);
    let server = Server::start(mechanism, Some(&EXPORTER), &client.hear()).unwrap();
    let verifier = Verifier::derive(&Password::new("pencil").unwrap(), 4096).unwrap();
    let (server, challenge) = server.challenge(verifier).unwrap();
    client.say(&challenge);
    assert_eq!(server.finish(&client.hear()), Err(Error::OtherChannel));
    assert!(!client.succeeds());

    let mut server = Gsasl::start("server", mechanism, "user", "pencil", &other);
    let credentials = Credentials::new("user", Password::new("pencil").unwrap()).unwrap();
    let binding = Binding::TlsExporter(EXPORTER.to_vec());
    let (client, first) = Client::start(Arc::new(credentials), binding).unwrap();
    server.say(&first);
    let (_, proof) = client.answer(&server.hear()).unwrap();
    server.say(&proof);
    assert!(!server.succeeds());
}

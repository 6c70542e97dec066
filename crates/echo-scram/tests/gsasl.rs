//! Both sides against an implementation of other hands: GNU SASL.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use echo_scram::{Binding, Client, Credentials, Mechanism, Password, Server, Verifier};

const EXPORTED: [u8; 32] = [0x5a; 32];
/// Debian's own, which sees Debian's libraries.
const PYTHON: &str = "/usr/bin/python3";

/// The other side.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(side: &str, mechanism: Mechanism, password: &str, bound: bool) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gsasl/peer.py");
        let exported = if bound { BASE64.encode(EXPORTED) } else { String::new() };
        let mut child = Command::new(PYTHON)
            .args([script, side, mechanism.name(), "user", password, &exported])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    fn say(&mut self, message: &[u8]) {
        writeln!(self.input, "{}", BASE64.encode(message)).unwrap();
    }

    /// Its next message, or how it ended.
    fn hear(&mut self) -> Result<Vec<u8>, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        match line.trim_end_matches('\n').split_at_checked(2) {
            Some(("> ", message)) => Ok(BASE64.decode(message).unwrap()),
            Some(("= ", how)) => Err(how.to_owned()),
            _ => panic!("not a line of the peer's: {line:?}"),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the library is here: a run that must not skip fails without.
fn is_here(test: &str) -> bool {
    let found = Command::new(PYTHON)
        .args(["-c", "import ctypes; ctypes.CDLL('libgsasl.so.18')"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "libgsasl18 is not installed");
        eprintln!("SKIPPED {test}: libgsasl18 is not installed");
    }
    found
}

/// Our server, their client.
fn serve(mechanism: Mechanism, password: &str, theirs: bool, ours: bool) -> Result<(), String> {
    let verifier = Verifier::derive(&Password::new("pencil").unwrap(), 4096).unwrap();
    let mut peer = Peer::start("client", mechanism, password, theirs);
    let binding = ours.then_some(&EXPORTED[..]);
    let server = Server::start(mechanism, binding, &peer.hear()?).map_err(|it| it.to_string())?;
    assert_eq!(server.user(), "user");
    let (server, challenge) = server.challenge(verifier).unwrap();
    peer.say(&challenge);
    let signature = server.finish(&peer.hear()?).map_err(|it| it.to_string())?;
    peer.say(&signature);
    loop {
        match peer.hear() {
            Ok(_) => {}
            Err(how) if how == "GSASL_OK" => return Ok(()),
            Err(how) => return Err(how),
        }
    }
}

/// Our client, their server.
fn ask(password: &str, binding: Binding, theirs: bool) -> Result<(), String> {
    let credentials = Credentials::new("user", Password::new(password).unwrap()).unwrap();
    let mechanism = binding.mechanism();
    let (client, first) = Client::start(Arc::new(credentials), binding).unwrap();
    let mut peer = Peer::start("server", mechanism, "pencil", theirs);
    peer.say(&first);
    let (client, proof) = client.answer(&peer.hear()?).map_err(|it| it.to_string())?;
    peer.say(&proof);
    client.verify(&peer.hear()?).map_err(|it| it.to_string())
}

#[test]
fn gnu_sasl_authenticates_with_us() {
    if !is_here("gnu_sasl_authenticates_with_us") {
        return;
    }
    assert_eq!(serve(Mechanism::Sha256, "pencil", false, false), Ok(()));
    assert_eq!(serve(Mechanism::Sha256Plus, "pencil", true, true), Ok(()));
    let wrong = serve(Mechanism::Sha256, "pencils", false, false).unwrap_err();
    assert_eq!(wrong, "authentication failed");
}

#[test]
fn we_authenticate_with_gnu_sasl() {
    if !is_here("we_authenticate_with_gnu_sasl") {
        return;
    }
    assert_eq!(ask("pencil", Binding::Unsupported, false), Ok(()));
    assert_eq!(ask("pencil", Binding::TlsExporter(EXPORTED.to_vec()), true), Ok(()));
    assert!(ask("pencils", Binding::Unsupported, false).unwrap_err().starts_with("GSASL_"));
    let between = ask("pencil", Binding::TlsExporter(vec![0; 32]), true).unwrap_err();
    assert!(between.starts_with("GSASL_"), "{between}");
}

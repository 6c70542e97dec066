//! Users: every state of AUTH with every frame over real sockets, the file and its commands, slowed
//! tries, reload, and secrets that are found nowhere.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::collections::HashSet;
use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use echo_scram::{Binding, Client, Credentials, Password, Proven};
use proptest::prelude::*;
use support::http::Admin;
use support::process::{eventually, long};
use support::traffic::*;
use support::{PATIENCE, Server, Signal};

const AUTH: u8 = 0x84;
const PASSWORD: &str = "canary-Wq7x2";
const REQUIRED: usize = 0;
const OPEN: usize = 1;

/// A folder with a file of users: alice may echo, bob may not.
struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let house = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(house.path("password"), format!("{PASSWORD}\n")).unwrap();
        assert_eq!(house.user(&["add", "alice", "--allow", "echo,put"], true), "added alice\n");
        house.user(&["add", "bob", "--allow", "list,get"], true);
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command for users that must do, and gives its output.
    fn user(&self, args: &[&str], password: bool) -> String {
        let (code, stdout, stderr) = self.try_user(args, password);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        stdout
    }

    fn try_user(&self, args: &[&str], password: bool) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        command.arg("user").args(args).arg("--users").arg(self.path("users.toml"));
        if password {
            command.arg("--password-file").arg(self.path("password"));
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// A server with a listener for users alone and one for everybody.
    fn open(&self, more: &[&str]) -> Server {
        let users = format!("--users={}", self.path("users.toml").display());
        let listen = ["--listen=tcp://127.0.0.1:0?auth=required", "--listen=tcp://127.0.0.1:0"];
        Server::start(&[&[users.as_str()], &listen[..], more].concat())
    }
}

fn start(initial: &[u8]) -> Vec<u8> {
    frame(AUTH, &[b"\0\x0dSCRAM-SHA-256", initial].concat())
}

fn response(data: &[u8]) -> Vec<u8> {
    frame(AUTH, &[b"\x01", data].concat())
}

/// A client that has said who it is.
fn client(user: &str, password: &str) -> (Client, Vec<u8>) {
    let password = Password::new(password).unwrap();
    let credentials = Arc::new(Credentials::new(user, password).unwrap());
    Client::start(credentials, Binding::Unsupported).unwrap()
}

/// Connects and says HELLO, without which an auto-mode listener takes AUTH for raw bytes.
fn meet(uri: &str) -> Peer {
    let peer = Peer::connect(uri);
    peer.hello();
    peer
}

/// Asks for a challenge; gives what to answer, and with what the server's success is judged.
fn challenged(peer: &Peer, user: &str, password: &str) -> (Vec<u8>, Proven) {
    let (client, first) = client(user, password);
    peer.send(&start(&first));
    let challenge = peer.read_frame().expect("a challenge");
    assert_eq!((challenge.kind, challenge.payload[0]), (AUTH, 0), "{challenge:?}");
    let (proven, proof) = client.answer(&challenge.payload[1..]).unwrap();
    (proof, proven)
}

/// Tries to come in; gives the code of an ERROR if there is one, and whether the connection closes.
fn log_in(peer: &Peer, user: &str, password: &str) -> Result<(), (u16, bool)> {
    let (proof, proven) = challenged(peer, user, password);
    peer.send(&response(&proof));
    let answer = peer.read_frame().expect("an answer");
    if answer.kind == ERROR {
        return Err(answer.error());
    }
    assert_eq!((answer.kind, answer.payload[0]), (AUTH, 1));
    proven.verify(&answer.payload[1..]).expect("the server knows the verifier");
    Ok(())
}

/// An event as it is sent; `proof` answers the challenge, if there is one.
fn sent(event: &str, proof: Vec<u8>) -> Vec<u8> {
    match event {
        "start" => start(b"n,,n=alice,r=abc"),
        "unknown" => start(b"n,,n=nobody,r=abc"),
        "mechanism" => frame(AUTH, b"\0\x05PLAIN\0alice\0pw"),
        "plus" => frame(AUTH, b"\0\x12SCRAM-SHA-256-PLUSp=tls-exporter,,n=alice,r=abc"),
        "bad first" => start(b"n,,alice"),
        "right" => proof,
        "wrong" => response(b"c=biws,r=abc,p=AAAA"),
        "short" => response(b"c=biws,r=abc,p="),
        "bad final" => response(b"c=biws"),
        "empty" => frame(AUTH, b""),
        "op" => frame(AUTH, b"\x02"),
        "cut" => frame(AUTH, b"\0\xffSCRAM"),
        "ECHO" => frame(0, b"x"),
        "PROBE" => frame(0x83, &[0; 32]),
        "HELLO" => frame(HELLO, b""),
        _ => frame(AUTH, &[0; 4097]),
    }
}

/// What it is answered.
fn expected(listener: usize, state: &str, event: &str) -> &'static str {
    let inside = state == "alice" || state == "bob";
    match event {
        "HELLO" => "0x80",
        "too long" => "ERROR 1",
        "ECHO" | "PROBE" if state == "bob" => "ERROR 6",
        "ECHO" | "PROBE" if listener == REQUIRED && !inside => "ERROR 5",
        "ECHO" => "0x00",
        "PROBE" => "0x83",
        _ if inside => "ERROR 2",
        "start" | "unknown" => "AUTH 0",
        "mechanism" | "plus" => "ERROR 5",
        "bad first" | "empty" | "op" | "cut" => "ERROR 3",
        "right" if state == "challenged" => "AUTH 1",
        // No exchange is under way.
        "right" | "wrong" | "short" | "bad final" if state != "challenged" => "ERROR 2",
        "bad final" => "ERROR 3",
        _ => "ERROR 5",
    }
}

/// Every state of a conversation with every frame of AUTH's and of others', over a real socket.
#[test]
fn every_state_with_every_frame() {
    let house = House::new();
    // What an event is answered: AUTH's status, or the code of an ERROR, or the kind.
    let answer = |peer: &Peer| match peer.read_frame() {
        None => "end".to_owned(),
        Some(it) if it.kind == ERROR => format!("ERROR {}", it.error().0),
        Some(it) if it.kind == AUTH => format!("AUTH {}", it.payload[0]),
        Some(it) => format!("{:#04x}", it.kind),
    };
    let events = [
        "start",
        "unknown",
        "mechanism",
        "plus",
        "bad first",
        "right",
        "wrong",
        "short",
        "bad final",
        "empty",
        "op",
        "cut",
        "ECHO",
        "PROBE",
        "HELLO",
        "too long",
    ];
    for listener in [REQUIRED, OPEN] {
        for state in ["new", "challenged", "alice", "bob", "failed once"] {
            for event in events {
                // One of its own, so that failures do not slow the rest.
                let server = house.open(&[]);
                let peer = meet(&server.uris()[listener]);
                let mut proof = response(b"c=biws,r=abc,p=AAAA");
                match state {
                    "challenged" => proof = response(&challenged(&peer, "alice", PASSWORD).0),
                    "alice" | "bob" => log_in(&peer, state, PASSWORD).unwrap(),
                    "failed once" => assert_eq!(log_in(&peer, "bob", "x"), Err((5, false))),
                    _ => {}
                }
                peer.send(&sent(event, proof));
                let expected = expected(listener, state, event);
                assert_eq!(answer(&peer), expected, "{listener} {state} {event}");
                // And on in step.
                peer.send(&frame(HELLO, b""));
                assert_eq!(answer(&peer), "0x80", "{listener} {state} {event}");
            }
        }
    }
}

/// A wrong password, an unknown user, a proof of another length: the same bytes, but for nonce and salt.
#[test]
fn what_fails_fails_alike() {
    let house = House::new();
    let mut seen = HashSet::new();
    let (mut salts, mut challenges) = (HashSet::new(), HashSet::new());
    for (user, mangle) in
        [("alice", "password"), ("nobody", "password"), ("alice", "length"), ("nobody", "length")]
    {
        let server = house.open(&[]);
        for _ in 0..2 {
            let peer = meet(&server.uris()[REQUIRED]);
            let (client, first) = client(user, "wrong");
            peer.send(&start(&first));
            let challenge = peer.read_frame().unwrap().payload;
            let text = String::from_utf8(challenge[1..].to_vec()).unwrap();
            let salt = text.split(',').nth(1).unwrap().to_owned();
            salts.insert((user, salt.clone()));
            challenges.insert((text.len(), text.split(',').nth(2).unwrap().to_owned(), salt.len()));
            let (_, proof) = client.answer(text.as_bytes()).unwrap();
            let mut proof = String::from_utf8(proof).unwrap();
            if mangle == "length" {
                proof.truncate(proof.find(",p=").unwrap() + 3);
            }
            peer.send(&response(proof.as_bytes()));
            seen.insert(peer.read_frame().unwrap().payload);
        }
    }
    assert_eq!((seen.len(), challenges.len()), (1, 1), "{seen:?} {challenges:?}");
    assert_eq!(salts.len(), 2, "a salt is always the same for a name: {salts:?}");
}

/// The third failure ends a connection, which is told; the server goes on.
#[test]
fn three_failures_end_a_connection() {
    let house = House::new();
    for listener in [REQUIRED, OPEN] {
        let server = house.open(&[]);
        let peer = meet(&server.uris()[listener]);
        assert_eq!(log_in(&peer, "alice", "x"), Err((5, false)));
        assert_eq!(log_in(&peer, "nobody", PASSWORD), Err((5, false)));
        assert_eq!(log_in(&peer, "alice", "y"), Err((5, true)));
        assert!(peer.read_frame().is_none());
        let peer = meet(&server.uris()[listener]);
        log_in(&peer, "alice", PASSWORD).unwrap();
        peer.round_trip(&echo(b"in"));
    }
}

/// Each failure makes the next try of its source slower, giving up one too; nobody is refused.
#[test]
fn failures_slow_their_source() {
    let house = House::new();
    let mut server = house.open(&["--admin=127.0.0.1:0"]);
    let uri = server.uris()[REQUIRED].clone();
    let took = |password: &str| {
        let (peer, began) = (meet(&uri), Instant::now());
        let _ = log_in(&peer, "alice", password);
        began.elapsed()
    };
    for failures in 0..4 {
        let expected = if failures == 0 { 0 } else { 100 << (failures - 1) };
        if failures == 2 {
            // Given up in the middle: it counts, once the server has seen it.
            drop(challenged(&meet(&uri), "alice", "x"));
            eventually("it has failed", || {
                Admin::of(&server).metrics().get("echo_auth_failure_total") == 3
            });
        } else {
            let took = took("x");
            assert!(took >= Duration::from_millis(expected), "{took:?} after {failures}");
        }
    }
    // Right at last, and not faster for it.
    let right = took(PASSWORD);
    assert!(right >= Duration::from_millis(400), "{right:?}");
    assert_eq!(server.stop(), Some(0));
}

/// Another file of users takes effect at once, or nothing changes; who is in stays in.
#[test]
fn users_are_reloaded_all_or_nothing() {
    let house = House::new();
    let server = house.open(&[]);
    let before = meet(&server.uris()[REQUIRED]);
    log_in(&before, "alice", PASSWORD).unwrap();
    let reload = |told: &str, times| {
        server.signal(Signal::HUP);
        server.wait_for_stderr_times(told, times);
    };
    let try_in =
        |user: &str, password: &str| log_in(&meet(&server.uris()[REQUIRED]), user, password);
    house.user(&["remove", "alice"], false);
    house.user(&["add", "carol"], true);
    assert_eq!(try_in("carol", PASSWORD), Err((5, false)));
    reload("reloaded: ", 1);
    assert_eq!(try_in("carol", PASSWORD), Ok(()));
    assert_eq!(try_in("alice", PASSWORD), Err((5, false)));
    before.round_trip(&echo(b"still in"));
    fs::write(house.path("password"), "another").unwrap();
    house.user(&["passwd", "carol"], true);
    let right = fs::read(house.path("users.toml")).unwrap();
    fs::write(house.path("users.toml"), [&right[..], b"\n[[user]]\nname = 3\n"].concat()).unwrap();
    reload("not reloaded", 1);
    assert_eq!(try_in("carol", PASSWORD), Ok(()));
    fs::write(house.path("users.toml"), &right).unwrap();
    reload("reloaded: ", 2);
    assert_eq!(try_in("carol", "another"), Ok(()));
}

/// The commands: what they say, and with which code they end.
#[test]
fn the_commands_say_what_was_done() {
    let house = House::new();
    assert_eq!(house.user(&["list"], false), "alice\techo,put\nbob\tlist,get\n");
    let all = "echo,list,get,put,remove";
    house.user(&["add", "carol", "--allow", all, "--quota", "1GiB"], true);
    let json = house.user(&["list", "--json"], false);
    let last =
        r#"{"allow":["echo","list","get","put","remove"],"name":"carol","quota":1073741824}"#;
    assert_eq!(json.lines().last(), Some(last));
    for (args, password, code, told) in [
        (&["add", "alice"][..], true, 1, "alice is there already"),
        (&["passwd", "nobody"], true, 1, "there is no nobody"),
        (&["remove", "nobody"], false, 1, "there is no nobody"),
        (&["add", "a b"], true, 64, "a user name is"),
        (&["add", "dave", "--allow", "fly"], true, 64, "write echo, list, get, put or remove"),
        (&["add", "dave", "--quota", "much"], true, 64, "--quota"),
    ] {
        let (got, stdout, stderr) = house.try_user(args, password);
        assert_eq!((got, &*stdout), (Some(code), ""), "{stderr}");
        assert!(stderr.contains(told) && stderr.lines().count() == 1, "{stderr}");
    }
    fs::set_permissions(house.path("users.toml"), fs::Permissions::from_mode(0o640)).unwrap();
    let (code, _, stderr) = house.try_user(&["list"], false);
    assert_eq!(code, Some(78));
    assert!(stderr.ends_with("its mode is 640, others may use it: chmod 600\n"), "{stderr}");
    // As systemd keeps credentials: the group's bits show a list that lets in one user.
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
    command.args(["user", "list", "--users"]).arg(house.path("users.toml"));
    let listed = command.env("CREDENTIALS_DIRECTORY", house.folder.path()).output().unwrap();
    assert!(listed.status.success());
    // A server does not start, and `check` says why.
    let users = house.path("users.toml");
    for task in [&["check"][..], &[]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        let output = command.arg("--users").arg(&users).args(task).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
    }
}

/// Listeners that could let nobody in are refused at the start.
#[test]
fn what_cannot_authenticate_is_refused() {
    let house = House::new();
    let users = house.path("users.toml").display().to_string();
    for (listen, with_users, told) in [
        ("tcp://127.0.0.1:0?auth=required", false, "give --users FILE"),
        ("udp://127.0.0.1:0?auth=required", true, "datagrams cannot authenticate"),
        ("tcp://127.0.0.1:0?auth=required&mode=raw", true, "mode=raw knows no authentication"),
        ("tcp://127.0.0.1:0?auth=maybe", true, "write auth=required"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        command.args(["--listen", listen]);
        if with_users {
            command.args(["--users", &users]);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
}

/// Killed at any moment, a writer leaves the old file or the new one.
#[test]
fn a_killed_writer_leaves_a_whole_file() {
    let house = House::new();
    let rounds = if long() { 200 } else { 20 };
    let mut cut = 0;
    for round in 0..rounds {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-server"));
        command.args(["user", "add", &format!("user-{round}"), "--users"]);
        command.arg(house.path("users.toml")).arg("--password-file").arg(house.path("password"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Somewhere in the few milliseconds that it lives.
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..40_000)));
        let _ = child.kill();
        let killed = !child.wait().unwrap().success();
        let listed = house.user(&["list"], false);
        assert!(listed.starts_with("alice\techo,put\n"), "{listed}");
        let added = listed.contains(&format!("user-{round}\t"));
        assert!(added || killed);
        cut += u32::from(killed);
    }
    assert!(cut > 0, "no writer was killed");
}

/// A password that was planted is found in no output, no file and no argument.
#[test]
fn a_planted_password_is_found_nowhere() {
    let house = House::new();
    let mut server = house.open(&["--log-level=trace", "--access-log", "--log=json"]);
    let peer = meet(&server.uris()[REQUIRED]);
    log_in(&peer, "alice", PASSWORD).unwrap();
    // In the wrong place: as a name, as a message, as a mechanism.
    let peer = meet(&server.uris()[REQUIRED]);
    let _ = log_in(&peer, PASSWORD, "x");
    peer.send(&frame(AUTH, format!("\0\x0c{PASSWORD}n,,").as_bytes()));
    peer.read_frame().unwrap();
    let peer = meet(&server.uris()[OPEN]);
    peer.send(&start(PASSWORD.as_bytes()));
    peer.read_frame().unwrap();
    let proc = PathBuf::from(format!("/proc/{}", server.pid()));
    assert!(!contains(&fs::read(proc.join("cmdline")).unwrap()));
    assert!(!contains(&fs::read(proc.join("environ")).unwrap()));
    assert_eq!(server.stop(), Some(0));
    assert!(!contains(server.stderr().as_bytes()) && !contains(server.stdout().as_bytes()));
    for file in fs::read_dir(house.folder.path()).unwrap() {
        let path = file.unwrap().path();
        assert!(path.ends_with("password") || !contains(&fs::read(&path).unwrap()), "{path:?}");
    }
    // Nor in what the commands say of it.
    for text in [format!("{PASSWORD}\n{PASSWORD}"), format!("{PASSWORD}\u{7}"), PASSWORD.repeat(99)]
    {
        fs::write(house.path("password"), text).unwrap();
        let (code, stdout, stderr) = house.try_user(&["add", "eve"], true);
        assert_eq!(code, Some(64));
        assert!(!contains(stdout.as_bytes()) && !contains(stderr.as_bytes()), "{stderr}");
    }
}

fn contains(bytes: &[u8]) -> bool {
    bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes())
}

/// Who does not authenticate in time is closed.
#[test]
fn authentication_has_a_deadline() {
    let house = House::new();
    let server = house.open(&["--frame-timeout=300ms"]);
    let (peer, began) = (meet(&server.uris()[REQUIRED]), Instant::now());
    let goaway = peer.read_frame().expect("GOAWAY");
    assert_eq!((goaway.goaway().0, peer.read_frame().is_none()), (3, true));
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < PATIENCE);
    let peer = meet(&server.uris()[OPEN]);
    peer.round_trip(&echo(b"no deadline here"));
}

/// The users of all cases of a random test. The daemon is each one's own: failures slow their source.
fn shared() -> &'static House {
    static SHARED: std::sync::OnceLock<House> = std::sync::OnceLock::new();
    SHARED.get_or_init(House::new)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 2_000 } else { 30 }))]

    /// Fault 64: whatever AUTH frames hold, each gets one answer until the third failure, and none of
    /// them is a success.
    #[test]
    fn garbage_gets_one_answer_a_frame(payloads in proptest::collection::vec(prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        "\\x00\\x0dSCRAM-SHA-256[nyp],,n=[a-z=,]{0,6},r=[ -~]{0,9}".prop_map(String::into_bytes),
        "\\x01c=biws,r=[!-~]{0,12},p=[A-Za-z0-9+/]{0,44}".prop_map(String::into_bytes),
    ], 1..3)) {
        let server = shared().open(&[]);
        let peer = meet(&server.uris()[OPEN]);
        for payload in &payloads {
            peer.send(&frame(AUTH, payload));
            let answer = peer.read_frame().expect("one answer for each");
            prop_assert!(answer.kind == ERROR || answer.payload[0] == 0);
        }
        peer.socket().shutdown(Shutdown::Write).unwrap();
        prop_assert!(peer.read_frame().is_none());
    }
}

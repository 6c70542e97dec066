//! Logs wherever they go: the access log, journald, and nothing of a peer's in any of them.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::Value;
use support::http::Admin;
use support::process::{eventually, long};
use support::traffic::*;
use support::{PATIENCE, Server, Signal, command, command_under, skip};

const TCP: &str = "--listen=tcp://127.0.0.1:0";
const ADMIN: &str = "--admin=127.0.0.1:0";
/// Lines of the access log that no buffer holds: 1 MiB here, 64 KiB in the pipe.
const MANY: usize = 20_000;

/// One line for each connection, with all there is to say; none unless asked for, whatever the level.
#[test]
fn the_access_log_has_a_line_for_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("--listen=unix:{}/echo", folder.path().display());
    let args = [TCP, &unix, "--access-log", "--log=json", "--log-level=warn", "--max-per-source=1"];
    let mut server = Server::start(&args);
    let (tcp, unix) = (server.uris()[0].clone(), server.uris()[1].clone());
    let peer = Peer::connect(&tcp);
    let port = peer.ports().expect("TCP").0;
    (0..3).for_each(|_| peer.round_trip(&echo(b"frame")));
    let beyond = Peer::connect(&tcp);
    let _ = beyond.try_send(b"beyond");
    let _ = beyond.read_to_end();
    peer.half_close();
    assert_eq!(peer.read_to_end().1, End::Fin);
    assert_eq!(exchange(&unix, b"some text"), (b"some text".to_vec(), End::Fin));
    let cut = Peer::connect(&unix);
    cut.round_trip(&header(ECHO, 10));
    cut.half_close();
    cut.read_to_end();
    assert_eq!(server.stop(), Some(0));
    let stderr = server.stderr();
    let lines: Vec<Value> =
        stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |listener: &str, ending: &str| {
        let mut found =
            lines.iter().filter(|it| it["listener"] == listener && it["ending"] == ending);
        let line = found.next().unwrap_or_else(|| panic!("none of {listener} {ending}: {stderr}"));
        assert!(
            found.next().is_none() && line["message"] == "connection" && line["level"] == "INFO"
        );
        assert!(line["seconds"].as_f64().unwrap() < 60.0);
        let number = |name: &str| line[name].as_u64().unwrap();
        (line["peer"].as_str().unwrap().to_owned(), ["received", "sent", "frames"].map(number))
    };
    assert_eq!(of(&tcp, "completed"), (format!("127.0.0.1:{port}"), [27, 27, 3]));
    assert_eq!(of(&tcp, "failed").1, [0, 0, 0]);
    assert_eq!(of(&unix, "completed"), ("unix".to_owned(), [9, 9, 0]));
    assert_eq!(of(&unix, "failed").1, [4, 4, 0]);
    assert_eq!(lines.len(), 4, "{stderr}");
}

#[test]
fn no_line_for_a_connection_at_info() {
    let mut server = Server::start(&[TCP]);
    for _ in 0..100 {
        assert_serves(&server.uris()[0]);
    }
    assert_eq!(server.stop(), Some(0));
    let log = server.stderr();
    // How to try it, that it drains, the summary.
    assert_eq!(log.lines().count(), 3, "{log}");
}

/// A panic and an abort have their lines as well: see `timing` in the library. Here: a drain that cuts.
#[test]
fn what_the_drain_cuts_is_logged_as_forced() {
    let mut server = Server::start(&[TCP, "--access-log", "--drain-timeout=100ms"]);
    let stuck = Peer::connect(&server.uris()[0]);
    stuck.round_trip(&header(ECHO, 10));
    assert_eq!(server.stop(), Some(3));
    let log = server.stderr();
    assert!(
        log.contains(" ending=forced\n") && log.contains("received=4 sent=4 frames=0"),
        "{log}"
    );
    drop(stuck);
}

/// Fault 68: nobody reads the access log. Connections go on, memory is bounded, and the lines that are lost
/// are counted.
#[test]
fn an_access_log_that_nobody_reads_stops_nobody() {
    let (unread, full) = io::pipe().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let admin = Admin::Unix(folder.path().join("admin"));
    let mut command = command();
    command.args([TCP, "--access-log"]).stderr(full);
    command.arg(format!("--admin=unix:{}/admin", folder.path().display()));
    let mut server = Server::start_command(command, 1);
    let uri = server.uris()[0].clone();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..MANY / 4 {
                    let peer = Peer::connect(&uri);
                    peer.round_trip(b"x");
                    peer.reset(); // No TIME_WAIT.
                }
            });
        }
    });
    let ended = || admin.metrics().get("echo_connections_ended_total");
    eventually("all have ended", || ended() == MANY as u64);
    let lost = admin.metrics().get("echo_limit_reached_total{limit=\"log_lines\"}");
    println!("{lost} of {MANY} lines lost");
    assert!(lost > 1000 && lost < MANY as u64, "{lost} of {MANY}");
    assert!(admin.metrics().get("process_resident_memory_bytes") < 100 << 20);
    assert_serves(&uri);
    assert_eq!(server.stop(), Some(0));
    drop(unread);
}

/// Lines that a closed or full stderr does not take are counted too.
#[test]
fn lines_that_stderr_does_not_take_are_counted() {
    for redirection in ["2>/dev/full", "2>&-"] {
        let folder = tempfile::tempdir().unwrap();
        let admin = Admin::Unix(folder.path().join("admin"));
        let script = format!(r#"exec "$@" {redirection}"#);
        let mut command = command_under(&["sh", "-c", &script, "sh"]);
        command.args([TCP, "--access-log"]);
        command.arg(format!("--admin=unix:{}/admin", folder.path().display()));
        let mut server = Server::start_command(command, 1);
        (0..50).for_each(|_| assert_serves(&server.uris()[0]));
        // A closed stderr is /dev/null to a Rust program, which takes everything.
        if redirection.contains("full") {
            let lost = || admin.metrics().get("echo_limit_reached_total{limit=\"log_lines\"}");
            eventually("lines are lost", || lost() >= 50);
        }
        assert_eq!(server.stop(), Some(0));
    }
}

/// Faults 66 and 67: sessions of random bytes, at every level and in every form; no control character gets
/// into the log, and each line stays one.
#[test]
fn nothing_of_a_peers_gets_into_a_log() {
    let sessions = if long() { 100_000 } else { 300 };
    for format in ["text", "json"] {
        let mut command = command();
        let folder = tempfile::tempdir().unwrap();
        let unix = format!("--listen=unix:{}/a", folder.path().display());
        command.args([TCP, &unix, "--access-log", "--log", format]).env("RUST_LOG", "trace");
        let mut server = Server::start_command(command, 2);
        let mut random = fastrand::Rng::with_seed(1);
        for number in 0..sessions {
            let mut bytes = b"\x1b]0;x\x07\n\r\xc2\x9b31m\xe2\x80\xae".to_vec();
            bytes.extend((0..random.usize(..200)).map(|_| random.u8(..)));
            bytes.insert(0, [ECHO, HELLO, PROBE, b'x', 0x90][number % 5]);
            let peer = Peer::connect(&server.uris()[number % 2]);
            let _ = peer.try_send(&bytes);
            if number % 3 == 0 {
                peer.reset();
            }
        }
        assert_eq!(server.stop(), Some(0));
        let log = server.stderr();
        assert!(log.lines().count() > sessions, "{log}");
        for line in log.lines() {
            let harmful = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
            assert!(!line.contains(harmful), "{}", line.escape_debug());
            let is_line = match format {
                "text" => line.starts_with("20") || line.starts_with("drained in"),
                _ => line.starts_with('{') && line.ends_with('}') || line.starts_with("drained in"),
            };
            assert!(is_line, "{line}");
        }
    }
}

/// What a journal got: its entries, each as fields.
struct Journal(UnixDatagram);

impl Journal {
    fn at(folder: &Path) -> Self {
        let socket = UnixDatagram::bind(folder.join("socket")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next entry with this in its message.
    fn wait_for(&self, message: &str) -> String {
        let mut datagram = vec![0; 1 << 16];
        loop {
            let len = self.0.recv(&mut datagram).unwrap_or_else(|_| panic!("no {message:?}"));
            let entry = String::from_utf8(datagram[..len].to_vec()).unwrap();
            let has = |line: &str| line.starts_with("MESSAGE=") && line.contains(message);
            if entry.lines().any(has) {
                return entry;
            }
        }
    }
}

/// A server whose `/run/systemd/journal` is `folder`, in a mount namespace, and whose stderr is the
/// journal's, as systemd tells it. The namespace may need no privileges.
fn under_journal(folder: &Path, args: &[&str]) -> Command {
    let script = r#"mount -t tmpfs none /run && mkdir -p /run/systemd/journal \
        && mount --bind "$0" /run/systemd/journal \
        && JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@""#;
    let folder = folder.display().to_string();
    let mut command = command_under(&["unshare", "-rm", "sh", "-c", script, &folder]);
    command.args(args);
    command
}

fn can_have_a_journal(test: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut probe = under_journal(folder.path(), &["--version"]);
    let works = probe.output().is_ok_and(|output| output.status.success());
    if !works {
        skip(test, "unshare (util-linux), and the right to a mount namespace");
    }
    works
}

/// Where stderr is the journal's, entries go there with fields and priorities; the summary is on stderr.
#[test]
fn under_systemd_the_journal_gets_fields() {
    if !can_have_a_journal("under_systemd_the_journal_gets_fields") {
        return;
    }
    for asked in ["--log=auto", "--log=journald"] {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::at(folder.path());
        let args = [TCP, asked, "--access-log", "--log-level=debug"];
        let mut server = Server::start_command(under_journal(folder.path(), &args), 1);
        let entry = journal.wait_for("try: printf");
        let has =
            |entry: &str, field: &str| assert!(entry.lines().any(|it| it == field), "{entry}");
        has(&entry, "PRIORITY=6");
        has(&entry, "SYSLOG_IDENTIFIER=echo-server");
        assert_eq!(exchange(&server.uris()[0], &echo(b"x")), (echo(b"x"), End::Fin));
        let entry = journal.wait_for("connection");
        for field in [
            "PRIORITY=6".to_owned(),
            "MESSAGE=connection".to_owned(),
            format!("ECHO_LISTENER={}", server.uris()[0]),
            "ECHO_RECEIVED=5".to_owned(),
            "ECHO_SENT=5".to_owned(),
            "ECHO_FRAMES=1".to_owned(),
            "ECHO_ENDING=completed".to_owned(),
        ] {
            has(&entry, &field);
        }
        // What a peer did is debug.
        let _ = exchange(&server.uris()[0], &header(ECHO, 10));
        let entry = journal.wait_for("connection failed");
        has(&entry, "PRIORITY=7");
        server.signal(Signal::TERM);
        journal.wait_for("SIGTERM: draining");
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        assert_eq!(server.stderr().lines().count(), 1, "{}", server.stderr());
        server.summary();
    }
}

/// Not the journal's stderr: lines, as ever. And without a journal to talk to, what was asked for fails.
#[test]
fn without_a_journal_there_are_lines() {
    let mut command = command();
    command.args([TCP]).env("JOURNAL_STREAM", "1:2");
    let mut server = Server::start_command(command, 1);
    server.wait_for_stderr("INFO try: ");
    assert_eq!(server.stop(), Some(0));
    if can_have_a_journal("without_a_journal_there_are_lines") {
        let folder = tempfile::tempdir().unwrap();
        let mut server =
            Server::start_command(under_journal(folder.path(), &[TCP, "--log=auto"]), 1);
        server.wait_for_stderr("INFO try: ");
        assert_eq!(server.stop(), Some(0));
        let mut server = Server::spawn(under_journal(folder.path(), &[TCP, "--log=journald"]));
        assert_eq!(server.wait(PATIENCE).code(), Some(78));
        assert!(server.stderr().starts_with("echo-server: cannot log to journald"));
    }
}

/// A journal that is stopped blocks nobody; one that is gone costs lines.
#[test]
fn a_journal_that_does_not_read_stops_nobody() {
    if !can_have_a_journal("a_journal_that_does_not_read_stops_nobody") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::at(folder.path());
    let args = [TCP, ADMIN, "--access-log"];
    let mut server = Server::start_command(under_journal(folder.path(), &args), 1);
    let entry = journal.wait_for("admin: http://");
    let address = entry.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let admin = Admin::Tcp(address.parse().unwrap());
    let uri = server.uris()[0].clone();
    // A journal's queue has room for some ten entries.
    for _ in 0..1000 {
        let peer = Peer::connect(&uri);
        peer.round_trip(b"x");
        peer.reset();
    }
    assert_eq!(admin.metrics().get("echo_limit_reached_total{limit=\"log_lines\"}"), 0);
    std::fs::remove_file(folder.path().join("socket")).unwrap();
    drop(journal);
    eventually("lines are lost", || {
        assert_serves(&uri);
        admin.metrics().get("echo_limit_reached_total{limit=\"log_lines\"}") > 10
    });
    // It comes again, and so do the entries.
    let journal = Journal::at(folder.path());
    assert_serves(&uri);
    journal.wait_for("connection");
    assert_eq!(server.stop(), Some(0));
}

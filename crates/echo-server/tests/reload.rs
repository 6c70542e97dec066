//! Settings read anew while the server runs: all of them take effect, or none, and no connection
//! notices.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use support::ending::{Settings, assert_refused, ends, with_args};
use support::lease::Lease;
use support::process::{descriptors, eventually};
use support::traffic::{Peer, be, echo};
use support::{PATIENCE, Server, Signal, command};

/// A server with a control socket, on the settings of a file.
struct Reloadable {
    settings: Settings,
    control: String,
    server: Server,
}

impl Reloadable {
    /// `$FOLDER` in a text is the folder of the file.
    fn start(text: &str, listeners: usize) -> Self {
        let settings = Settings::new("");
        let control = settings.beside("control");
        settings.write(&expanded(&settings, text));
        let args = ["--config", settings.path(), "--control", &control];
        let server = Server::start_command(with_args(&args), listeners);
        Self { settings, control, server }
    }

    fn write(&self, text: &str) {
        self.settings.write(&expanded(&self.settings, text));
    }

    /// Asks for a reload, and gives the exit code and the server's words.
    fn reload(&self) -> (Option<i32>, String) {
        let (code, stdout, stderr) =
            ends(with_args(&["ctl", "reload", "--control", &self.control]));
        assert_eq!(code == Some(0), stderr.is_empty());
        (code, stdout + &stderr)
    }

    /// What a new connection to the first listener is told: the longest frame, and the greeting.
    fn told(&self) -> (u64, String) {
        let hello = Peer::connect(&self.server.uris()[0]).hello().payload;
        (be(&hello[2..6]), String::from_utf8(hello[12..].to_vec()).unwrap())
    }

    /// Waits until of these two Unix sockets in the folder one is listened on, and the other is not.
    fn listens_only(&self, name: &str, other: &str) {
        let listens = |name| UnixStream::connect(self.settings.beside(name)).is_ok();
        eventually("the other is gone", || !listens(other));
        assert!(listens(name), "{name}");
    }
}

fn expanded(settings: &Settings, text: &str) -> String {
    text.replace("$FOLDER", settings.beside("x").strip_suffix("/x").unwrap())
}

const FIRST: &str = "listen = [\"tcp://127.0.0.1:0\", \"unix:$FOLDER/first\"]\n\
                     max-frame = 1000\ngreeting = \"first\"\n";
const SECOND: &str = "listen = [\"tcp://127.0.0.1:0\", \"unix:$FOLDER/second\"]\n\
                      max-frame = 2000\ngreeting = \"second\"\n";

#[test]
fn a_reload_changes_everything_and_touches_no_connection() {
    let mut it = Reloadable::start(FIRST, 2);
    assert_eq!(it.told(), (1000, "first".to_owned()));
    let (kept, removed) =
        (Peer::connect(&it.server.uris()[0]), Peer::connect(&it.server.uris()[1]));
    removed.hello();
    kept.round_trip(&echo(b"before"));

    it.write(SECOND);
    let (code, words) = it.reload();
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("2 to listen on, 1 of them new, 1 drained"), "{words}");
    assert_eq!(it.told(), (2000, "second".to_owned()));
    it.listens_only("second", "first");
    kept.round_trip(&echo(&[7; 1500]));
    assert_eq!(removed.read_frame().unwrap().goaway().1, 1, "a drain in order");
    assert!(removed.read_frame().is_none());
    drop(kept);

    // The other way, by the signal, and nothing more on stdout.
    it.write(FIRST);
    it.server.signal(Signal::HUP);
    it.server.wait_for_stderr_times("reloaded: ", 2);
    assert_eq!(it.told(), (1000, "first".to_owned()));
    it.listens_only("first", "second");
    assert_eq!(it.server.stop(), Some(0));
    assert_eq!(it.server.stdout().lines().count(), 2);
    assert!(!fs::exists(&it.control).unwrap() && !fs::exists(it.settings.beside("first")).unwrap());
}

/// Nobody finds a socket whose path somebody has removed.
#[test]
fn a_removed_path_is_bound_anew() {
    let mut it = Reloadable::start(FIRST, 2);
    fs::remove_file(it.settings.beside("first")).unwrap();
    let (code, words) = it.reload();
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("2 to listen on, 1 of them new, 1 drained"), "{words}");
    Peer::connect(&it.server.uris()[1]).round_trip(&echo(b"again"));
    let (_, words) = it.reload();
    assert!(words.contains("2 to listen on, 0 of them new, 0 drained"), "{words}");
    // Nor one whose path leads to another by now.
    fs::remove_file(it.settings.beside("first")).unwrap();
    drop(UnixListener::bind(it.settings.beside("first")).unwrap());
    let (_, words) = it.reload();
    assert!(words.contains("2 to listen on, 1 of them new, 1 drained"), "{words}");
    Peer::connect(&it.server.uris()[1]).round_trip(&echo(b"and again"));
    assert_eq!(it.server.stop(), Some(0));
    assert!(!fs::exists(it.settings.beside("first")).unwrap());
}

/// A kept listener gets another mode and rate; its socket stays.
#[test]
fn a_listener_changes_how_it_speaks() {
    let it = Reloadable::start("listen = [\"tcp://127.0.0.1:0\", \"udp://127.0.0.1:0\"]", 2);
    let auto = Peer::connect(&it.server.uris()[0]);
    auto.hello();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    udp.connect(it.server.address_of(1)).unwrap();
    it.write(
        "listen = [\"tcp://127.0.0.1:0?mode=raw\", \"udp://127.0.0.1:0?rate=1\"]\n\
         greeting = \"hi\"\nlog-level = \"debug\"\n",
    );
    assert_eq!(it.reload().0, Some(0));
    assert_eq!(Peer::connect(&it.server.uris()[0]).read_exact(3).unwrap(), b"hi\n");
    auto.round_trip(&echo(b"still framed"));
    // The first takes the bucket's only token; which of the rest would come is the rate's business.
    udp.send(b"one").unwrap();
    assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 3);
    Peer::connect(&it.server.uris()[0]).reset();
    it.server.wait_for_stderr("DEBUG");
}

/// Fault 72: each of them leaves all as it was, and is told once.
/// Each time it changes, and not when it does not.
#[test]
fn a_change_of_protection_is_told() {
    let listen =
        |rate: &str| format!("listen = [\"udp://0.0.0.0:0{rate}\", \"udp://127.0.0.1:0\"]\n");
    let mut it = Reloadable::start(&listen(""), 2);
    let mut said = vec!["at most 10000 answers"];
    it.server.wait_for_stderr(said[0]);
    let changes = [
        (listen(""), None),
        (listen("") + "udp-rate = 77\n", Some("at most 77 answers")),
        (listen("") + "udp-rate = 77\nlinger = \"1s\"\n", None),
        (listen("?rate=99") + "udp-rate = 77\n", Some("at most 99 answers")),
        (listen("?rate=99") + "udp-rate = 78\n", None),
        (listen("?rate=99") + "udp-refuse-ports = \"5\"\n", Some("source ports 5, our own")),
    ];
    for (count, (text, told)) in changes.iter().enumerate() {
        it.write(text);
        assert_eq!(it.reload().0, Some(0));
        // Which comes behind.
        it.server.wait_for_stderr_times("reloaded: ", count + 1);
        said.extend(told);
        let log = it.server.stderr();
        let lines: Vec<_> =
            log.lines().filter(|it| it.contains("is open to the network")).collect();
        assert_eq!(lines.len(), said.len(), "{text}");
        assert!(lines.iter().zip(&said).all(|(line, said)| line.contains(said)), "{log}");
    }
    assert_eq!(it.server.stop(), Some(0));
}

#[test]
fn a_bad_file_changes_nothing() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let mut it = Reloadable::start(FIRST, 2);
    let kept = Peer::connect(&it.server.uris()[0]);
    kept.hello();
    let open = descriptors(it.server.pid());
    let listens = |uri: &str| {
        format!(
            "listen = [\"tcp://127.0.0.1:0\", \"unix:$FOLDER/second\", \"{uri}\"]\nmax-frame = 5\n"
        )
    };
    let in_use = listens(&format!("tcp://{taken}"));
    let port_told = format!("port {} is in use", taken.port());
    let bad = [
        ("max-frame = 5\nmax-farme = 6\n", ":2: unknown key \"max-farme\""),
        ("max-frame = 5\nlinger = \"soon\"\n", ":2: invalid value"),
        ("max-frame = 5\ngreeting = \"", ":2: "),
        (&listens("ftp://x"), ":1: cannot listen on ftp://x"),
        (&listens("tcp://no-such-host.invalid:1"), "does not resolve"),
        (&listens("unix:$FOLDER/no/such/folder"), "no such directory"),
        (&listens("unix:$FOLDER/first?perm=0600"), "perm cannot change"),
        (&in_use, &port_told),
        ("max-frame = 5\nworkers = 7\n", ":2: workers cannot change while the server runs"),
        ("max-frame = 5\nlog = \"json\"\n", ":2: log cannot change while the server runs"),
        ("max-frame = 5\nmax-connections = 99999999\n", "does not fit"),
    ];
    for (index, (text, told)) in bad.into_iter().enumerate() {
        it.write(text);
        let (code, words) = it.reload();
        assert!(code == Some(1) && words.contains(told), "{text}: {words}");
        assert!(words.starts_with("echo-server: not reloaded: ") && words.lines().count() == 1);
        assert_eq!(it.told(), (1000, "first".to_owned()), "{text}");
        it.listens_only("first", "second");
        it.server.wait_for_stderr_times("not reloaded, nothing has changed", index + 1);
        kept.round_trip(&echo(b"untouched"));
    }
    fs::remove_file(it.settings.path()).unwrap();
    assert!(it.reload().1.contains("No such file"));
    drop(kept);
    eventually("all sockets are closed", || descriptors(it.server.pid()) < open);
    assert_eq!(it.server.stop(), Some(0));
    assert_eq!(it.server.stderr().matches("not reloaded").count(), 12, "each is told once");
}

/// 200 signals, every other one with a file that is half right: each state that is seen is one of
/// the two whole ones, and the connections under load go on.
#[test]
fn two_hundred_signals_under_load() {
    const ROUNDS: usize = 200;
    let mut it = Reloadable::start(FIRST, 2);
    let stop = AtomicBool::new(false);
    let echoes = AtomicU64::new(0);
    thread::scope(|scope| {
        let uri = &it.server.uris()[0];
        for index in 0..8u8 {
            let (stop, echoes) = (&stop, &echoes);
            scope.spawn(move || {
                let peer = Peer::connect(uri);
                // Not more than the lower of both limits.
                let message = echo(&vec![index; 100 * usize::from(index)]);
                while !stop.load(SeqCst) {
                    peer.round_trip(&message);
                    echoes.fetch_add(1, SeqCst);
                }
                peer.half_close();
                assert_eq!(peer.read(&mut [0]), Ok(0), "it ends in order");
            });
        }
        let mut failed = 0;
        for round in 1..=ROUNDS {
            let to_second = round / 2 % 2 == 1;
            let (good, greeting) = if to_second { (SECOND, "second") } else { (FIRST, "first") };
            let before = it.told();
            if round % 2 == 0 {
                it.write(good);
                it.server.signal(Signal::HUP);
                it.server.wait_for_stderr_times("reloaded: ", round / 2);
                let max_frame = if to_second { 2000 } else { 1000 };
                assert_eq!(it.told(), (max_frame, greeting.to_owned()), "round {round}");
            } else {
                // All of the other state, and one mistake at the end.
                let other = if before.1 == "first" { SECOND } else { FIRST };
                it.write(&format!("{other}mistake-{round} = 1\n"));
                it.server.signal(Signal::HUP);
                it.server.wait_for_stderr(&format!("\"mistake-{round}\""));
                failed += 1;
                assert_eq!(it.told(), before, "round {round}");
            }
            match it.told().1 == "first" {
                true => it.listens_only("first", "second"),
                false => it.listens_only("second", "first"),
            }
        }
        assert_eq!(failed, ROUNDS / 2);
        stop.store(true, SeqCst);
    });
    assert!(echoes.load(SeqCst) > ROUNDS as u64, "{echoes:?} echoes are no load");
    assert_eq!(it.server.stop(), Some(0));
    assert_eq!(it.server.summary()["forced"], 0);
    assert_eq!(it.server.stderr().matches("not reloaded, nothing").count(), ROUNDS / 2);
}

/// Opening a pipe that nobody writes to would hang, reading a device or a terminal perhaps as well.
#[test]
fn what_is_no_regular_file_is_refused() {
    let mut it = Reloadable::start(FIRST, 2);
    let path = it.settings.path().to_owned();
    let remove = || fs::remove_file(&path).unwrap();
    remove();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let refused = |it: &Reloadable| {
        let (code, words) = it.reload();
        assert!(code == Some(1) && words.contains("it is no regular file"), "{words}");
        assert_eq!(it.told(), (1000, "first".to_owned()));
    };
    refused(&it);
    for other in ["/dev/tty", "/dev/zero", "/"] {
        remove();
        symlink(other, &path).unwrap();
        refused(&it);
    }
    remove();
    let socket = UnixListener::bind(&path).unwrap();
    refused(&it);
    drop(socket);
    remove();
    // No settings at all: what is passed alone would be listened on, and here the usual ports.
    symlink("/dev/null", &path).unwrap();
    let (_, words) = it.reload();
    assert!(!words.contains("regular"), "{words}");
    assert_eq!(it.server.stop(), Some(0));
}

/// A file that cannot be read for now holds up neither the service nor what else the server is asked for.
#[test]
fn a_file_system_that_hangs_holds_nothing_up() {
    let mut it = Reloadable::start(FIRST, 2);
    let _held = Lease::hold(it.settings.path());
    let (code, words) = it.reload();
    assert!(code == Some(1) && words.contains("could not be read within 10s"), "{words}");
    // Who comes while the first reading hangs adds no thread to it.
    let threads = || fs::read_dir(format!("/proc/{}/task", it.server.pid())).unwrap().count();
    let before = threads();
    thread::scope(|scope| {
        let asked = scope.spawn(|| it.reload());
        while !asked.is_finished() {
            assert_eq!(it.told(), (1000, "first".to_owned()), "it serves");
            assert!(threads() <= before, "one thread for all");
            thread::sleep(Duration::from_millis(100)); // How often it is looked at.
        }
    });
    it.server.signal(Signal::HUP);
    it.server.signal(Signal::TERM);
    it.server.wait_for_stderr("draining for at most");
    assert_eq!(it.server.wait(PATIENCE).code(), Some(0));
}

/// Fault 71: signals come together, the one that ends it wins.
#[test]
fn a_storm_of_signals_ends_in_a_clean_stop() {
    let mut it = Reloadable::start(FIRST, 2);
    for _ in 0..1000 {
        it.server.signal(Signal::HUP);
    }
    it.server.signal(Signal::TERM);
    assert_eq!(it.server.wait(PATIENCE).code(), Some(0));
    it.server.summary();
}

#[test]
fn without_a_file_a_reload_has_nothing_to_change() {
    let mut server = Server::start(&["--listen", "tcp://127.0.0.1:0"]);
    server.signal(Signal::HUP);
    server.wait_for_stderr("reloaded: 1 to listen on, 0 of them new, 0 drained");
    assert_eq!(server.stop(), Some(0));
}

/// What nobody asked for by name is told once, as long as it stays the same; each who asks is told.
#[test]
fn a_storm_of_failing_reloads_is_told_once() {
    let mut it = Reloadable::start(FIRST, 2);
    it.write("max-farme = 5\n");
    for _ in 0..100 {
        it.server.signal(Signal::HUP);
        // One that was handled: signals that come together are one.
        it.told();
    }
    it.server.wait_for_stderr("not reloaded, nothing has changed");
    it.write("max-framme = 5\n");
    for _ in 0..2 {
        let (code, words) = it.reload();
        assert!(code == Some(1) && words.contains("\"max-framme\""), "{words}");
    }
    assert_eq!(it.server.stop(), Some(0));
    let mut count = |text: &str| it.server.stderr().matches(text).count();
    assert_eq!(count("\"max-farme\""), 1);
    // The last signal may have seen the second file already.
    assert!((2..=3).contains(&count("\"max-framme\"")));
}

#[test]
fn a_reload_during_a_drain_is_told_so() {
    let mut it = Reloadable::start(FIRST, 2);
    let peer = Peer::connect(&it.server.uris()[0]);
    peer.hello();
    it.server.signal(Signal::TERM);
    it.server.wait_for_stderr("draining for at most");
    let (code, words) = it.reload();
    assert!(code == Some(1) && words.contains("not reloaded: the server is stopping"), "{words}");
    drop(peer);
    assert_eq!(it.server.wait(PATIENCE).code(), Some(0));
}

#[test]
fn the_control_socket_is_for_its_user_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let mut usual = command();
    usual.env("RUNTIME_DIRECTORY", folder.path()).args(["--listen", "tcp://127.0.0.1:0"]);
    let mut server = Server::start_command(usual, 1);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut reload = command();
    reload.env("RUNTIME_DIRECTORY", folder.path()).args(["ctl", "reload"]);
    assert_eq!(ends(reload).0, Some(0));

    // As many as may ask at once, and none of them does; a question that there is not.
    let uri = format!("unix:{}", socket.display());
    let idle: Vec<_> = (0..4).map(|_| Peer::connect(&uri)).collect();
    let wordy = Peer::connect(&uri);
    wordy.send(&echo(b"nonsense"));
    let answer = wordy.read_frame().unwrap().payload;
    assert!(answer[0] == 1 && answer.ends_with(b"does not know the question"), "{answer:?}");
    drop(idle);
    drop(wordy);
    assert_eq!(server.stop(), Some(0));
    assert!(!socket.exists());

    let path = socket.to_str().unwrap();
    assert_refused(
        with_args(&["ctl", "reload", "--control", path]),
        1,
        "no answer from the server",
    );
    assert_refused(with_args(&["ctl", "reload"]), 64, "--control PATH");
    assert_refused(with_args(&["ctl"]), 64, "requires a subcommand");
    // One that echoes, and one that closes.
    let other = folder.path().join("echo");
    let echoing = Server::start(&["--listen", &format!("unix:{}", other.display())]);
    let args = ["ctl", "reload", "--control", other.to_str().unwrap()];
    assert_refused(with_args(&args), 1, "this is no control socket");
    drop(echoing);
    let _ = fs::remove_file(&other);
    let closing = UnixListener::bind(&other).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut question = [0; 10];
            closing.accept().unwrap().0.read_exact(&mut question).unwrap();
        });
        assert_refused(with_args(&args), 1, "this is no control socket");
    });
    let missing = folder.path().join("no/such/folder");
    let args = ["--listen", "tcp://127.0.0.1:0", "--control", missing.to_str().unwrap()];
    assert_refused(with_args(&args), 69, "no such directory");
}

//! What a reload changes.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;

use crate::reloadable::*;
use crate::support::process::need_descriptors;
use crate::support::traffic::{Peer, echo};
use crate::support::{PATIENCE, Server, Signal};

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

/// When a reload is done, what it has removed is closed and can be listened on again, however many wait in its queue.
#[test]
fn what_is_removed_is_closed_when_the_reload_is_done() {
    need_descriptors(1200);
    let alone = "listen = [\"tcp://127.0.0.1:0\"]\nmax-connections = 1\n";
    let both = "listen = [\"tcp://127.0.0.1:0\", \"tcp://localhost:0\"]\nmax-connections = 1\n";
    let mut it = Reloadable::start(both, 2);
    let removed = format!("tcp://{}", it.server.address_of(1));
    let kept = Peer::connect(&it.server.uris()[0]);
    kept.hello();
    for _ in 0..3 {
        // There is no place for them: each is taken from the queue, and reset.
        let waiting: Vec<_> = (0..1000).map(|_| Peer::connect(&removed)).collect();
        it.write(alone);
        assert_eq!(it.ask().0, 0);
        assert!(Peer::try_connect(&removed, |_| Ok(())).is_err(), "it still listens");
        drop(waiting);
        it.write(&alone.replace("0\"]", &format!("0\", \"{removed}\"]")));
        let (failed, words) = it.ask();
        assert_eq!(failed, 0, "{words}");
    }
    kept.round_trip(&echo(b"untouched"));
    drop(kept);
    assert_eq!(it.server.stop(), Some(0));
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
fn without_a_file_a_reload_has_nothing_to_change() {
    let mut server = Server::start(&["--listen", "tcp://127.0.0.1:0"]);
    server.signal(Signal::HUP);
    server.wait_for_stderr("reloaded: 1 to listen on, 0 of them new, 0 drained");
    assert_eq!(server.stop(), Some(0));
}

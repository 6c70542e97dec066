//! The name of a Unix peer is a text, which whoever bound it can make mean something else.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::{fs, io};

use super::*;

/// Two listeners, and a directory with the peers.
fn start(directory: &Path) -> Echoing {
    let options = DatagramOptions::default();
    Echoing::start(Limits::default(), DatagramEcho::new(Mode::Auto), || {
        let bind = |name: &str| {
            let name = UnixName::Path(directory.join(name));
            DatagramSocket::bind_unix(&name, None, &options).unwrap()
        };
        vec![bind("server"), bind("other")]
    })
}

/// Sends one datagram from `peer` when its name has become what `replace` makes of it, and then an
/// honest one, which alone is answered.
#[track_caller]
fn assert_refused(peer: &Path, replace: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let echoing = start(directory.path());
    let server = directory.path().join("server");
    let socket = UnixDatagram::bind(peer).unwrap();
    replace(directory.path());
    socket.send_to(b"whom do you answer?", &server).unwrap();
    let honest = unix_client(&directory.path().join("honest"));
    honest.send_to(b"me", &server).unwrap();
    assert_eq!(honest.recv(&mut [0; 9]).unwrap(), 2);
    let (_, datagrams) = echoing.stop();
    let counted = (datagrams.received, datagrams.answered, datagrams.refused_address);
    assert_eq!(counted, (2, 1, 1), "{datagrams:?}");
}

#[test]
fn a_relative_name_is_refused() {
    let here = std::env::current_dir().unwrap();
    let directory = tempfile::tempdir_in(&here).unwrap();
    let peer = directory.path().join("peer");
    assert_refused(peer.strip_prefix(&here).unwrap(), |_| {});
}

#[test]
fn a_name_that_became_our_own_socket_is_refused() {
    let links: [fn(&Path, &Path) -> io::Result<()>; 2] =
        [|from, to| symlink(from, to), |from, to| fs::hard_link(from, to)];
    for own in ["server", "other"] {
        for link in links {
            let directory = tempfile::tempdir().unwrap();
            let peer = directory.path().join("peer");
            assert_refused(&peer, |server| {
                fs::rename(&peer, directory.path().join("moved")).unwrap();
                link(&server.join(own), &peer).unwrap();
            });
        }
    }
}

/// The service may write where the peer may not.
#[test]
fn a_name_that_became_a_link_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (peer, private) = (directory.path().join("peer"), directory.path().join("private"));
    let theirs = UnixDatagram::bind(&private).unwrap();
    theirs.set_nonblocking(true).unwrap();
    assert_refused(&peer, |_| {
        fs::remove_file(&peer).unwrap();
        symlink(&private, &peer).unwrap();
    });
    assert!(theirs.recv(&mut [0; 99]).is_err(), "somebody's private socket was written to");
}

#[test]
fn a_name_by_way_of_a_link_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    assert_refused(&link.join("peer"), |_| {});
}

#[test]
fn a_name_that_became_a_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let peer = directory.path().join("peer");
    assert_refused(&peer, |_| {
        fs::remove_file(&peer).unwrap();
        fs::write(&peer, "no socket").unwrap();
    });
}

/// In a mount namespace of its own a peer can bind any path, which means another socket here: one that
/// is not its.
#[test]
fn a_socket_of_somebody_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    if fs::metadata(directory.path()).unwrap().uid() != 0 {
        println!("SKIPPED a_socket_of_somebody_else_is_refused: the right to change users");
        assert!(std::env::var("CI").as_deref() != Ok("true"));
        return;
    }
    let echoing = start(directory.path());
    let peer = unix_client(&directory.path().join("peer"));
    peer.connect(directory.path().join("server")).unwrap();
    let say = |user: u32, word: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("printf {word} >&0")]).uid(user).current_dir("/");
        let socket = Stdio::from(OwnedFd::from(peer.try_clone().unwrap()));
        assert!(command.stdin(socket).status().unwrap().success());
    };
    say(65_534, "nobody");
    say(0, "root");
    assert_eq!(peer.recv(&mut [0; 9]).unwrap(), 4);
    let (_, datagrams) = echoing.stop();
    assert_eq!((datagrams.answered, datagrams.refused_address), (1, 1), "{datagrams:?}");
}

/// Several peers in one batch, whose descriptors are open one at a time.
#[test]
fn peers_of_all_kinds_are_answered_together() {
    let directory = tempfile::tempdir().unwrap();
    let server = directory.path().join("server");
    let echoing = start(directory.path());
    let unnamed = UnixDatagram::bind(Path::new("")).unwrap();
    unnamed.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut peers: Vec<_> =
        (0..3).map(|it| unix_client(&directory.path().join(format!("peer{it}")))).collect();
    peers.insert(1, unnamed);
    for round in 0..20_u8 {
        for peer in &peers {
            peer.send_to(&[round, 1], &server).unwrap();
            peer.send_to(&[round, 2], &server).unwrap();
        }
        for peer in &peers {
            for nth in [1, 2] {
                let mut reply = [0; 9];
                assert_eq!(peer.recv(&mut reply).unwrap(), 2);
                assert_eq!(reply[..2], [round, nth]);
            }
        }
    }
    assert_eq!(echoing.stop().1.answered, 160);
}

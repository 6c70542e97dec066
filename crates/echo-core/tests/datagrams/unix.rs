//! Unix datagrams.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;

/// What would block is dropped and counted: nobody waits for a peer that does not read.
#[test]
fn a_unix_peer_that_does_not_read_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let echoing = Echoing::unix(&path, Limits::default(), DatagramEcho::new(Mode::Auto));
    let deaf = unix_client(&directory.path().join("deaf"));
    let other = unix_client(&directory.path().join("other"));
    let queue = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
    let beyond = 100;
    let asked = queue.trim().parse::<u64>().unwrap() + 1 + beyond;
    for _ in 0..asked {
        deaf.send_to(b"are you there?", &path).unwrap();
        other.send_to(b"?", &path).unwrap();
        assert_eq!(other.recv(&mut [0; 9]).unwrap(), 1);
    }
    let datagrams = echoing.after(2 * asked);
    assert!(datagrams.blocked >= beyond, "{datagrams:?}");
    assert_eq!(datagrams.failed, 0);
    echoing.stop();
}

/// For a peer that is connected the kernel knows no such queue: what it does not read fills our send
/// buffer, until it reads or closes. The others are dropped and counted meanwhile, the loop goes on.
#[test]
fn a_send_buffer_that_is_full_is_no_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let name = UnixName::Path(path.clone());
    let options = DatagramOptions { buffer: 64 << 10, ..DatagramOptions::default() };
    let echoing = Echoing::start(Limits::default(), DatagramEcho::new(Mode::Auto), || {
        vec![DatagramSocket::bind_unix(&name, None, &options).unwrap()]
    });
    let deaf = unix_client(&directory.path().join("deaf"));
    deaf.connect(&path).unwrap();
    let mut asked = 0;
    while echoing.service.stats().datagrams.blocked == 0 {
        deaf.send(&[7; 10_000]).unwrap();
        asked += 1;
        echoing.after(asked);
    }
    drop(deaf);
    let other = unix_client(&directory.path().join("other"));
    other.send_to(b"?", &path).unwrap();
    assert_eq!(other.recv(&mut [0; 9]).unwrap(), 1);
    echoing.stop();
}

#[test]
fn unix_datagrams() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let limits = Limits { max_datagram: 100_000, ..Limits::default() };
    let echoing = Echoing::unix(&path, limits, DatagramEcho::new(Mode::Auto));
    let client = unix_client(&directory.path().join("client"));
    client.connect(&path).unwrap();
    let mut reply = vec![0; 200_000];
    for len in [0, 1, 65_536, 99_999, 100_000] {
        let message = vec![7; len];
        client.send(&message).unwrap();
        assert_eq!(client.recv(&mut reply).unwrap(), len);
        assert!(reply[..len] == message[..]);
    }
    client.send(&vec![7; 100_001]).unwrap();
    let unbound = UnixDatagram::unbound().unwrap();
    unbound.send_to(b"from nobody", &path).unwrap();
    let datagrams = echoing.after(7);
    assert_eq!((datagrams.truncated, datagrams.unnamed, datagrams.answered), (1, 1, 5));
    // A peer that is gone before it is answered.
    let gone = UnixDatagram::bind(directory.path().join("gone")).unwrap();
    gone.send_to(b"?", &path).unwrap();
    drop(gone);
    client.send(b"still there").unwrap();
    assert_eq!(client.recv(&mut reply).unwrap(), 11);
    assert!(path.exists());
    let (_, datagrams) = echoing.stop();
    assert_eq!(datagrams.received, 9);
    assert!(!path.exists(), "the socket file is left behind");
}

/// Unix peers have a rate only where a listener has one: a name is a source.
#[test]
fn unix_peers_have_a_rate_where_it_is_set() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let echo = DatagramEcho::new(Mode::Auto).rate(rate(2));
    let echoing = Echoing::unix(&path, Limits::default(), echo);
    for name in ["one", "other"] {
        let client = unix_client(&directory.path().join(name));
        for _ in 0..2 {
            client.send_to(b"?", &path).unwrap();
            assert_eq!(client.recv(&mut [0; 9]).unwrap(), 1);
        }
        for _ in 0..20 {
            client.send_to(b"?", &path).unwrap();
        }
    }
    assert!(echoing.after(44).over_rate > 0);
    echoing.stop();
}

/// Path rules as for streams: stale files are replaced, live sockets of any kind are not.
#[test]
fn unix_paths() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo");
    let bind = |perm| {
        let name = UnixName::Path(path.clone());
        DatagramSocket::bind_unix(&name, perm, &DatagramOptions::default())
    };
    drop(UnixDatagram::bind(&path).unwrap());
    assert!(path.exists(), "stale");
    let bound = bind(Some(0o640)).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(bind(None).unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(bound);
    assert!(!path.exists());
    let stream = UnixListener::bind(&path).unwrap();
    assert_eq!(bind(None).unwrap_err().kind(), ErrorKind::AddrInUse, "a stream socket");
    drop(stream);
    let bound = bind(None).unwrap();
    fs::remove_file(&path).unwrap();
    let theirs = UnixDatagram::bind(&path).unwrap();
    drop(bound);
    assert!(path.exists(), "somebody else's");
    drop(theirs);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a file").unwrap();
    assert_eq!(bind(None).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

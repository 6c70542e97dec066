//! Unix sockets.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Barrier;
use std::thread;

use tokio::runtime::Handle;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A socket file that nobody answers on, as a process that was killed leaves one.
fn leave_stale(path: &Path) {
    drop(std_unix::UnixListener::bind(path).unwrap());
}

#[tokio::test]
async fn unix_path_and_its_permissions() {
    let dir = tempfile::tempdir().unwrap();
    for perm in [0o600, 0o660, 0o666, 0o777] {
        let path = dir.path().join("s");
        let mut listener =
            bind(&format!("unix:{}?perm={perm:o}", path.display())).await.unwrap().pop().unwrap();
        assert_eq!(mode(&path), perm);
        assert_eq!(listener.local_addr().to_string(), path.to_str().unwrap());
        let _client = std_unix::UnixStream::connect(&path).unwrap();
        let (_, peer) = accept(&mut listener).await.unwrap();
        assert_eq!(peer, Peer::Unix);
        drop(listener);
        assert!(!path.exists());
    }
}

/// The socket's own mode bounds the file's from the moment bind makes it.
#[test]
fn file_is_never_wider_than_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn stale_file_is_replaced_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    leave_stale(&path);
    let mut listener = bind_path(&path, None).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let error = bind_path(&path, None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("another process listens there"), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    // The attempt looked by connecting, and that is all it did.
    accept(&mut listener).await.unwrap();
    let _client = std_unix::UnixStream::connect(&path).unwrap();
    accept(&mut listener).await.unwrap();
}

#[tokio::test]
async fn live_file_with_a_full_queue_is_not_stale() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let name = UnixName::Path(path.clone());
    let options = SocketOptions { backlog: 0, ..OPTIONS };
    let _listener = Listener::bind_unix(&name, None, &options).unwrap();
    let _queued = std_unix::UnixStream::connect(&path).unwrap();
    assert_eq!(bind_path(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn what_is_not_a_stale_socket_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = dir.path().join("link");
    symlink(&file, &link).unwrap();
    let datagram = dir.path().join("datagram");
    let _socket = std_unix::UnixDatagram::bind(&datagram).unwrap();
    for (path, kind) in [
        (&file, io::ErrorKind::AlreadyExists),
        (&link, io::ErrorKind::AlreadyExists),
        (&dir.path().to_owned(), io::ErrorKind::AlreadyExists),
        (&datagram, io::ErrorKind::AddrInUse),
    ] {
        let error = bind_path(path, Some(0o600)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let start = format!("cannot listen on {}: ", path.display());
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
    assert!(datagram.exists());
}

#[tokio::test]
async fn unusable_directories() {
    let dir = tempfile::tempdir().unwrap();
    let error = bind_path(dir.path().join("no/s"), None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(bind_path(dir.path().join("a\0b"), None).is_err());
    assert!(bind_path("", None).is_err());
    // Where not even root can make a file.
    let error = bind_path("/proc/self/s", Some(0o600)).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on /proc/self/s: "), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn unlinked_only_while_ours() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");

    // Somebody put another file in its place.
    let listener = bind_path(&path, None).unwrap();
    fs::remove_file(&path).unwrap();
    let theirs = std_unix::UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
    fs::remove_file(&path).unwrap();
    drop(theirs);

    // Somebody removed it.
    let listener = bind_path(&path, None).unwrap();
    fs::remove_file(&path).unwrap();
    drop(listener);

    // A successor after an early unlink.
    let mut listener = bind_path(&path, None).unwrap();
    let _queued = std_unix::UnixStream::connect(&path).unwrap();
    listener.unlink();
    assert!(!path.exists());
    let successor = bind_path(&path, None).unwrap();
    assert!(listener.accept_queued().unwrap().is_some());
    drop(listener);
    assert!(path.exists());
    drop(successor);
    assert!(!path.exists());
}

/// Of starters that meet one stale file exactly one gets the path, and keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn starters_do_not_steal() {
    const STARTERS: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let runtime = Handle::current();
    for round in 0..50 {
        if round % 2 == 0 {
            leave_stale(&path);
        }
        let barrier = Barrier::new(STARTERS);
        let start = || {
            let _runtime = runtime.enter();
            barrier.wait();
            bind_path(&path, None)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });
        let (bound, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(bound.len(), 1, "{refused:?}");
        for error in refused {
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        std_unix::UnixStream::connect(&path).unwrap();
    }
}

/// A directory that somebody keeps locked delays, and does not prevent.
#[tokio::test]
async fn locked_directory() {
    let dir = tempfile::tempdir().unwrap();
    let lock = fs::File::open(dir.path()).unwrap();
    lock.lock().unwrap();
    bind_path(dir.path().join("s"), None).unwrap();
}

#[tokio::test]
async fn abstract_name() {
    // Unique, because the name space is the host's.
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("unix:@echo{}", dir.path().display());
    let mut listener = bind(&uri).await.unwrap().pop().unwrap();
    assert_eq!(format!("unix:{}", listener.local_addr()), uri);
    let LocalAddr::Unix(name) = listener.local_addr().clone() else { panic!() };
    let address = [b"\0", name.as_bytes()].concat();
    let client = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    client.connect(&SockAddr::unix(String::from_utf8(address).unwrap()).unwrap()).unwrap();
    accept(&mut listener).await.unwrap();
    assert_eq!(bind(&uri).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let error = Listener::bind_unix(&name, Some(0o600), &OPTIONS).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

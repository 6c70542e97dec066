//! Faults 51 and 52: disks that are full, read-only or broken. A clear answer, nothing visible, and
//! others go on.

use std::process::Command;

use super::support::injection;
use super::support::process::long;
use super::support::skip;
use super::*;

/// A file system of a few bytes, in the place of the store, while this lives.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(place: &Place, options: &str, test: &str) -> Option<Self> {
        let path = place.store();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).output();
        if mounted.is_ok_and(|it| it.status.success()) {
            return Some(Self(path));
        }
        skip(test, "the right to mount");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_refuses_one_upload_and_no_other() {
    let place = Place::new();
    let Some(_mount) = Mount::tmpfs(&place, "size=4m", "a_full_disk") else { return };
    let mut server = place.serve();
    run(async {
        let (mut talk, mut other) = (place.connect().await, place.connect().await);
        talk.store("a", &noise(1 << 20, 1)).await.unwrap();
        let bytes = noise(1 << 20, 2);
        talk.put("b", false).await.unwrap();
        let mut refused = None;
        for _ in 0..8 {
            refused = talk.data(&bytes).await.err().or(refused);
        }
        assert_eq!(refused, Some(ErrorCode::NoSpace));
        assert_eq!(talk.commit(&bytes).await, Err(ErrorCode::NoSpace));
        eventually("its space is free again", || place.parts() == 0).await;
        other.store("c", &bytes).await.unwrap();
        talk.store("d", &bytes[..1 << 19]).await.unwrap();
        assert_eq!(place.visible().len(), 3);
        assert!(talk.fetch("c").await.unwrap() == bytes);
    });
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_read_only_disk_is_told_and_is_read() {
    let place = Place::new();
    let Some(mount) = Mount::tmpfs(&place, "size=4m", "a_read_only_disk") else { return };
    let _server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        talk.store("a", b"1").await.unwrap();
        let remounted =
            Command::new("mount").args(["-o", "remount,ro"]).arg(&mount.0).output().unwrap();
        assert!(remounted.status.success() || !long());
        if remounted.status.success() {
            assert_eq!(talk.store("b", b"1").await, Err(ErrorCode::Failed));
            assert_eq!(talk.fetch("a").await.unwrap(), b"1");
            assert_eq!(talk.remove("a").await, Err(ErrorCode::Failed));
        }
    });
}

/// Each system call that can fail, failing: an answer of the right kind, nothing visible, and the server
/// goes on.
#[test]
fn what_the_disk_fails_is_no_file() {
    if !injection::can_inject("what_the_disk_fails_is_no_file") {
        return;
    }
    for (call, error, code) in [
        ("fsync:error=EIO", "EIO", ErrorCode::Failed),
        ("pwrite64:error=EIO", "EIO", ErrorCode::Failed),
        ("pwrite64:error=ENOSPC", "ENOSPC", ErrorCode::NoSpace),
        ("pwrite64:error=EDQUOT", "EDQUOT", ErrorCode::NoSpace),
        ("pwrite64:error=EFBIG", "EFBIG", ErrorCode::NoSpace),
        ("renameat,renameat2,rename:error=EIO", "EIO", ErrorCode::Failed),
        ("renameat,renameat2,rename:error=EROFS", "EROFS", ErrorCode::Failed),
    ] {
        let place = Place::new();
        // Once in peace: a new store is synced as well.
        assert_eq!(place.serve().stop(), Some(0));
        let log = place.folder.path().join("trace");
        let args = place.args();
        let args: Vec<_> = args.iter().map(String::as_str).chain(["--anonymous-put"]).collect();
        let mut server = injection::start_injected(&log, call, &args);
        run(async {
            let mut talk = place.connect().await;
            for (name, len) in [("small", 10), ("large", 1 << 20)] {
                talk.put(name, false).await.unwrap();
                let bytes = noise(len, 4);
                let came = talk.data(&bytes).await.map(drop);
                let stored = came.and(talk.commit(&bytes).await.map(drop));
                assert_eq!(stored, Err(code), "{call} {name} {error}");
                assert_eq!(talk.ask(Kind::ECHO, |out| out.push(1)).await.unwrap(), "\x01");
            }
            eventually("what failed is gone", || place.parts() == 0).await;
            assert!(place.visible().is_empty(), "{call}");
        });
        assert_eq!(server.stop(), Some(0), "{call}");
        assert!(injection::was_injected(&log), "{call}");
    }
}

//! Faults 51 and 52: disks that are full, read-only or broken. A clear answer, nothing visible, and
//! others go on.

use std::process::Command;

use echo_core::List;
use rustix::process::Resource;

use super::support::http::Admin;
use super::support::injection;
use super::support::process::{descriptors, leave_room, limit};
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

/// A disk may have room for bytes, and none for one more file or folder.
#[test]
fn a_disk_without_inodes_refuses_files_and_folders() {
    let place = Place::new();
    // Of the file system, `.echo-server`, the lock, and three more.
    let Some(_mount) = Mount::tmpfs(&place, "size=4m,nr_inodes=6", "a_disk_without_inodes") else {
        return;
    };
    let _server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        talk.store("a", b"1").await.unwrap();
        // The part is one, and then there is one for one of the folders.
        assert_eq!(talk.store("x/y/z", b"1").await, Err(ErrorCode::NoSpace));
        eventually("the part is gone", || place.parts() == 0).await;
        assert_eq!(place.visible(), [place.path("a")]);
        assert!(!place.path("x").exists());
        talk.store("b", b"1").await.unwrap();
        talk.store("b2", b"1").await.unwrap();
        assert_eq!(talk.store("c", b"1").await, Err(ErrorCode::NoSpace));
        talk.remove("a").await.unwrap();
        talk.store("c", b"1").await.unwrap();
    });
}

#[test]
fn a_read_only_disk_is_told_and_is_read() {
    let place = Place::new();
    let Some(mount) = Mount::tmpfs(&place, "size=4m", "a_read_only_disk") else { return };
    let server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        talk.store("a", b"1").await.unwrap();
        let remounted =
            Command::new("mount").args(["-o", "remount,ro"]).arg(&mount.0).output().unwrap();
        assert!(remounted.status.success(), "{}", String::from_utf8_lossy(&remounted.stderr));
        assert_eq!(talk.store("b", b"1").await, Err(ErrorCode::Failed));
        assert_eq!(talk.fetch("a").await.unwrap(), b"1");
        assert_eq!(talk.remove("a").await, Err(ErrorCode::Failed));
    });
    server.wait_for_stderr("cannot write to the store: Read-only file system");
    server.wait_for_stderr("cannot remove from the store: Read-only file system");
}

/// Without descriptors uploads and downloads are refused, on connections that go on, and later are not.
#[test]
fn without_descriptors_transfers_are_refused() {
    let place = Place::new();
    let server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        let mut under_way = place.connect().await;
        let bytes = noise(1 << 20, 5);
        talk.store("a", b"1").await.unwrap();
        let before = descriptors(server.pid());
        under_way.put("b", false).await.unwrap();
        under_way.data(&bytes).await.unwrap();
        // What is open for a moment would leave room behind it.
        let settled = || place.parts() == 2 && descriptors(server.pid()) == before + 1;
        eventually("the part is open, and its state is saved", settled).await;
        leave_room(server.pid(), 0);
        assert_eq!(talk.store("c", b"1").await, Err(ErrorCode::Failed));
        assert_eq!(talk.fetch("a").await, Err(ErrorCode::Failed));
        assert_eq!(talk.remove("a").await, Err(ErrorCode::Failed));
        let list = |out: &mut Vec<u8>| List { cursor: b"", prefix: b"" }.put(out);
        assert_eq!(talk.ask(Kind::LIST, list).await, Err(ErrorCode::Failed));
        assert_eq!(talk.ask(Kind::ECHO, |out| out.push(1)).await.unwrap(), "\x01");
        limit(server.pid(), Resource::Nofile, 1024);
        under_way.commit(&bytes).await.unwrap();
        talk.store("c", b"1").await.unwrap();
        assert_eq!(talk.fetch("a").await.unwrap(), b"1");
        eventually("nothing is left", || place.parts() == 0).await;
    });
    assert_eq!(place.visible(), ["a", "b", "c"].map(|name| place.path(name)));
}

/// A part whose disk fails while it is parked is not there to go on with; the next upload is.
#[test]
fn what_cannot_be_parked_is_gone() {
    if !injection::can_inject("what_cannot_be_parked_is_gone") {
        return;
    }
    let place = Place::new();
    let mut server = place.serve_injected("fdatasync:error=EIO");
    run(async {
        let mut talk = place.connect().await;
        talk.put("a", true).await.unwrap();
        talk.data(&noise(1 << 20, 6)).await.unwrap();
        drop(talk);
        let mut talk = place.connect().await;
        assert_eq!(talk.put("a", true).await.unwrap().offset, 0);
        assert_eq!(place.parts(), 0);
        talk.data(b"anew").await.unwrap();
        talk.commit(b"anew").await.unwrap();
        assert_eq!(talk.fetch("a").await.unwrap(), b"anew");
    });
    assert_eq!(server.stop(), Some(0));
    assert!(server.stderr().contains("cannot keep an unfinished upload: Input/output error"));
    injection::wait_until_injected(&place.trace());
}

/// A new folder whose own entry could not be synced: that is told to who made it, and to who finds it there.
#[test]
fn what_lies_in_a_folder_that_is_not_durable_is_not_either() {
    if !injection::can_inject("what_lies_in_a_folder_that_is_not_durable_is_not_either") {
        return;
    }
    let place = Place::new();
    assert_eq!(place.serve().stop(), Some(0));
    // Of the file, of its folder, of the folder around that: each third, whichever thread it is that syncs.
    let mut server = place.serve_injected("fsync:error=EIO:when=3+3");
    run(async {
        let mut talk = place.connect().await;
        for name in ["d/a", "d/b"] {
            assert_eq!(talk.store(name, b"1").await, Err(ErrorCode::Failed), "{name}");
            assert_eq!(talk.fetch(name).await.unwrap(), b"1", "it is stored");
        }
    });
    assert_eq!(server.stop(), Some(0));
    injection::wait_until_injected(&place.trace());
}

/// Folders that were made for a file which cannot come are not left, nor counted, for ever.
#[test]
fn folders_of_what_cannot_be_stored_are_gone() {
    if !injection::can_inject("folders_of_what_cannot_be_stored_are_gone") {
        return;
    }
    let place = Place::new();
    let more = ["--anonymous-put", "--admin=127.0.0.1:0"];
    let command = place.injected("renameat,renameat2,rename:error=ENOSPC", None, &more);
    let mut server = Server::start_command(command, 1);
    run(async {
        let mut talk = place.connect().await;
        assert_eq!(talk.store("x/y/z", b"1").await, Err(ErrorCode::NoSpace));
    });
    assert_eq!(Admin::of(&server).metrics().get("echo_files_folders"), 0);
    assert!(!place.path("x").exists());
    assert_eq!(server.stop(), Some(0));
    injection::wait_until_injected(&place.trace());
}

/// Folders of a server that was killed may not be durable: a start syncs them, or is none.
#[test]
fn a_start_makes_durable_what_is_there() {
    if !injection::can_inject("a_start_makes_durable_what_is_there") {
        return;
    }
    let place = Place::new();
    let mut server = Server::spawn(place.injected("syncfs:error=EIO", None, &[]));
    assert_eq!(server.wait(support::PATIENCE).code(), Some(78));
    assert!(server.stderr().contains("cannot store files in"), "{}", server.stderr());
}

/// Each system call that can fail, failing: an answer of the right kind, nothing visible, one line for who runs the
/// server, which goes on.
#[test]
fn what_the_disk_fails_is_no_file() {
    if !injection::can_inject("what_the_disk_fails_is_no_file") {
        return;
    }
    const RENAME: &str = "renameat,renameat2,rename";
    for (call, error, code, told) in [
        ("fsync", "EIO", ErrorCode::Failed, "Input/output error"),
        ("pwrite64", "EIO", ErrorCode::Failed, "Input/output error"),
        ("pwrite64", "ENOSPC", ErrorCode::NoSpace, "No space left on device"),
        ("pwrite64", "EDQUOT", ErrorCode::NoSpace, "Disk quota exceeded"),
        // That is the client's fault.
        ("pwrite64", "EFBIG", ErrorCode::NoSpace, ""),
        (RENAME, "EIO", ErrorCode::Failed, "Input/output error"),
        (RENAME, "EROFS", ErrorCode::Failed, "Read-only file system"),
        (RENAME, "EACCES", ErrorCode::Failed, "Permission denied"),
    ] {
        let call = &format!("{call}:error={error}");
        let place = Place::new();
        // Once in peace: a new store is synced as well.
        assert_eq!(place.serve().stop(), Some(0));
        let mut server = place.serve_injected(call);
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
        injection::wait_until_injected(&place.trace());
        let (stderr, line) = (server.stderr(), format!("cannot write to the store: {told}"));
        let lines = stderr.lines().filter(|it| it.contains("WARN") && it.contains(&line));
        // Twice, once a minute, if the machine was that busy.
        let expected = if told.is_empty() { 0..=0 } else { 1..=2 };
        assert!(expected.contains(&lines.count()), "{call}: {stderr}");
    }
}

/// `check` says before the start what would be said at it, and leaves no trace.
#[test]
fn check_looks_through_the_store() {
    if !injection::can_inject("check_looks_through_the_store") {
        return;
    }
    let place = Place::new();
    fs::create_dir_all(place.path("a/broken/inner")).unwrap();
    let call = "openat:error=EACCES";
    let mut check = Server::spawn(place.injected(call, Some("broken"), &["check"]));
    assert_eq!(check.wait(support::PATIENCE).code(), Some(78));
    let stderr = check.stderr();
    assert!(
        stderr.contains("cannot store files in")
            && stderr.contains(": a/broken/: Permission denied"),
        "{stderr}"
    );
    let mut command = support::command();
    assert!(command.args(place.args()).arg("check").status().unwrap().success());
    assert!(place.path("a/broken/inner").exists() && !place.path(".echo-server").exists());
    // Where the kernel alone has files, whoever asks.
    for files in ["/proc", "/sys", "/proc/self"] {
        for task in [&["check"][..], &[]] {
            let mut command = support::command();
            command.args(["--listen=unix:@never", "--files", files]).args(task);
            let mut server = Server::spawn(command);
            assert_eq!(server.wait(support::PATIENCE).code(), Some(78), "{files}");
            let told = format!("cannot store files in {files}: it holds what the kernel shows");
            assert!(server.stderr().contains(&told), "{}", server.stderr());
        }
    }
}

/// What has the names of the server's own folder and lock, and is neither: `check` and a start say what it is, and
/// touch nothing.
#[test]
fn what_is_in_the_way_is_told() {
    let (own, lock) = (".echo-server", ".echo-server/lock");
    for (name, make, told) in [
        (own, "ln -s ../elsewhere", "a symbolic link, and the server needs a folder"),
        (own, "ln -s /nowhere", "a symbolic link, and the server needs a folder"),
        (own, "touch", "a file, and the server needs a folder"),
        (lock, "mkfifo", "a pipe (FIFO), and the server needs a file"),
        (lock, "mkdir", "a folder, and the server needs a file"),
        (lock, "ln -s ../../elsewhere/file", "a symbolic link, and the server needs a file"),
    ] {
        let place = Place::new();
        let elsewhere = place.folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "").unwrap();
        if name == lock {
            fs::create_dir(place.path(own)).unwrap();
        }
        let mut make: Vec<_> = make.split(' ').map(str::to_owned).collect();
        make.push(place.path(name).display().to_string());
        assert!(Command::new(&make[0]).args(&make[1..]).status().unwrap().success());
        let before = all_names(place.folder.path());
        for task in [&["check"][..], &[]] {
            let mut command = support::command();
            command.args(place.args()).args(task);
            let mut server = Server::spawn(command);
            assert_eq!(server.wait(support::PATIENCE).code(), Some(78), "{make:?} {task:?}");
            let stderr = server.stderr();
            assert!(stderr.contains(&format!("{name} is {told}")), "{make:?} {task:?}: {stderr}");
            assert_eq!(all_names(place.folder.path()), before, "{make:?} {task:?}");
        }
    }
}

fn all_names(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(folder, &mut found);
    found.sort();
    found
}

//! How much there may be, and for whom the store is.

use rustix::fs::{XattrFlags, setxattr};

use super::support::PATIENCE;
use super::support::http::Admin;
use super::*;

#[test]
fn quotas_refuse_and_others_go_on() {
    let place = Place::new();
    let _server = place.serve_with(&[
        "--anonymous-put",
        "--files-bytes=2MiB",
        "--files-count=3",
        "--files-transfers=2",
    ]);
    run(async {
        let mut talk = place.connect().await;
        let bytes = noise(1 << 20, 1);
        talk.store("a", &bytes).await.unwrap();
        // In mid-transfer; what had come is given back.
        talk.put("b", false).await.unwrap();
        let mut refused = None;
        for _ in 0..4 {
            refused = talk.data(&bytes).await.err().or(refused);
        }
        assert_eq!(refused, Some(ErrorCode::NoSpace));
        assert_eq!(talk.commit(&bytes).await, Err(ErrorCode::NoSpace));
        eventually("what was refused is gone", || place.parts() == 0).await;
        assert_eq!(place.visible(), [place.path("a")]);
        // A file in the place of another takes no more than it has.
        talk.store("a", &bytes[1..]).await.unwrap();
        talk.store("b", b"1").await.unwrap();
        talk.store("c", b"1").await.unwrap();
        assert_eq!(talk.store("d", b"1").await, Err(ErrorCode::NoSpace));
        talk.remove("b").await.unwrap();
        talk.store("d", b"1").await.unwrap();
        // Transfers.
        let (mut second, mut third) = (place.connect().await, place.connect().await);
        talk.put("a", false).await.unwrap();
        second.get("a", 0, [0; 32]).await.unwrap();
        assert_eq!(third.get("a", 0, [0; 32]).await.unwrap_err(), ErrorCode::Busy);
        drop(talk);
        unless_busy(async || third.get("a", 0, [0; 32]).await.map(drop)).await.unwrap();
    });
}

/// A new version of a file takes its place, and none more, even where there may be no more files; what is left of
/// such uploads is bounded as they are.
#[test]
fn a_full_store_takes_new_versions() {
    for bound in ["--files-count=2", "--files-user-count=2"] {
        let place = Place::new();
        let mut args = vec!["--anonymous-put", "--files-transfers=3", bound];
        let mut server = place.serve_with(&args);
        run(async {
            let mut talk = place.connect().await;
            talk.store("a", b"1").await.unwrap();
            talk.store("b", b"1").await.unwrap();
            for round in [b"2", b"3"] {
                talk.store("a", round).await.unwrap();
                talk.store("b", round).await.unwrap();
                assert_eq!(talk.store("c", round).await, Err(ErrorCode::NoSpace), "{bound}");
            }
            // One that fails leaves nothing, of the books neither.
            talk.put("a", false).await.unwrap();
            talk.data(b"4").await.unwrap();
            assert_eq!(talk.commit(b"5").await, Err(ErrorCode::Mismatch));
            // Removed while its new version comes.
            let mut other = place.connect().await;
            talk.put("a", false).await.unwrap();
            talk.data(&noise(600_000, 3)).await.unwrap();
            eventually("a part is there", || place.parts() > 0).await;
            other.remove("a").await.unwrap();
            assert_eq!(other.store("c", b"1").await, Err(ErrorCode::NoSpace), "{bound}");
            talk.commit(&noise(600_000, 3)).await.unwrap();
            assert_eq!(other.store("c", b"1").await, Err(ErrorCode::NoSpace), "{bound}");
            talk.store("b", b"6").await.unwrap();
            other.remove("a").await.unwrap();
            other.store("c", b"1").await.unwrap();
        });
        assert_eq!(server.stop(), Some(0));
        assert_eq!(place.visible(), [place.path("b"), place.path("c")]);
        // What stops is parked, and counts: as many of them as may be open, not as many as there are files.
        args[1] = "--files-transfers=1";
        let _server = place.serve_with(&args);
        run(async {
            let mut talk = place.connect().await;
            let block = noise(600_000, 4);
            talk.put("b", true).await.unwrap();
            talk.data(&block).await.unwrap();
            // Once the other one is parked.
            let refused = unless_busy(async || talk.put("c", true).await.map(drop)).await;
            assert_eq!(refused, Err(ErrorCode::NoSpace), "{bound}");
        });
    }
}

/// Or a peer could leave a billion of a byte each.
#[test]
fn parts_count_as_files() {
    let place = Place::new();
    let mut server = place.serve_with(&["--anonymous-put", "--files-count=3"]);
    let block = noise(600_000, 3);
    run(async {
        let mut talk = place.connect().await;
        for (name, files) in [("a", 2), ("b", 4), ("c", 6)] {
            talk.put(name, true).await.unwrap();
            talk.data(&block).await.unwrap();
            eventually("its part is counted", || place.parts() >= files).await;
        }
        assert_eq!(talk.put("d", true).await, Err(ErrorCode::NoSpace));
    });
    assert_eq!(server.stop(), Some(0));
    // They still do when they are taken up; what goes on with one does not count twice.
    let _server = place.serve_with(&["--anonymous-put", "--files-count=3"]);
    run(async {
        let mut talk = place.connect().await;
        assert_eq!(talk.store("d", b"1").await, Err(ErrorCode::NoSpace));
        let offset = usize::try_from(talk.put("a", true).await.unwrap().offset).unwrap();
        assert!(offset > 0);
        talk.data(&block[offset..]).await.unwrap();
        talk.commit(&block).await.unwrap();
        assert_eq!(talk.store("d", b"1").await, Err(ErrorCode::NoSpace));
        assert_eq!(talk.put("b", false).await.unwrap().offset, 0);
        talk.store("d", b"1").await.unwrap();
    });
}

/// What is admitted has its places until it is stored, or given up: others do not use them up while it is sent. What is
/// parked keeps its file's, as it keeps its bytes.
#[test]
fn what_is_admitted_has_its_places() {
    let place = Place::new();
    let _server = place.serve_with(&["--anonymous-put", "--files-count=4"]);
    run(async {
        let (mut talk, mut other) = (place.connect().await, place.connect().await);
        let block = noise(600_000, 6);
        // Two folders and a file; of some nothing has come yet.
        for sent in [0, 1, block.len()] {
            talk.put("a/b/c", true).await.unwrap();
            talk.data(&block[..sent]).await.unwrap();
            other.store("d", b"1").await.unwrap();
            assert_eq!(other.store("e", b"1").await, Err(ErrorCode::NoSpace), "{sent}");
            talk.commit(&block[..sent]).await.unwrap();
            assert_eq!(other.store("e", b"1").await, Err(ErrorCode::NoSpace), "{sent}");
            talk.remove("a/b/c").await.unwrap();
            other.remove("d").await.unwrap();
        }
        // Given up, by another PUT, of another name or the same.
        talk.put("a/b/c", true).await.unwrap();
        talk.put("x/y/z", true).await.unwrap();
        talk.put("x/y/z", false).await.unwrap();
        other.store("d", b"1").await.unwrap();
        // Parked: the folders' are free again, and taken when it goes on.
        talk.data(&block).await.unwrap();
        eventually("its part is there", || place.parts() > 0).await;
        drop(talk);
        unless_full(async || other.store("e", b"1").await).await;
        other.store("f", b"1").await.unwrap();
        assert_eq!(other.store("g", b"1").await, Err(ErrorCode::NoSpace));
        assert_eq!(other.put("x/y/z", true).await, Err(ErrorCode::NoSpace));
        other.remove("e").await.unwrap();
        other.remove("f").await.unwrap();
        let offset = usize::try_from(other.put("x/y/z", true).await.unwrap().offset).unwrap();
        assert!(offset > 0);
        other.data(&block[offset..]).await.unwrap();
        other.commit(&block).await.unwrap();
        assert_eq!(place.visible(), [place.path("d"), place.path("x/y/z")]);
    });
}

/// Asks again until there is a place, which there soon is.
async fn unless_full(mut ask: impl AsyncFnMut() -> Result<(), ErrorCode>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(code) = ask().await {
        assert_eq!(code, ErrorCode::NoSpace);
        assert!(tokio::time::Instant::now() < deadline, "always full");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Or files of no bytes would make as many folders as their names are deep.
#[test]
fn folders_count_as_files() {
    let place = Place::new();
    let args = ["--anonymous-put", "--files-count=5", "--admin=127.0.0.1:0"];
    let mut server = place.serve_with(&args);
    let counted = |server: &Server| {
        let metrics = Admin::of(server).metrics();
        (metrics.get("echo_files"), metrics.get("echo_files_folders"))
    };
    run(async {
        let mut talk = place.connect().await;
        talk.store("a/b/c", b"").await.unwrap();
        assert_eq!(counted(&server), (1, 2));
        // Nothing of it is left, nor counted.
        assert_eq!(talk.store("a/d/e/f/g", b"").await, Err(ErrorCode::NoSpace));
        eventually("it is as before", || counted(&server) == (1, 2)).await;
        assert_eq!(fs::read_dir(place.path("a")).unwrap().count(), 1);
        talk.store("a/d/e", b"").await.unwrap();
        assert_eq!(counted(&server), (2, 3));
        assert_eq!(talk.store("f", b"").await, Err(ErrorCode::NoSpace));
        talk.store("a/d/e", b"new").await.unwrap();
    });
    assert_eq!(server.stop(), Some(0));
    let server = place.serve_with(&args);
    assert_eq!(counted(&server), (2, 3), "as before");
    run(async {
        let mut talk = place.connect().await;
        talk.remove("a/d/e").await.unwrap();
        assert_eq!(counted(&server), (1, 2));
        talk.remove("a/b/c").await.unwrap();
        assert_eq!(counted(&server), (0, 0));
        talk.store("1/2/3/4/5", b"").await.unwrap();
    });
}

/// They are made, and counted, at the end; but what would be refused then is not sent for nothing.
#[test]
fn too_many_folders_are_refused_before_the_bytes() {
    let place = Place::new();
    let _server = place.serve_with(&["--anonymous-put", "--files-count=4"]);
    run(async {
        let mut talk = place.connect().await;
        talk.store("a/b", b"1").await.unwrap();
        // Two folders and a file, where there may be two more.
        assert_eq!(talk.put("a/c/d/e", false).await, Err(ErrorCode::NoSpace));
        assert_eq!(fs::read_dir(place.path("a")).unwrap().count(), 1);
        // One of the folders is there; the file, once it has begun, is counted.
        let bytes = noise(600_000, 5);
        talk.put("a/c/d", true).await.unwrap();
        talk.data(&bytes).await.unwrap();
        eventually("its part is there", || place.parts() > 0).await;
        drop(talk);
        let mut talk = place.connect().await;
        let offset = usize::try_from(talk.put("a/c/d", true).await.unwrap().offset).unwrap();
        assert!(offset > 0);
        talk.data(&bytes[offset..]).await.unwrap();
        talk.commit(&bytes).await.unwrap();
        // No more folders, where there are enough.
        talk.store("a/c/d", b"2").await.unwrap();
    });
}

/// A server that was killed may have made folders for a file that did not come. Those of other programs stay.
#[test]
fn empty_folders_of_a_killed_server_go_at_the_start() {
    let place = Place::new();
    for (folder, owner) in [("x", "ann"), ("x/y", "ann"), ("full", "ann"), ("others", "")] {
        fs::create_dir(place.path(folder)).unwrap();
        if !owner.is_empty() {
            let (name, flags) = ("user.echo-server.owner", XattrFlags::empty());
            setxattr(place.path(folder), name, owner.as_bytes(), flags).unwrap();
        }
    }
    fs::write(place.path("full/file"), "").unwrap();
    let server = place.serve_with(&["--admin=127.0.0.1:0"]);
    assert_eq!(Admin::of(&server).metrics().get("echo_files_folders"), 2);
    let mut left: Vec<_> =
        fs::read_dir(place.store()).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".echo-server", "full", "others"]);
}

/// What lies there at the start counts.
#[test]
fn files_are_counted_at_the_start() {
    let place = Place::new();
    fs::create_dir_all(place.path("x/y")).unwrap();
    fs::write(place.path("x/y/z"), [0; 1000]).unwrap();
    let server = place.serve_with(&["--anonymous-put", "--files-bytes=1500"]);
    run(async {
        let mut talk = place.connect().await;
        assert_eq!(talk.store("a", &[1; 501]).await, Err(ErrorCode::NoSpace));
        talk.store("a", &[1; 500]).await.unwrap();
    });
    server.wait_for_stderr("files=1 bytes=1000");
}

#[test]
fn without_a_store_file_frames_have_no_place() {
    let place = Place::new();
    let uri = place.uri();
    let _server = Server::start(&["--listen", &uri]);
    run(async {
        let mut talk = place.connect().await;
        assert!(!talk.0.session().features.contains(echo_core::Features::FILES));
        let name = FileName::new(b"a").unwrap();
        let get = Get { offset: 0, prefix: [0; 32], name };
        let answer = talk.ask(Kind::GET, |out| get.put(out)).await;
        assert_eq!(answer, Err(ErrorCode::UnexpectedKind));
    });
}

#[test]
fn a_store_has_one_server() {
    let place = Place::new();
    let _server = place.serve();
    let mut command = support::command();
    command.args(["--listen=unix:@never", "--files"]).arg(place.store());
    let mut second = Server::spawn(command);
    assert_eq!(second.wait(PATIENCE).code(), Some(78));
    assert!(second.stderr().contains("another server stores files there"), "{}", second.stderr());
    let mut command = support::command();
    command.args(["--listen=unix:@never", "--files", "/nonexistent/folder"]);
    let mut missing = Server::spawn(command);
    assert_eq!(missing.wait(PATIENCE).code(), Some(78));
    assert!(missing.stderr().contains("No such file or directory"), "{}", missing.stderr());
}

//! What a name stands for when it changes, and what is counted then.

use std::os::unix::fs::PermissionsExt;

use echo_core::Attributes;

use super::support::injection;
use super::*;

/// A disk that fails to keep a folder: what is visible counts, what is not does not.
#[test]
fn what_appears_counts_though_its_folder_cannot_be_synced() {
    if !injection::can_inject("what_appears_counts_though_its_folder_cannot_be_synced") {
        return;
    }
    let place = Place::new();
    assert_eq!(place.serve().stop(), Some(0));
    let store = place.store().display().to_string();
    let more = ["--anonymous-put", "--files-bytes=1500"];
    let command = place.injected("fsync:error=EIO", Some(&store), &more);
    let mut server = Server::start_command(command, 1);
    run(async {
        let mut talk = place.connect().await;
        assert_eq!(talk.store("a", &[1; 1000]).await, Err(ErrorCode::Failed));
        assert_eq!(place.visible(), [place.path("a")]);
        assert_eq!(talk.fetch("a").await.unwrap(), [1; 1000]);
        assert_eq!(talk.store("b", &[2; 600]).await, Err(ErrorCode::NoSpace));
        // In place of it.
        assert_eq!(talk.store("a", &[3; 400]).await, Err(ErrorCode::Failed));
        assert_eq!(talk.fetch("a").await.unwrap(), [3; 400]);
        assert_eq!(talk.store("b", &[4; 1000]).await, Err(ErrorCode::Failed));
        assert_eq!(talk.store("c", &[5; 200]).await, Err(ErrorCode::NoSpace));
        let name = FileName::new(b"b").unwrap();
        talk.send(Kind::REMOVE, |out| Remove { name }.put(out)).await;
        let (_, payload) = talk.0.recv().await.unwrap();
        let error = ErrorFrame::parse(&payload).unwrap();
        assert_eq!(error.code, ErrorCode::Failed);
        assert!(error.text.starts_with("it is removed, but may not outlast a crash: "));
        assert_eq!(place.visible(), [place.path("a")]);
        assert_eq!(talk.store("c", &[5; 1000]).await, Err(ErrorCode::Failed));
        assert_eq!(talk.store("c/d", &[5; 10]).await, Err(ErrorCode::Forbidden));
    });
    assert_eq!(server.stop(), Some(0));
    injection::wait_until_injected(&place.trace());
}

/// Permissions are kept, but never such that the server could not read the file, nor whose it is.
#[test]
fn no_mode_hides_a_file_from_the_server() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        for (mode, kept) in [(0, 0o600), (0o044, 0o644), (0o4755, 0o755)] {
            let name = FileName::new(b"a").unwrap();
            let keep = Some(Attributes { mode, mtime_s: 7, mtime_ns: 0 });
            let put = Put { resume: false, keep, size: None, name };
            talk.ask(Kind::PUT, |out| put.put(out)).await.unwrap();
            talk.data(b"x").await.unwrap();
            talk.commit(b"x").await.unwrap();
            let mode = fs::metadata(place.path("a")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, kept, "{mode:o}");
        }
    });
}

/// A file that cannot fit is refused before a byte of it is sent; what is announced is not counted.
#[test]
fn a_size_over_the_quota_is_refused_at_put() {
    let place = Place::new();
    let _server = place.serve_with(&["--anonymous-put", "--files-bytes=1000"]);
    run(async {
        let mut talk = place.connect().await;
        for (size, answer) in
            [(1001, Err(ErrorCode::NoSpace)), (1 << 60, Err(ErrorCode::NoSpace)), (1000, Ok(0))]
        {
            let name = FileName::new(b"a").unwrap();
            let put = Put { resume: true, keep: None, size: Some(size), name };
            let opened = talk.ask(Kind::PUT, |out| put.put(out)).await;
            assert_eq!(opened.map(|it| PutReply::parse(&it).unwrap().offset), answer, "{size}");
        }
        talk.data(&[1; 1000]).await.unwrap();
        talk.commit(&[1; 1000]).await.unwrap();
        assert_eq!(talk.fetch("a").await.unwrap(), [1; 1000]);
    });
}

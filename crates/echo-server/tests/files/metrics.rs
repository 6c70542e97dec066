//! What is counted of the store: each counter, by what it counts.

use super::support::http::{Admin, Metrics};
use super::support::injection;
use super::support::process::eventually as soon;
use super::*;

const ADMIN: &str = "--admin=127.0.0.1:0";

/// What of an upload goes to the disk at once.
const BLOCK: u64 = 512 << 10;

fn limit(metrics: &Metrics, name: &str) -> u64 {
    metrics.get(&format!("echo_limit_reached_total{{limit=\"{name}\"}}"))
}

fn refused(metrics: &Metrics, reason: &str) -> u64 {
    metrics.get(&format!("echo_files_refused_total{{reason=\"{reason}\"}}"))
}

fn parts(metrics: &Metrics, fate: &str) -> u64 {
    metrics.get(&format!("echo_files_parts_total{{fate=\"{fate}\"}}"))
}

#[test]
fn what_was_done_is_counted_and_what_there_is_shown() {
    let place = Place::new();
    fs::write(place.path("before"), [7; 100]).unwrap();
    let server = place.serve_with(&["--anonymous-put", ADMIN]);
    let admin = Admin::of(&server);
    run(async {
        let mut talk = place.connect().await;
        talk.store("a", &noise(5000, 1)).await.unwrap();
        talk.store("b", b"bee").await.unwrap();
        talk.store("b", b"bees").await.unwrap();
        talk.fetch("a").await.unwrap();
        talk.get("a", 0, [0; 32]).await.unwrap();
        talk.read(1000).await.unwrap();
        talk.remove("b").await.unwrap();
        let mut upload = place.connect().await;
        upload.put("c", false).await.unwrap();
        upload.data(&noise(600_000, 2)).await.unwrap();
        // Its bytes are counted first, then it has a file.
        soon("what came is with the disk", || admin.metrics().get("echo_files") == 3);
        let metrics = admin.metrics();
        for (sample, value) in [
            // One of them not whole yet.
            ("echo_files", 3),
            ("echo_files_stored_bytes", 5100 + BLOCK),
            ("echo_files_transfers", 2),
            ("echo_files_parked", 0),
            ("echo_files_done_total{operation=\"put\"}", 3),
            ("echo_files_done_total{operation=\"get\"}", 1),
            ("echo_files_done_total{operation=\"remove\"}", 1),
            ("echo_files_moved_bytes_total{operation=\"put\"}", 5007 + BLOCK),
            ("echo_files_moved_bytes_total{operation=\"get\"}", 6000),
            ("echo_files_moved_bytes_total{operation=\"remove\"}", 4),
            ("echo_files_refused_total", 0),
            ("echo_files_parts_total", 0),
        ] {
            assert_eq!(metrics.get(sample), value, "{sample} in:\n{}", metrics.0);
        }
        drop((talk, upload));
        soon("it is parked", || admin.metrics().get("echo_files_parked") == 1);
        soon("none is open", || admin.metrics().get("echo_files_transfers") == 0);
        let mut upload = place.connect().await;
        upload.put("c", true).await.unwrap();
        let metrics = admin.metrics();
        assert_eq!((parts(&metrics, "parked"), parts(&metrics, "resumed")), (1, 1));
        assert_eq!(metrics.get("echo_files_parked"), 0);
    });
}

#[test]
fn each_bound_of_the_store_has_its_counter() {
    let bounds = [
        ("files_bytes", "--files-bytes=1000", "no_space"),
        ("files_user_bytes", "--files-user-bytes=1000", "no_space"),
        ("files_count", "--files-count=1", "no_space"),
        ("files_user_count", "--files-user-count=1", "no_space"),
        ("files_transfers", "--files-transfers=1", "busy"),
        ("files_user_transfers", "--files-user-transfers=1", "busy"),
    ];
    for (name, option, reason) in bounds {
        let place = Place::new();
        let server = place.serve_with(&["--anonymous-put", ADMIN, option]);
        let admin = Admin::of(&server);
        run(async {
            let (mut talk, mut other) = (place.connect().await, place.connect().await);
            talk.store("a", &[1; 800]).await.unwrap();
            assert_eq!(limit(&admin.metrics(), name), 0, "{name}");
            talk.get("a", 0, [0; 32]).await.unwrap();
            // With what is sent behind the frame that is refused.
            let name_b = FileName::new(b"b").unwrap();
            let put = Put { resume: false, keep: None, size: None, name: name_b };
            let commit = Commit { digest: sha(&[2; 800]), size: 800 };
            other.send(Kind::PUT, |out| put.put(out)).await;
            other.send(Kind::DATA, |out| out.extend([2; 800])).await;
            other.send(Kind::COMMIT, |out| commit.put(out)).await;
            let answers = [other.recv().await, other.recv().await, other.recv().await];
            assert!(answers[2].is_err(), "{name}: {answers:?}");
        });
        let metrics = admin.metrics();
        let all: u64 = bounds.iter().map(|(name, ..)| limit(&metrics, name)).sum();
        assert_eq!((limit(&metrics, name), all), (1, 1), "{name} in:\n{}", metrics.0);
        assert_eq!((refused(&metrics, reason), metrics.get("echo_files_refused_total")), (1, 1));
    }
}

#[test]
fn what_is_refused_is_counted_by_its_reason() {
    let place = Place::new();
    let server = place.serve_with(&["--anonymous-put", ADMIN]);
    let admin = Admin::of(&server);
    run(async {
        let mut talk = place.connect().await;
        talk.ask(Kind::DONE, |_| {}).await.unwrap_err();
        talk.put("a", false).await.unwrap();
        talk.data(b"x").await.unwrap();
        talk.commit(b"y").await.unwrap_err();
        talk.fetch("missing").await.unwrap_err();
        talk.put(".echo-server/x", false).await.unwrap_err();
        talk.commit(b"").await.unwrap_err();
        talk.ask(Kind::GET, |out| out.push(7)).await.unwrap_err();
        talk.ask(Kind::GET, |out| out.resize(5000, 0)).await.unwrap_err();
    });
    let metrics = admin.metrics();
    for (reason, count) in [
        ("mismatch", 1),
        ("not_found", 1),
        ("forbidden", 1),
        ("malformed", 1),
        ("too_long", 1),
        // COMMIT behind the refused PUT is not counted again.
        ("unexpected_kind", 1),
        ("denied", 0),
        ("failed", 0),
    ] {
        assert_eq!(refused(&metrics, reason), count, "{reason} in:\n{}", metrics.0);
    }
    let readers = Place::new();
    let server = readers.serve_with(&[ADMIN]);
    run(async { assert!(readers.connect().await.put("a", false).await.is_err()) });
    assert_eq!(refused(&Admin::of(&server).metrics(), "denied"), 1);
}

#[test]
fn parts_that_end_without_their_upload_are_counted() {
    let place = Place::new();
    let mut server = place.serve();
    run(async {
        for name in ["a", "b"] {
            let mut talk = place.connect().await;
            talk.put(name, true).await.unwrap();
            talk.data(&noise(1 << 20, 6)).await.unwrap();
        }
        eventually("both are parked", || place.parts() == 4).await;
    });
    assert_eq!(server.stop(), Some(0));
    let private = place.path(".echo-server");
    let states = || {
        let all = fs::read_dir(&private).unwrap().map(|it| it.unwrap().path());
        let mut states: Vec<_> =
            all.filter(|path| path.extension().is_some_and(|it| it == "state")).collect();
        states.sort();
        states
    };
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 3600);
    fs::File::open(states()[0].with_extension("part")).unwrap().set_modified(old).unwrap();
    fs::write(private.join("1-1.part"), "no state").unwrap();
    fs::write(private.join("stray.new"), "x").unwrap();
    let server = place.serve_with(&["--anonymous-put", ADMIN]);
    let admin = Admin::of(&server);
    let metrics = admin.metrics();
    assert_eq!((parts(&metrics, "expired"), limit(&metrics, "files_parked")), (1, 1));
    assert_eq!((parts(&metrics, "swept"), metrics.get("echo_files_parked")), (2, 1));
    fs::write(&states()[0], "broken behind the server's back").unwrap();
    run(async { assert_eq!(place.connect().await.put("b", true).await.unwrap().offset, 0) });
    let metrics = admin.metrics();
    assert_eq!((parts(&metrics, "lost"), metrics.get("echo_files_parked")), (1, 0));
}

#[test]
fn what_the_disk_fails_is_counted() {
    if !injection::can_inject("what_the_disk_fails_is_counted") {
        return;
    }
    for (call, full, reason) in
        [("pwrite64:error=ENOSPC", 1, "no_space"), ("pwrite64:error=EIO", 0, "failed")]
    {
        let place = Place::new();
        let command = place.injected(call, None, &["--anonymous-put", ADMIN]);
        let server = Server::start_command(command, 1);
        run(async { assert!(place.connect().await.store("a", b"1").await.is_err()) });
        let metrics = Admin::of(&server).metrics();
        assert_eq!(limit(&metrics, "files_disk"), full, "{call}");
        assert_eq!(refused(&metrics, reason), 1, "{call}");
    }
}

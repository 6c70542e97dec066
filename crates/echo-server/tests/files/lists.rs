//! What LIST tells: all that is there, in its order, page by page, or an error.

use echo_core::{List, ListReply};

use super::support::http::Admin;
use super::support::injection;
use super::*;

impl Talk {
    /// One page, and whether there are more.
    async fn page(&mut self, cursor: &str, prefix: &str) -> Result<(Vec<String>, bool), ErrorCode> {
        let list = List { cursor: cursor.as_bytes(), prefix: prefix.as_bytes() };
        let page = self.ask(Kind::LIST, |out| list.put(out)).await?;
        let page = ListReply::parse(&page).unwrap();
        Ok((page.entries.iter().map(|entry| entry.name.to_string()).collect(), page.more))
    }

    /// All pages.
    async fn list(&mut self, prefix: &str) -> Result<Vec<String>, ErrorCode> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let cursor = names.last().cloned().unwrap_or_default();
            let (page, more) = self.page(&cursor, prefix).await?;
            assert!(!more || !page.is_empty(), "a page more, and nothing to go on from");
            names.extend(page);
            if !more {
                return Ok(names);
            }
        }
    }
}

/// A folder that cannot be read is no empty one, for who asks and for who counts.
#[test]
fn what_cannot_be_read_is_not_left_out() {
    if !injection::can_inject("what_cannot_be_read_is_not_left_out") {
        return;
    }
    for (name, call, why) in [
        ("broken", "openat:error=EMFILE", "Too many open files"),
        ("broken", "openat:error=EACCES", "Permission denied"),
        ("broken", "openat:error=EIO", "Input/output error"),
        ("inner", "newfstatat:error=EIO", "Input/output error"),
    ] {
        let place = Place::new();
        // What appears after the start is not counted.
        let injected = || place.injected(call, Some(name), &["--anonymous-put"]);
        let mut server = Server::start_command(injected(), 1);
        fs::create_dir(place.path("broken")).unwrap();
        fs::write(place.path("broken/inner"), "1").unwrap();
        fs::write(place.path("a"), "1").unwrap();
        fs::create_dir(place.path("lost+found")).unwrap();
        fs::write(place.path("lost+found/x"), "1").unwrap();
        run(async {
            let mut talk = place.connect().await;
            assert_eq!(talk.list("").await, Err(ErrorCode::Failed), "{call}");
            assert_eq!(talk.list("broken/").await, Err(ErrorCode::Failed), "{call}");
            // Which it is, and why.
            for prefix in ["", "broken/", "broken/i"] {
                let list = List { cursor: b"", prefix: prefix.as_bytes() };
                talk.send(Kind::LIST, |out| list.put(out)).await;
                let (_, payload) = talk.0.recv().await.unwrap();
                let text = ErrorFrame::parse(&payload).unwrap().text;
                assert_eq!(text, format!("the server's storage failed: broken/: {why}"));
            }
            assert_eq!(talk.list("a").await.unwrap(), ["a"], "{call}");
            assert_eq!(talk.store("lost+found/y", b"1").await, Err(ErrorCode::Forbidden));
        });
        server.wait_for_stderr(&format!("cannot read from the store: broken/: {why}"));
        assert_eq!(server.stop(), Some(0), "{call}");
        injection::wait_until_injected(&place.trace());
        // Counted at the start: no server.
        let mut server = Server::spawn(injected());
        assert_eq!(server.wait(support::PATIENCE).code(), Some(78), "{call}");
        assert!(server.stderr().contains("broken/: "), "{}", server.stderr());
        // In peace it is all there.
        let mut server = place.serve();
        run(async {
            let mut talk = place.connect().await;
            assert_eq!(talk.list("").await.unwrap(), ["a", "broken/inner"], "{call}");
        });
        assert_eq!(server.stop(), Some(0), "{call}");
    }
}

/// Names around `/` in the order of bytes, many in one folder, and many folders: each once, in order, from
/// whatever cursor, whatever prefix.
#[test]
fn all_names_come_once_and_in_order() {
    let place = Place::new();
    let _server = place.serve();
    let mut random = fastrand::Rng::with_seed(3);
    let mut names = std::collections::BTreeSet::new();
    for part in ["a", "a-", "a0", "b", "a.b", "b/c", "b/c-", "b/c0/d"] {
        fs::create_dir_all(place.path(&format!("{part}/e"))).unwrap();
        for index in 0..700 {
            let len = random.usize(1..40);
            let name = format!("{part}/{index}{}", "x".repeat(len));
            names.insert(name);
        }
        names.insert(format!("{part}/e/f"));
        names.insert(format!("{part}z"));
    }
    for name in &names {
        fs::write(place.path(name), "").unwrap();
    }
    let names: Vec<String> = names.into_iter().collect();
    run(async {
        let mut talk = place.connect().await;
        let with = |prefix: &str| -> Vec<_> {
            names.iter().filter(|name| name.starts_with(prefix)).cloned().collect()
        };
        let lists = ["", "a", "a/", "a/1", "b/c0/d/", "b/c0/d", "b/", "a-/e/f", "b/c0/dz"];
        for prefix in lists {
            assert!(talk.list(prefix).await.unwrap() == with(prefix), "{prefix}");
        }
        for prefix in ["/", "a//", "../", "a/../a/", "az/", "a/e/f/", ".echo-server/", "c/d/e"] {
            assert_eq!(talk.list(prefix).await.unwrap(), [""; 0], "{prefix}");
        }
        for _ in 0..30 {
            let cursor = &random.choice(&names).unwrap();
            let cursor = &cursor[..random.usize(1..=cursor.len())];
            let prefix = random.choice(lists).unwrap();
            let expected: Vec<_> =
                with(prefix).into_iter().filter(|name| name.as_str() > cursor).collect();
            let (page, more) = talk.page(cursor, prefix).await.unwrap();
            assert!(page == expected[..page.len()], "{prefix} behind {cursor}");
            assert_eq!(more, page.len() < expected.len(), "{prefix} behind {cursor}");
        }
    });
}

/// What no client can ask for is left out, and told to who runs the server.
#[test]
fn what_has_no_name_for_clients_is_told() {
    let place = Place::new();
    let deepest = ["d"; 31].join("/");
    fs::create_dir_all(place.path(&format!("{deepest}/beyond"))).unwrap();
    fs::write(place.path(&format!("{deepest}/a")), "").unwrap();
    fs::write(place.path(&format!("{deepest}/beyond/b")), "").unwrap();
    let server = place.serve_with(&["--admin=127.0.0.1:0"]);
    let admin = Admin::of(&server);
    run(async {
        let mut talk = place.connect().await;
        for _ in 0..3 {
            assert_eq!(talk.list("").await.unwrap(), [format!("{deepest}/a")]);
        }
        assert_eq!(talk.list(&format!("{deepest}/a")).await.unwrap(), [format!("{deepest}/a")]);
    });
    server.wait_for_stderr("d/beyond");
    assert_eq!(admin.metrics().get("echo_files_unlisted_total"), 3);
    server.wait_for_stderr_times("left out of lists", 1);
}

/// A page looks at the files that it tells of, and at no other's.
#[test]
fn a_page_does_not_look_at_what_it_leaves_out() {
    if !injection::can_inject("a_page_does_not_look_at_what_it_leaves_out") {
        return;
    }
    let place = Place::new();
    assert_eq!(place.serve().stop(), Some(0));
    // It injects nothing but counts.
    let mut server = place.serve_injected("newfstatat:delay_enter=0");
    for index in 0..5000 {
        fs::write(place.path(&format!("{index:05}")), "").unwrap();
    }
    run(async {
        let mut talk = place.connect().await;
        let (page, more) = talk.page("", "").await.unwrap();
        assert!(more && page.len() > 1000);
        assert_eq!(talk.page("", "04999").await.unwrap().0, ["04999"]);
        // `get 04999` asks so, in case it is a folder.
        assert_eq!(talk.page("", "04999/").await.unwrap().0, [""; 0]);
        let stats = |log: &str| log.lines().filter(|line| line.contains("\"0")).count();
        drop(talk);
        assert_eq!(server.stop(), Some(0));
        let log = fs::read_to_string(place.trace()).unwrap();
        assert!(stats(&log) <= page.len() + 4, "{} for {}", stats(&log), page.len());
    });
}

/// A list counts as a transfer while it is made.
#[test]
fn lists_are_bounded() {
    let place = Place::new();
    let _server = place.serve_with(&["--anonymous-put", "--files-transfers=1"]);
    run(async {
        let (mut talk, mut other) = (place.connect().await, place.connect().await);
        talk.store("a", b"1").await.unwrap();
        talk.put("b", false).await.unwrap();
        assert_eq!(other.list("").await, Err(ErrorCode::Busy));
        talk.data(b"2").await.unwrap();
        talk.commit(b"2").await.unwrap();
        assert_eq!(other.list("").await.unwrap(), ["a", "b"]);
    });
}

//! What LIST tells: all that is there, in its order, page by page, or an error.

use echo_core::{List, ListReply};

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
    for (name, call) in [
        ("broken", "openat:error=EMFILE"),
        ("broken", "openat:error=EACCES"),
        ("broken", "openat:error=EIO"),
        ("inner", "newfstatat:error=EIO"),
    ] {
        let place = Place::new();
        let log = place.folder.path().join("trace");
        let args = place.args();
        let args: Vec<_> = args.iter().map(String::as_str).chain(["--anonymous-put"]).collect();
        // What appears after the start is not counted.
        let injected = || injection::injected_at(name, &log, call, &args);
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
            assert_eq!(talk.list("a").await.unwrap(), ["a"], "{call}");
            assert_eq!(talk.store("lost+found/y", b"1").await, Err(ErrorCode::Forbidden));
        });
        assert_eq!(server.stop(), Some(0), "{call}");
        assert!(injection::was_injected(&log), "{call}");
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

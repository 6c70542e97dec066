//! Fault 57: somebody who may change the store does so while files in it are stored, fetched, listed and
//! removed.

use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use echo_core::{List, ListReply};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::time::Instant;

use super::canaries::Canaries;
use super::support::process::long;
use super::*;

/// How long the long race is.
const LONG: Duration = Duration::from_secs(180);

/// Does `change` again and again while `race` runs. Returns how often.
fn while_changing(change: impl Fn() + Sync, race: impl FnOnce()) -> u64 {
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                change();
                changes.fetch_add(1, Relaxed);
            }
        });
        let raced = catch_unwind(AssertUnwindSafe(race));
        stop.store(true, Relaxed);
        raced.unwrap_or_else(|panic| resume_unwind(panic));
    });
    changes.into_inner()
}

/// What has come of the tries.
#[derive(Debug, Default)]
struct Tries {
    done: u64,
    refused: u64,
}

impl Tries {
    fn add<T>(&mut self, tried: Result<T, ErrorCode>) {
        match tried {
            Ok(_) => self.done += 1,
            Err(ErrorCode::NotFound | ErrorCode::Forbidden) => self.refused += 1,
            Err(code) => panic!("no answer for that: {code:?}"),
        }
    }
}

async fn race(place: &Place) {
    let mut talk = place.connect().await;
    let until = Instant::now() + LONG;
    let (mut stored, mut fetched, mut listed) = (Tries::default(), Tries::default(), 0);
    let mut round = 0;
    while if long() { Instant::now() < until } else { round < 1000 } {
        round += 1;
        stored.add(talk.store(&format!("d/new{}", round % 7), b"mine").await);
        for name in ["d/secret", "d/real/file", "f"] {
            let read = talk.fetch(name).await;
            if let Ok(read) = &read {
                assert_eq!(read, b"public", "{name}");
            }
            fetched.add(read);
        }
        let removed = talk.remove("d/new3").await;
        assert!(matches!(removed, Ok(()) | Err(ErrorCode::NotFound)), "{removed:?}");
        let list = List { cursor: b"", prefix: b"d" };
        let list = talk.ask(Kind::LIST, |out| list.put(out)).await.unwrap();
        let list = ListReply::parse(&list).unwrap().entries;
        assert!(list.iter().all(|entry| !entry.name.as_bytes().ends_with(b"plain")), "{list:?}");
        listed += list.len();
    }
    eprintln!("{round} rounds: stored {stored:?}, fetched {fetched:?}, {listed} names listed");
    for tries in [stored, fetched] {
        assert!(tries.done > 0 && tries.refused > 0, "no race: {tries:?}");
    }
}

#[test]
fn a_racing_link_leads_nowhere() {
    let place = Place::new();
    let _server = place.serve();
    let canaries = Canaries::lay_out(&place);
    // What is exchanged lies in the store too, by names that nobody asks for.
    fs::create_dir_all(place.path("d/real")).unwrap();
    for name in ["d/secret", "d/real/file", "f"] {
        fs::write(place.path(name), "public").unwrap();
    }
    symlink(&canaries.folder, place.path("x-folder")).unwrap();
    symlink(canaries.folder.join("secret"), place.path("x-file")).unwrap();
    let exchange = |one: &str, other: &str| {
        let (one, other) = (place.path(one), place.path(other));
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    };
    let change = || {
        exchange("d", "x-folder");
        exchange("f", "x-file");
    };
    let changes = while_changing(change, || run(race(&place)));
    eprintln!("{changes} exchanges");
    assert!(changes > 1000);
    canaries.check();
}

/// Folders come and go by the files in them: an upload into one that is just removed makes it again.
#[test]
fn folders_that_come_and_go_lose_no_file() {
    let place = Place::new();
    let server = place.serve();
    let rounds = if long() { 5000 } else { 100 };
    run(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..4 {
            let mut talk = place.connect().await;
            tasks.spawn(async move {
                for round in 0..rounds {
                    let (name, bytes) = (format!("d/e/{number}"), format!("{round}"));
                    talk.store(&name, bytes.as_bytes()).await.unwrap();
                    assert_eq!(talk.fetch(&name).await.unwrap(), bytes.as_bytes());
                    talk.remove(&name).await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    assert!(!place.path("d").exists(), "folders go with their last file");
    drop(server);
}

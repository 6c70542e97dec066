//! `rm` over connections that are lost.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::liars::{frame, liar, missing};
use super::*;

fn rm(target: &str, args: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    let output = command.args(["rm", target, "--json"]).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), objects(&text(output.stdout)), text(output.stderr))
}

/// What had no answer is asked for again. It may have been done all the same: then it is not there any more.
#[test]
fn what_has_no_answer_is_removed_over_another_connection() {
    let asked = AtomicUsize::new(0);
    // At most one answer comes over the first connection; of the files asked for there, all are gone.
    let target = liar(move |kind, payload| match (kind, asked.fetch_add(1, Relaxed)) {
        (Kind::REMOVE, 0) => frame(Kind::REMOVE, b""),
        (Kind::REMOVE, 1) => None,
        (Kind::REMOVE, _) if payload.ends_with(b"still") => frame(Kind::REMOVE, b""),
        (Kind::REMOVE, _) => missing(),
        _ => None,
    });
    let names = ["done", "b", "c-still", "d", "e", "f", "g", "h", "i-still", "late"];
    let (code, told, stderr) = rm(&target, &names);
    let of = |event| told.iter().filter(|it| it["event"] == event).collect::<Vec<_>>();
    let removed: Vec<_> = of("removed").iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!((code, &removed[..], of("lost").len()), (Some(1), &names[..9], 1), "{told:?}");
    // It never was asked for over the connection that was lost.
    assert_eq!((of("failed").len(), &of("failed")[0]["name"]), (1, &"late".into()), "{told:?}");
    assert_eq!(stderr, "echo-client: 1 of 10 files not removed\n");
}

/// A server that never answers is given up.
#[test]
fn nothing_is_asked_for_ever() {
    let target = liar(|_, _| None);
    for (retry, lost) in [("--retry=0", 0), ("--retry=500ms", 1)] {
        let (code, told, stderr) = rm(&target, &["a", retry]);
        assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.starts_with("echo-client: closed early: "), "{stderr}");
        let again = told.iter().filter(|it| it["event"] == "lost").count();
        assert!(again.min(1) == lost, "{told:?}");
    }
}

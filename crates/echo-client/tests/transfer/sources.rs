//! Files that are not what they were when `put` began with them.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use echo_core::{Kind, PutReply};

use super::liars::{frame, liar};
use super::*;

const LEN: u64 = 32 << 20;

/// What is done to an open file.
type Change = fn(&fs::File);

/// Puts a file that changes while its first bytes arrive. Whether it was committed.
fn put_changing(change: Change) -> (Output, bool) {
    let place = Place::new();
    fs::File::create(place.path("here/a")).unwrap().set_len(LEN).unwrap();
    place.write("here/b", b"1");
    let file = fs::File::options().write(true).open(place.path("here/a")).unwrap();
    let (changed, committed) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
    let (seen, received) = (Arc::clone(&committed), AtomicU64::new(0));
    let target = liar(move |kind, payload| match kind {
        Kind::PUT => {
            received.store(0, Relaxed);
            let mut reply = Vec::new();
            PutReply { offset: 0, prefix: [0; 32] }.put(&mut reply);
            frame(Kind::PUT, &reply)
        }
        Kind::DATA => {
            if payload.len() > 1 && !changed.swap(true, Relaxed) {
                change(&file);
            }
            let len = payload.len() as u64;
            frame(Kind::DATA, &(received.fetch_add(len, Relaxed) + len).to_be_bytes())
        }
        Kind::COMMIT => {
            let size = u64::from_be_bytes(payload[32..40].try_into().unwrap());
            seen.fetch_or(size > 1, Relaxed);
            frame(Kind::COMMIT, &payload[..32])
        }
        _ => None,
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args(["put", &target, "a", "b", "--connections=1"]).current_dir(place.path("here"));
    let output = command.output().unwrap();
    (output, committed.load(Relaxed))
}

/// It grows, shrinks, or is written to, and then told to be as old as before.
#[test]
fn what_changes_while_it_is_read_is_not_stored() {
    let changes: [(&str, Change); 4] = [
        ("grows", |mut file| {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
            file.write_all(b"more").unwrap();
        }),
        ("shrinks", |file| file.set_len(LEN - 1).unwrap()),
        ("is emptied", |file| file.set_len(0).unwrap()),
        ("is written to", |file| {
            let before = file.metadata().unwrap().modified().unwrap();
            file.write_all_at(b"other", LEN - 5).unwrap();
            file.set_modified(before).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (output, committed) = put_changing(change);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            told,
            "echo-client: a: cannot read it: it changed meanwhile; nothing was stored\n\
             echo-client: 1 of 2 files not transferred\n",
            "{what}"
        );
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}  b\n", sum(b"1")));
        assert!(!committed, "{what}");
    }
}

/// What was sent of one that changed is no beginning of it: the next call begins anew.
#[test]
fn what_was_read_before_a_change_is_not_gone_on_with() {
    let place = Place::new();
    let mut daemon = place.serve();
    let old = noise(LEN as usize);
    place.write("here/a", &old);
    let mut putting = place.command("put", &["a", "--json"]).spawn().unwrap();
    let is_over = |putting: &mut Child| putting.try_wait().unwrap().is_some();
    eventually("something is there", || place.parked() > 0 || is_over(&mut putting));
    let file = fs::File::options().write(true).open(place.path("here/a")).unwrap();
    daemon.signal(Signal::KILL);
    daemon.wait();
    let mut new = old.clone();
    new[0] ^= 1;
    file.write_all_at(&new[..1], 0).unwrap();
    let _daemon = place.serve();
    let output = putting.wait_with_output().unwrap();
    // Whether it had come to the end before, or had not: a mixture is not there. It has the length of both.
    let there = fs::read(place.path("store/a")).ok();
    assert!(there.as_ref().is_none_or(|it| *it == old || *it == new));
    if output.status.success() {
        let last = objects(&String::from_utf8_lossy(&output.stdout)).pop().unwrap();
        assert_eq!(last["sha256"], sum(&there.unwrap()));
    }
    place.done("put", &["a"]);
    assert!(fs::read(place.path("store/a")).unwrap() == new);
    place.assert_no_leftovers();
}

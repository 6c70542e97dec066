use std::fs;
use std::sync::Barrier;
use std::thread;

use echo_core::FileName;
use tempfile::TempDir;

use super::*;

fn name(name: &str) -> FileName<'_> {
    FileName::new(name.as_bytes()).unwrap()
}

fn place() -> (TempDir, Folder, Unsynced) {
    let outside = tempfile::tempdir().unwrap();
    let folder = Folder::open(outside.path()).unwrap();
    (outside, folder, Unsynced::default())
}

/// One call has made a folder and not synced it yet; another one finds it.
#[test]
fn who_finds_a_folder_that_is_not_durable_syncs_it() {
    let (_outside, folder, unsynced) = place();
    let (_, _, made) = folder.make(name("a/b/x"), &unsynced).unwrap();
    let (_, _, found) = folder.make(name("a/b/y"), &unsynced).unwrap();
    assert_eq!((made.len(), found.len()), (2, 2));
    let is_one = |(made, found): (&Grown<'_>, &Grown<'_>)| Arc::ptr_eq(&made.folder, &found.folder);
    assert!(made.iter().zip(&found).all(is_one), "no more descriptors than folders");
    found.into_iter().try_for_each(Grown::sync).unwrap();
    assert_eq!(unsynced.lock().len(), 2, "it does not know whether that was after mkdir(2)");
    made.into_iter().try_for_each(Grown::sync).unwrap();
    assert!(unsynced.lock().is_empty());
    let (_, _, found) = folder.make(name("a/b/z"), &unsynced).unwrap();
    assert!(found.is_empty(), "now it is");
}

/// Each of those who make the same folders at once has made them, or finds them noted.
#[test]
fn no_folder_is_found_before_it_is_noted() {
    let (_outside, folder, unsynced) = place();
    let start = Barrier::new(4);
    for round in 0..50 {
        let make = |number| {
            let path = format!("{round}/{round}/{round}/{round}/{number}");
            start.wait();
            let (_, _, grown) = folder.make(name(&path), &unsynced).unwrap();
            grown
        };
        thread::scope(|scope| {
            let threads = [0, 1, 2, 3].map(|number| scope.spawn(move || make(number)));
            // None of them is synced before all are there.
            let all = threads.map(|it| it.join().unwrap());
            assert_eq!(all.map(|grown| grown.len()), [4; 4]);
        });
    }
    assert!(unsynced.lock().is_empty(), "dropped, all are synced");
}

#[test]
fn a_call_that_fails_leaves_nothing_noted() {
    let (outside, folder, unsynced) = place();
    fs::write(outside.path().join("file"), "").unwrap();
    assert!(folder.make(name("file/a/b"), &unsynced).is_err());
    let (gone, _, grown) = folder.make(name("gone/x"), &unsynced).unwrap();
    grown.into_iter().try_for_each(Grown::sync).unwrap();
    fs::remove_dir(outside.path().join("gone")).unwrap();
    assert!(gone.make(name("a/b"), &unsynced).is_err());
    assert!(unsynced.lock().is_empty());
}

/// Others may have put files into what it has made.
#[test]
fn what_a_failed_call_has_made_is_synced() {
    let (_outside, folder, unsynced) = place();
    let (_, _, grown) = folder.make(name("a/b/c/d"), &unsynced).unwrap();
    assert_eq!((grown.len(), unsynced.lock().len()), (3, 3));
    drop(grown);
    assert!(unsynced.lock().is_empty());
}

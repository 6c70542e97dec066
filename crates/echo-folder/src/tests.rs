use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::symlink;

use rustix::fs::{FileType as Kind, mknodat};

use super::*;

fn name(name: &str) -> FileName<'_> {
    FileName::new(name.as_bytes()).unwrap()
}

#[test]
fn folders_are_walked_and_made() {
    let outside = tempfile::tempdir().unwrap();
    let folder = Folder::open(outside.path()).unwrap();
    assert_eq!(folder.walk(name("a/b/c")).unwrap_err().kind(), ErrorKind::NotFound);
    let unsynced = Unsynced::default();
    let (made, last, changed) = folder.make(name("a/b/c"), &unsynced).unwrap();
    assert_eq!((last, changed.len()), (OsStr::new("c"), 2));
    made.write(last, true).unwrap();
    changed.into_iter().try_for_each(Grown::sync).unwrap();
    let (_, _, changed) = folder.make(name("a/b/c"), &unsynced).unwrap();
    assert!(changed.is_empty());
    assert!(outside.path().join("a/b/c").is_file());
    let way = folder.way(name("a/b/c")).unwrap();
    assert_eq!(way.len(), 2);
    assert!(way[1].enter(OsStr::new("b")).is_ok());
    assert!(folder.way(name("c")).unwrap().is_empty());
    assert!(folder.make(name("a/b/c/d"), &unsynced).is_err());
}

#[test]
fn links_and_special_files_are_not_there() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    let root = outside.path().join("root");
    fs::create_dir(&root).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink("../secret", root.join("link")).unwrap();
    let folder = Folder::open(&root).unwrap();
    mknodat(&folder, "pipe", Kind::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(folder.walk(name("up/secret")).is_err());
    assert!(folder.make(name("up/new"), &Unsynced::default()).is_err());
    for special in ["link", "pipe", "."] {
        assert!(folder.read(OsStr::new(special)).is_err(), "{special}");
        assert!(folder.write(OsStr::new(special), true).is_err(), "{special}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
}

#[test]
fn attributes_are_set_without_set_user_id() {
    let outside = tempfile::tempdir().unwrap();
    let folder = Folder::open(outside.path()).unwrap();
    let (mut file, _) = folder.write(OsStr::new("a"), true).unwrap();
    let wanted = Attributes { mode: 0o6751, mtime_s: -5, mtime_ns: 7 };
    set_attributes(&file, wanted).unwrap();
    let (_, stat) = folder.read(OsStr::new("a")).unwrap();
    assert_eq!(attributes(&stat), Attributes { mode: 0o751, ..wanted });
    assert_eq!(size(&stat), 0);
    assert_eq!(file.read(&mut [0]).unwrap(), 0);
}

#[test]
fn holes_are_zeros_and_not_small() {
    let mut bytes = vec![0; 10_000];
    assert!(is_hole(&bytes));
    assert!(!is_hole(&bytes[..100]));
    *bytes.last_mut().unwrap() = 1;
    assert!(!is_hole(&bytes));
}

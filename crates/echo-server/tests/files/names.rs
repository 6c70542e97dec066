//! Fault 58: what is no name, and what is no file. Generated names are in `hostile`, races in `races`.

use std::os::unix::fs::symlink;

use echo_core::{List, ListReply};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// PUT, GET and REMOVE of bytes that are no name.
async fn refused(talk: &mut Talk, name: &[u8]) {
    let put = |out: &mut Vec<u8>| {
        out.extend([0; 25]);
        out.extend((name.len() as u16).to_be_bytes());
        out.extend_from_slice(name);
    };
    let get = |out: &mut Vec<u8>| {
        out.extend([0; 40]);
        out.extend((name.len() as u16).to_be_bytes());
        out.extend_from_slice(name);
    };
    let remove = |out: &mut Vec<u8>| {
        out.extend((name.len() as u16).to_be_bytes());
        out.extend_from_slice(name);
    };
    let shown = name.escape_ascii();
    assert!(talk.ask(Kind::PUT, put).await.is_err(), "{shown}");
    assert!(talk.ask(Kind::GET, get).await.is_err(), "{shown}");
    assert!(talk.ask(Kind::REMOVE, remove).await.is_err(), "{shown}");
}

#[test]
fn hostile_names_are_refused() {
    let place = Place::new();
    let _server = place.serve();
    fs::write(place.folder.path().join("secret"), "x").unwrap();
    let long = vec![b'a'; 256];
    let nested = vec![b'a'; 1025];
    run(async {
        let mut talk = place.connect().await;
        for name in [
            &b""[..],
            b"/",
            b"..",
            b".",
            b"../secret",
            b"/etc/passwd",
            b"a/../../secret",
            b"a/..",
            b"./a",
            b"a/",
            b"a//b",
            b"a\0b",
            b"a\nb",
            b"\x1b[2J",
            b".echo-server",
            b".echo-server/lock",
            b".echo-server/x/y",
            &long,
            &nested,
        ] {
            refused(&mut talk, name).await;
        }
        // Odd, and yet a name: it is one in the store, byte for byte.
        for name in [
            "%2e%2e",
            "..\\secret",
            "\u{ff0e}\u{ff0e}",
            "a b",
            "-rf",
            "~",
            ".echo-serve",
            "x/.echo-server",
        ] {
            talk.store(name, b"y").await.unwrap();
            assert_eq!(fs::read(place.path(name)).unwrap(), b"y", "{name}");
        }
    });
    assert_eq!(fs::read(place.folder.path().join("secret")).unwrap(), b"x");
}

#[test]
fn links_and_special_files_are_neither_read_nor_replaced() {
    let place = Place::new();
    let _server = place.serve();
    let outside = place.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "x").unwrap();
    symlink(&outside, place.path("folder")).unwrap();
    symlink(outside.join("secret"), place.path("file")).unwrap();
    symlink(outside.join("new"), place.path("dangling")).unwrap();
    mknodat(CWD, place.path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::create_dir(place.path("real")).unwrap();
    fs::write(place.path("plain"), "p").unwrap();
    run(async {
        let mut talk = place.connect().await;
        for name in [
            "folder/secret",
            "folder/new",
            "file",
            "dangling",
            "pipe",
            "real",
            "plain/below",
            "file/below",
        ] {
            assert_eq!(talk.fetch(name).await, Err(ErrorCode::NotFound), "{name}");
            assert_eq!(talk.store(name, b"evil").await, Err(ErrorCode::Forbidden), "{name}");
            assert!(talk.remove(name).await.is_err(), "{name}");
        }
        let list =
            talk.ask(Kind::LIST, |out| List { cursor: b"", prefix: b"" }.put(out)).await.unwrap();
        let list = ListReply::parse(&list).unwrap();
        let names: Vec<_> = list.entries.iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["plain"]);
    });
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"x");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert!(place.path("file").is_symlink() && place.path("folder").is_symlink());
}

/// What can never appear is refused while it comes, and not once all of it has.
#[test]
fn a_name_that_something_else_has_is_refused_early() {
    run(async {
        let place = Place::new();
        fs::create_dir(place.path("folder")).unwrap();
        fs::write(place.path("file"), b"").unwrap();
        let _server = place.serve();
        let mut talk = place.connect().await;
        for name in ["folder", "file/below"] {
            talk.put(name, false).await.unwrap();
            // A block that is written, one that waits, one that comes, and one more.
            let mut refused = None;
            for _ in 0..4 {
                refused = refused.or(talk.data(&[1; 512 << 10]).await.err());
            }
            assert_eq!(refused, Some(ErrorCode::Forbidden), "{name}");
            assert_eq!(place.parts(), 0, "{name}");
        }
        talk.store("new/below", b"1").await.unwrap();
    });
}

//! What appears, when, and what does not.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use echo_core::{Attributes, List, ListReply};

use super::*;

#[test]
fn a_file_comes_back_as_it_was_stored() {
    let place = Place::new();
    let mut server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        for (name, len) in
            [("empty", 0), ("one", 1), ("folder/in/folder", 70_000), ("large", 3 << 20)]
        {
            let bytes = noise(len, 1);
            talk.store(name, &bytes).await.unwrap();
            assert_eq!(fs::read(place.path(name)).unwrap(), bytes);
            assert_eq!(talk.fetch(name).await.unwrap(), bytes);
        }
        assert_eq!(place.parts(), 0);
    });
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn nothing_appears_before_it_is_whole_and_right() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        talk.store("a", b"old").await.unwrap();
        let bytes = noise(1 << 20, 2);
        talk.put("a", false).await.unwrap();
        assert_eq!(talk.data(&bytes).await, Ok(1 << 20));
        assert_eq!(fs::read(place.path("a")).unwrap(), b"old");
        // Another digest, then another size.
        assert_eq!(talk.commit(&noise(1 << 20, 3)).await, Err(ErrorCode::Mismatch));
        talk.put("a", false).await.unwrap();
        talk.data(&bytes).await.unwrap();
        assert_eq!(talk.commit(&bytes[1..]).await, Err(ErrorCode::Mismatch));
        assert_eq!(fs::read(place.path("a")).unwrap(), b"old");
        // Longer than announced.
        let name = FileName::new(b"b").unwrap();
        let put = Put { resume: false, keep: None, size: Some(5), name };
        talk.ask(Kind::PUT, |out| put.put(out)).await.unwrap();
        assert_eq!(talk.data(b"123456").await, Err(ErrorCode::Mismatch));
        assert_eq!(talk.commit(b"123456").await, Err(ErrorCode::Mismatch));
        eventually("what is of no use is gone", || place.parts() == 0).await;
        assert_eq!(place.visible(), [place.path("a")]);
        talk.store("a", b"new").await.unwrap();
        assert_eq!(fs::read(place.path("a")).unwrap(), b"new");
    });
}

#[test]
fn what_is_out_of_place_is_refused_and_the_conversation_goes_on() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        let unexpected = Err(ErrorCode::UnexpectedKind);
        assert_eq!(talk.data(b"stray").await, unexpected);
        assert_eq!(talk.commit(b"").await.map(drop), unexpected.map(drop));
        assert_eq!(talk.read(1).await.map(drop), unexpected.map(drop));
        assert_eq!(talk.ask(Kind::DONE, |_| {}).await.map(drop), unexpected.map(drop));
        assert_eq!(talk.ask(Kind(0x98), |_| {}).await.map(drop), unexpected.map(drop));
        for kind in [Kind::PUT, Kind::GET, Kind::LIST, Kind::REMOVE] {
            let answer = talk.ask(kind, |out| out.push(7)).await;
            assert_eq!(answer, Err(ErrorCode::Malformed), "{kind:?}");
            let answer = talk.ask(kind, |out| out.resize(5000, 0)).await;
            assert_eq!(answer, Err(ErrorCode::TooLong), "{kind:?}");
        }
        talk.store("a", b"here").await.unwrap();
        // Not all was read.
        talk.get("a", 0, [0; 32]).await.unwrap();
        assert_eq!(talk.read(2).await.unwrap(), "he");
        assert_eq!(talk.ask(Kind::DONE, |_| {}).await.map(drop), unexpected.map(drop));
        assert_eq!(talk.fetch("a").await.unwrap(), b"here");
        assert_eq!(talk.read(2 << 20).await, Err(ErrorCode::TooLong));
        assert_eq!(talk.fetch("missing").await, Err(ErrorCode::NotFound));
        assert_eq!(talk.ask(Kind::ECHO, |out| out.extend(b"hi")).await.unwrap(), "hi");
    });
}

#[test]
fn what_was_sent_behind_a_refused_frame_is_refused_as_well() {
    let place = Place::new();
    let _server = place.serve_with(&[]);
    run(async {
        let mut talk = place.connect().await;
        let name = FileName::new(b"a").unwrap();
        let put = Put { resume: false, keep: None, size: None, name };
        let commit = Commit { digest: sha(b"x"), size: 1 };
        for _ in 0..3 {
            talk.send(Kind::PUT, |out| put.put(out)).await;
            talk.send(Kind::DATA, |out| out.push(b'x')).await;
            talk.send(Kind::COMMIT, |out| commit.put(out)).await;
        }
        for _ in 0..9 {
            assert_eq!(talk.recv().await, Err(ErrorCode::Denied));
        }
        assert_eq!(talk.remove("a").await, Err(ErrorCode::Denied));
        assert_eq!(
            talk.ask(Kind::LIST, |out| List { cursor: b"", prefix: b"" }.put(out)).await.unwrap(),
            "\0"
        );
    });
    assert!(place.visible().is_empty());
}

#[test]
fn a_frame_over_the_limit_ends_its_upload() {
    let place = Place::new();
    let _server = place.serve_with(&["--anonymous-put", "--max-frame=64KiB"]);
    run(async {
        let mut talk = place.connect().await;
        talk.put("a", false).await.unwrap();
        assert_eq!(talk.data(&[7; (64 << 10) + 1]).await, Err(ErrorCode::TooLong));
        assert_eq!(talk.data(&[7]).await, Err(ErrorCode::TooLong));
        assert_eq!(talk.commit(&[7]).await, Err(ErrorCode::TooLong));
        talk.store("a", &[7; 64 << 10][..1000]).await.unwrap();
    });
    assert_eq!(place.visible(), [place.path("a")]);
}

#[test]
fn of_racing_uploads_of_one_name_one_wins_whole() {
    let place = Place::new();
    let _server = place.serve();
    let rounds = if support::process::long() { 200 } else { 10 };
    run(async {
        for round in 0..rounds {
            let contents: Vec<_> = (0..4).map(|racer| noise(300_000, round * 4 + racer)).collect();
            let mut racers = tokio::task::JoinSet::new();
            for bytes in contents.clone() {
                let mut talk = place.connect().await;
                racers.spawn(async move { talk.store("one", &bytes).await.unwrap() });
            }
            while let Some(stored) = racers.join_next().await {
                stored.unwrap();
            }
            let winner = fs::read(place.path("one")).unwrap();
            assert!(contents.contains(&winner), "round {round}");
        }
        assert_eq!(place.parts(), 0);
    });
}

#[test]
fn a_reader_keeps_the_version_that_it_opened() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let (old, new) = (noise(2 << 20, 5), noise(1 << 20, 6));
        let (mut reader, mut writer) = (place.connect().await, place.connect().await);
        writer.store("a", &old).await.unwrap();
        reader.get("a", 0, [0; 32]).await.unwrap();
        let mut read = reader.read(1000).await.unwrap().to_vec();
        writer.store("a", &new).await.unwrap();
        while read.len() < old.len() {
            read.extend_from_slice(&reader.read(1 << 20).await.unwrap());
        }
        assert!(read == old);
        assert_eq!(reader.ask(Kind::DONE, |_| {}).await.unwrap()[..], sha(&old));
        assert!(reader.fetch("a").await.unwrap() == new);
    });
}

#[test]
fn a_download_goes_on_behind_an_equal_prefix_only() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        let bytes = noise(700_001, 7);
        talk.store("a", &bytes).await.unwrap();
        for offset in [1, 1024, 700_000, 700_001] {
            let prefix = sha(&bytes[..offset]);
            assert_eq!(talk.get("a", offset as u64, prefix).await.unwrap().offset, offset as u64);
            let rest = talk.read(1 << 20).await.unwrap();
            assert!(rest == bytes[offset..], "{offset}");
            assert_eq!(talk.ask(Kind::DONE, |_| {}).await.unwrap()[..], sha(&bytes));
            assert_eq!(talk.get("a", offset as u64, sha(b"other")).await.unwrap().offset, 0);
        }
        assert_eq!(talk.get("a", 700_002, sha(&bytes)).await.unwrap().offset, 0);
        assert_eq!(talk.get("a", u64::MAX, sha(&bytes)).await.unwrap().offset, 0);
    });
}

#[test]
fn attributes_are_kept_on_request_and_holes_are_holes() {
    let place = Place::new();
    let _server = place.serve();
    run(async {
        let mut talk = place.connect().await;
        let keep = Attributes { mode: 0o6751, mtime_s: 1_000_000_000, mtime_ns: 42 };
        let name = FileName::new(b"sparse").unwrap();
        let put = Put { resume: false, keep: Some(keep), size: None, name };
        talk.ask(Kind::PUT, |out| put.put(out)).await.unwrap();
        let bytes = [&[1; 100][..], &vec![0; 8 << 20]].concat();
        for block in bytes.chunks(1 << 20) {
            talk.data(block).await.unwrap();
        }
        talk.commit(&bytes).await.unwrap();
        let meta = fs::metadata(place.path("sparse")).unwrap();
        // Never set-user-ID.
        assert_eq!(meta.permissions().mode() & 0o7777, 0o751);
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 42));
        assert_eq!(meta.len(), bytes.len() as u64);
        assert!(meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
        assert!(talk.fetch("sparse").await.unwrap() == bytes);
        let reply = talk.get("sparse", 0, [0; 32]).await.unwrap();
        assert_eq!(reply.attributes, Attributes { mode: 0o751, ..keep });
    });
}

#[test]
fn lists_come_in_the_order_of_bytes_page_by_page() {
    let place = Place::new();
    let _server = place.serve();
    let mut names: Vec<String> = (0..1500).map(|number| format!("f/{number}")).collect();
    names.extend(["a", "a-b/c", "a.b", "f-1", "f.1", "g/h/i", "z"].map(str::to_owned));
    for name in &names {
        fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        fs::write(place.path(name), name).unwrap();
    }
    names.sort();
    run(async {
        let mut talk = place.connect().await;
        for prefix in ["", "f", "f/", "f/12", "g/h", "a", "nothing"] {
            let (mut cursor, mut listed) = (Vec::new(), Vec::new());
            loop {
                let list = List { cursor: &cursor, prefix: prefix.as_bytes() };
                let page = talk.ask(Kind::LIST, |out| list.put(out)).await.unwrap();
                assert!(page.len() <= ListReply::MAX_LEN as usize);
                let page = ListReply::parse(&page).unwrap();
                listed.extend(page.entries.iter().map(|entry| entry.name.to_string()));
                if !page.more {
                    break;
                }
                cursor = page.entries.last().unwrap().name.as_bytes().to_vec();
            }
            let expected: Vec<_> = names.iter().filter(|it| it.starts_with(prefix)).collect();
            assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "{prefix}");
        }
        talk.remove("g/h/i").await.unwrap();
        assert!(!place.path("g").exists(), "folders go with their last file");
        assert_eq!(talk.remove("g/h/i").await, Err(ErrorCode::NotFound));
    });
}

/// A slow peer is held to the frame's deadline, and what has come is parked.
#[test]
fn a_stalled_upload_ends_and_is_parked() {
    let place = Place::new();
    let _server =
        place.serve_with(&["--anonymous-put", "--frame-timeout=300ms", "--min-rate=1GiB/s"]);
    run(async {
        let bytes = noise(1 << 20, 8);
        let mut talk = place.connect().await;
        talk.put("a", false).await.unwrap();
        talk.data(&bytes).await.unwrap();
        // A header that promises more than ever comes.
        let mut stream =
            tokio::net::UnixStream::connect(place.folder.path().join("socket")).await.unwrap();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(b"\x80\0\0\0\x91\0\0\x10abc").await.unwrap();
        let mut came = Vec::new();
        tokio::time::timeout_at(
            tokio::time::Instant::now() + Duration::from_secs(30),
            stream.read_to_end(&mut came),
        )
        .await
        .unwrap()
        .unwrap();
        drop(talk);
        let mut talk = place.connect().await;
        let reply = talk.put("a", true).await.unwrap();
        let offset = usize::try_from(reply.offset).unwrap();
        assert!(offset > 700_000 && reply.prefix == sha(&bytes[..offset]), "{offset}");
    });
}

//! Servers of files that lie: `get` writes only what it was asked for, where it was asked to, and only if
//! it is right.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use echo_core::{Attributes, Entry, FileName, GetReply, Header, Kind, ListReply};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Answers each frame by what `answer` says: whole frames, or nothing and the end.
pub(super) fn liar(
    answer: impl Fn(Kind, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let answer = Arc::new(answer);
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || converse(stream.unwrap(), &*answer));
        }
    });
    target
}

fn converse(
    mut stream: TcpStream,
    answer: &impl Fn(Kind, &[u8]) -> Option<Vec<u8>>,
) -> std::io::Result<()> {
    loop {
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let header = Header::parse(head);
        let mut payload = vec![0; header.len as usize];
        stream.read_exact(&mut payload)?;
        if header.kind == Kind::HELLO {
            stream.write_all(b"\x80\0\0\x0c\0\x01\0\x10\0\0\0\0\0\x05\0\0")?;
            continue;
        }
        match answer(header.kind, &payload) {
            Some(frames) => stream.write_all(&frames)?,
            None => return Ok(()),
        }
    }
}

pub(super) fn frame(kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
    let header = Header { kind, len: payload.len() as u32 };
    Some([&header.to_bytes()[..], payload].concat())
}

/// Whether GET asks for `d`, which is a folder.
fn is_folder(get: &[u8]) -> bool {
    get.ends_with(b"\0\x01d")
}

/// There is no file of that name.
pub(super) fn missing() -> Option<Vec<u8>> {
    frame(Kind::ERROR, b"\0\x07\0none")
}

/// An answer to LIST with names that no honest server gives.
pub(super) fn list(names: &[&[u8]], more: bool) -> Option<Vec<u8>> {
    let mut payload = vec![more.into()];
    for name in names {
        payload.extend([0; 24]);
        payload.extend((name.len() as u16).to_be_bytes());
        payload.extend_from_slice(name);
    }
    frame(Kind::LIST, &payload)
}

pub(super) fn opened(size: u64, offset: u64) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    GetReply { offset, size, attributes: Attributes::default() }.put(&mut payload);
    frame(Kind::GET, &payload)
}

fn get(folder: &TempDir, target: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args(["get", target, "--retry", "0", "--timeout", "20s"]).args(args);
    command.current_dir(folder.path().join("here")).output().unwrap()
}

fn place() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("here")).unwrap();
    folder
}

#[track_caller]
fn assert_nothing_written(folder: &TempDir, output: &Output, what: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
    assert!(stderr.starts_with("echo-client: "), "{what}: {stderr}");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    let written: Vec<_> = fs::read_dir(folder.path().join("here"))
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    // What has come so far may be kept for another try, under its temporary name.
    let kept = written.iter().all(|name| name.to_string_lossy().ends_with(".echo-part"));
    assert!(kept, "{what}: {written:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{what}: beside the folder");
}

#[test]
fn names_that_were_not_asked_for_are_not_written() {
    for name in [
        &b"../evil"[..],
        b"d/../../evil",
        b"/tmp/evil",
        b"d//evil",
        b"d/./evil",
        b"d/a\0b",
        b"d/\x1b[2J",
        b"other",
        b"d",
        b"dd/evil",
        b"",
    ] {
        let folder = place();
        let target = liar(move |kind, payload| match kind {
            Kind::LIST => list(&[name], false),
            Kind::GET if is_folder(payload) => missing(),
            Kind::GET => opened(4, 0),
            Kind::READ => frame(Kind::DATA, b"evil"),
            Kind::DONE => frame(Kind::DONE, &Sha256::digest(b"evil")),
            _ => None,
        });
        let output = get(&folder, &target, &["d"]);
        assert_nothing_written(&folder, &output, &String::from_utf8_lossy(name));
    }
}

#[test]
fn lists_without_an_end_end() {
    let cases: [(Vec<&'static [u8]>, bool); 4] = [
        (vec![b"d/b", b"d/a"], false),
        (vec![b"d/a", b"d/a"], false),
        (vec![b"d/a"], true),
        (vec![], true),
    ];
    for (names, more) in cases {
        let folder = place();
        let target = liar(move |kind, _| match kind {
            Kind::LIST => list(&names, more),
            _ => missing(),
        });
        let output = get(&folder, &target, &["d"]);
        assert_nothing_written(&folder, &output, "a list");
    }
}

/// What a server answers to GET, to each READ, and to DONE.
type Lies = (&'static str, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

fn lies() -> Vec<Lies> {
    let (data, done) = (
        |bytes| frame(Kind::DATA, bytes),
        |bytes: &[u8]| frame(Kind::DONE, &Sha256::digest(bytes)),
    );
    let error = frame(Kind::ERROR, b"\0\x07\0\x1b[31mred\n\nlines");
    vec![
        ("another digest", opened(4, 0), data(b"evil"), frame(Kind::DONE, &[7; 32])),
        ("too short", opened(4, 0), data(b"evi"), done(b"evi")),
        ("too long", opened(4, 0), data(b"evil!"), done(b"evil!")),
        ("nothing, again and again", opened(1 << 62, 0), data(b""), None),
        ("an offset that nobody asked for", opened(4, 2), data(b"il"), done(b"evil")),
        ("an offset behind the end", opened(4, 5), None, None),
        ("a frame too long", opened(1 << 30, 0), Some(b"\x91\xff\xff\xff".to_vec()), None),
        ("another kind", frame(Kind::PUT, &[0; 40]), None, None),
        ("garbage", frame(Kind::GET, b"?"), None, None),
        ("the end", None, None, None),
        ("the end in the middle", opened(1 << 30, 0), None, None),
        ("an error with escapes", error, None, None),
    ]
}

#[test]
fn bytes_that_are_not_right_do_not_appear() {
    for (what, opened, data, done) in lies() {
        let folder = place();
        let target = liar(move |kind, _| match kind {
            Kind::LIST => list(&[], false),
            Kind::GET => opened.clone(),
            Kind::READ => data.clone(),
            Kind::DONE => done.clone(),
            _ => None,
        });
        let output = get(&folder, &target, &["d"]);
        assert_nothing_written(&folder, &output, what);
        assert!(!output.stderr.contains(&0x1b), "{what}");
    }
}

/// Small files are asked for in one go, by a list.
#[test]
fn small_files_that_are_not_right_do_not_appear() {
    for (size, data, digest) in
        [(4, &b"evil"[..], &b"other"[..]), (3, b"evil", b"evil"), (5, b"evil", b"evil")]
    {
        let folder = place();
        let target = liar(move |kind, payload| match kind {
            Kind::LIST => list(&[b"d/a"], false),
            Kind::GET if is_folder(payload) => missing(),
            Kind::GET => opened(size, 0),
            Kind::READ => frame(Kind::DATA, data),
            Kind::DONE => frame(Kind::DONE, &Sha256::digest(digest)),
            _ => None,
        });
        let output = get(&folder, &target, &["d"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(!folder.path().join("here/d/a").exists(), "{stderr}");
    }
}

/// A link that lies in the folder already does not lead out of it.
#[test]
fn links_of_this_host_are_not_followed() {
    let folder = place();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(folder.path().join("here/d")).unwrap();
    symlink(&outside, folder.path().join("here/d/sub")).unwrap();
    let target = liar(|kind, payload| match kind {
        Kind::LIST if payload.starts_with(&[0, 0]) => {
            let mut out = vec![0];
            for name in [&b"d/fine"[..], b"d/sub/evil"] {
                let name = FileName::new(name).unwrap();
                Entry { size: 4, attributes: Attributes::default(), name }.put(&mut out);
            }
            assert!(ListReply::parse(&out).is_ok());
            frame(Kind::LIST, &out)
        }
        Kind::GET if is_folder(payload) => missing(),
        Kind::GET => opened(4, 0),
        Kind::READ => frame(Kind::DATA, b"evil"),
        Kind::DONE => frame(Kind::DONE, &Sha256::digest(b"evil")),
        _ => None,
    });
    let output = get(&folder, &target, &["d"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read(folder.path().join("here/d/fine")).unwrap(), b"evil");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

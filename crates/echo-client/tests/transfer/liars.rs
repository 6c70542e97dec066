//! Servers of files that lie: `get` writes only what it was asked for, where it was asked to, and only if
//! it is right.

mod bytes;

use std::fs;
use std::io::{Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use echo_core::{Attributes, Entry, FileName, GetReply, Header, Kind, ListReply, PutReply, Read};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{support, tree};

/// The answer to HELLO of one who stores files.
pub(super) const HELLO_REPLY: &[u8] = b"\x80\0\0\x0c\0\x01\0\x10\0\0\0\0\0\x05\0\0";

/// Answers each frame by what `answer` says: whole frames, or nothing and the end.
pub(super) fn liar(
    answer: impl Fn(Kind, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            thread::spawn(move || converse(stream, &*answer));
        }
    });
    target
}

/// The same of one who has a folder `d`, which is no file.
fn liar_with_folder(
    answer: impl Fn(Kind, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> String {
    liar(move |kind, payload| match kind {
        Kind::GET if payload.ends_with(b"\0\x01d") => missing(),
        _ => answer(kind, payload),
    })
}

fn converse(
    mut stream: TcpStream,
    answer: &impl Fn(Kind, &[u8]) -> Option<Vec<u8>>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let header = Header::parse(head);
        let mut payload = vec![0; header.len as usize];
        stream.read_exact(&mut payload)?;
        if header.kind == Kind::HELLO {
            stream.write_all(HELLO_REPLY)?;
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
    opened_with(size, offset, Attributes::default())
}

fn opened_with(size: u64, offset: u64, attributes: Attributes) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    GetReply { offset, size, attributes }.put(&mut payload);
    frame(Kind::GET, &payload)
}

/// What an honest server answers, whose files all hold the same.
fn honest(kind: Kind, names: &[&[u8]], bytes: &[u8]) -> Option<Vec<u8>> {
    match kind {
        Kind::LIST => list(names, false),
        Kind::GET => opened(bytes.len() as u64, 0),
        Kind::READ => frame(Kind::DATA, bytes),
        Kind::DONE => frame(Kind::DONE, &Sha256::digest(bytes)),
        _ => None,
    }
}

fn get(folder: &TempDir, target: &str, args: &[&str]) -> Output {
    run("get", folder, target, args)
}

fn run(task: &str, folder: &TempDir, target: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args([task, target, "--retry", "0", "--timeout", "20s"]).args(args);
    command.current_dir(folder.path().join("here")).output().unwrap()
}

fn place() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("here")).unwrap();
    folder
}

/// Of what nothing has come nothing stays, however that ended.
#[test]
fn nothing_stays_of_what_has_not_come() {
    let cut = liar(|_, _| None);
    let behind = liar(|_, _| opened(1, 2));
    for target in [cut, behind] {
        let folder = place();
        let output = get(&folder, &target, &["a"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(tree(&folder.path().join("here")).len(), 0, "{output:?}");
    }
    let (asked, asking) = channel();
    let silent = liar(move |kind, _| {
        asked.send(kind).unwrap();
        loop {
            thread::park();
        }
    });
    let folder = place();
    let mut command = support::heeding();
    command.args(["get", &silent, "a"]).current_dir(folder.path().join("here"));
    let mut client = command.stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(asking.recv().unwrap(), Kind::GET);
    kill_process(Pid::from_child(&client), Signal::INT).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(130));
    assert_eq!(tree(&folder.path().join("here")).len(), 0, "Ctrl-C");
}

#[track_caller]
fn assert_nothing_written(folder: &TempDir, output: &Output, what: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
    assert!(stderr.starts_with("echo-client: "), "{what}: {stderr}");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    let written = tree(&folder.path().join("here"));
    // What has come so far may be kept for another try, under its temporary name.
    let kept = written.keys().all(|name| name.to_string_lossy().ends_with(".echo-part"));
    assert!(kept, "{what}: {:?}", written.keys());
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
        let target = liar_with_folder(move |kind, _| honest(kind, &[name], b"evil"));
        let output = get(&folder, &target, &["d"]);
        assert_nothing_written(&folder, &output, &String::from_utf8_lossy(name));
    }
}

/// A name that is that of another's temporary would take its place.
#[test]
fn names_of_unfinished_files_are_not_written() {
    let folder = place();
    let names = [&b"d/.a.echo-part"[..], b"d/a"];
    let target = liar_with_folder(move |kind, _| honest(kind, &names, b"good"));
    let output = get(&folder, &target, &["d"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("files of that name are those not fetched to their end"), "{stderr}");
    assert_eq!(fs::read_dir(folder.path().join("here/d")).unwrap().count(), 1);
    assert_eq!(fs::read(folder.path().join("here/d/a")).unwrap(), b"good");
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
        let target = liar_with_folder(move |kind, _| {
            (kind == Kind::LIST).then(|| list(&names, more)).flatten()
        });
        let output = get(&folder, &target, &["d"]);
        assert_nothing_written(&folder, &output, "a list");
    }
}

/// A list that goes on and on is not kept.
#[test]
fn endless_lists_take_bounded_memory() {
    const PAGE: usize = 60;
    let folder = place();
    let served = Arc::new(AtomicUsize::new(0));
    let pages = Arc::clone(&served);
    let target = liar(move |kind, _| match kind {
        Kind::LIST => {
            let page = pages.fetch_add(1, Relaxed);
            let tail = "x".repeat(240);
            let names: Vec<_> = (0..PAGE)
                .map(|at| format!("d/{page:08}-{at:08}/{tail}/{tail}/{tail}/{tail}").into_bytes())
                .collect();
            list(&names.iter().map(|name| &name[..]).collect::<Vec<_>>(), true)
        }
        _ => missing(),
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args(["get", &target, "d"]).current_dir(folder.path().join("here"));
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    // Names of 60 KiB each.
    let many = if support::long() { 6000 } else { 600 };
    let began = Instant::now();
    while served.load(Relaxed) < many {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        assert!(began.elapsed() < support::LIMIT, "it asks for no more");
        thread::sleep(Duration::from_millis(10));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
}

/// Somebody else makes links out of the folder and takes them away, again and again.
#[test]
fn links_that_come_and_go_are_not_followed() {
    let folder = place();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let here = folder.path().join("here/d");
    fs::create_dir(&here).unwrap();
    let names = [&b"d/.x/f"[..], b"d/sub/a", b"d/sub/b", b"d/sub/c"];
    let target = liar_with_folder(move |kind, _| honest(kind, &names, b"evil"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (link, sub) = (here.join("link"), here.join("sub"));
            while !stop.load(Relaxed) {
                let _ = symlink(&outside, &link);
                let _ = fs::rename(&sub, here.join("away"));
                let _ = fs::rename(&link, &sub);
                let _ = fs::rename(here.join("away"), &link);
                let _ = fs::remove_file(&sub);
                let _ = fs::rename(&link, &sub);
            }
        });
        for round in 0..if support::long() { 1000 } else { 50 } {
            // Whatever comes of it.
            get(&folder, &target, &["d"]);
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "round {round}");
        }
        stop.store(true, Relaxed);
    });
}

/// Links in the place of the file, and of what is to become it.
#[test]
fn links_in_the_place_of_files_are_not_written_through() {
    for name in ["a", ".a.echo-part"] {
        let folder = place();
        let secret = folder.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::create_dir(folder.path().join("here/d")).unwrap();
        symlink(&secret, folder.path().join("here/d").join(name)).unwrap();
        let target = liar_with_folder(move |kind, _| honest(kind, &[b"d/a"], b"evil"));
        let output = get(&folder, &target, &["d"]);
        assert_eq!(output.status.success(), name == "a");
        assert_eq!(fs::read(&secret).unwrap(), b"secret", "{name}");
        let a = folder.path().join("here/d/a");
        assert!(!a.is_symlink(), "{name}: the link is replaced, or nothing is there");
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
    let target = liar_with_folder(|kind, payload| match kind {
        Kind::LIST if payload.starts_with(&[0, 0]) => {
            let mut out = vec![0];
            for name in [&b"d/fine"[..], b"d/sub/evil"] {
                let name = FileName::new(name).unwrap();
                Entry { size: 4, attributes: Attributes::default(), name }.put(&mut out);
            }
            assert!(ListReply::parse(&out).is_ok());
            frame(Kind::LIST, &out)
        }
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

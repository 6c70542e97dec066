//! Which files are meant, however many they are, and what is told of them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write, copy, sink};
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use echo_core::{Kind, PutReply};

use super::liars::{frame, liar, list, missing, opened};
use super::support::{Client, LIMIT, all};
use super::*;

/// How much more memory more files may take: the pieces that the allocator keeps for each of the threads
/// that have read folders and files.
const NOISE_KIB: u64 = 10 << 10;

/// Names so long that a client which kept them all would show it.
fn long_name(number: u64) -> String {
    format!("{number:0>200}")
}

/// A store of nothing, that tells when so many files have been committed, and then waits.
fn forgetful(count: u64) -> (String, impl FnOnce(&Client<u64>) -> u64) {
    let ((came, all_came), (measured, end)) = (channel(), channel::<()>());
    let (commits, end) = (AtomicU64::new(0), Mutex::new(end));
    let target = liar(move |kind, payload| match kind {
        Kind::PUT => {
            let mut reply = Vec::new();
            PutReply { offset: 0, prefix: [0; 32] }.put(&mut reply);
            frame(Kind::PUT, &reply)
        }
        Kind::COMMIT => {
            if commits.fetch_add(1, Ordering::Relaxed) + 1 == count {
                came.send(()).unwrap();
                let _ = end.lock().unwrap().recv_timeout(LIMIT);
            }
            frame(Kind::COMMIT, &payload[..32])
        }
        _ => None,
    });
    let peak = move |client: &Client<u64>| {
        all_came.recv_timeout(LIMIT).unwrap();
        let peak = client.peak_kib();
        drop(measured);
        peak
    };
    (target, peak)
}

fn drain(stdout: std::process::ChildStdout) -> u64 {
    copy(&mut { stdout }, &mut sink()).unwrap()
}

/// The most memory of a `put` of a folder with so many files.
fn putting(count: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..count {
        fs::write(folder.path().join(long_name(number)), b"").unwrap();
    }
    let (target, peak) = forgetful(count);
    let path = folder.path().to_str().unwrap();
    let args = ["put", &target, path, "--as", "d", "--connections=1"];
    let client = Client::start(&args, all(b""), drain);
    let peak = peak(&client);
    let (ended, printed) = client.end();
    ended.copied(b"");
    assert!(printed > count * 200);
    peak
}

/// The most memory of a `get` of a folder that a server lists so many files of, and then has none.
fn getting(count: u64) -> u64 {
    let ((came, all_came), (measured, end)) = (channel(), channel::<()>());
    let (asked, end) = (AtomicU64::new(0), Mutex::new(end));
    let target = liar(move |kind, payload| match kind {
        Kind::LIST => {
            let cursor = &payload[2..2 + usize::from(payload[1])];
            let last = str::from_utf8(cursor).unwrap().trim_start_matches("d/");
            let first = if last.is_empty() { 0 } else { last.parse::<u64>().unwrap() + 1 };
            let names: Vec<_> =
                (first..count.min(first + 250)).map(|it| format!("d/{}", long_name(it))).collect();
            let more = first + 250 < count;
            list(&names.iter().map(|it| it.as_bytes()).collect::<Vec<_>>(), more)
        }
        Kind::DONE => {
            if asked.fetch_add(1, Ordering::Relaxed) + 1 == count {
                came.send(()).unwrap();
                let _ = end.lock().unwrap().recv_timeout(LIMIT);
            }
            missing()
        }
        _ => missing(),
    });
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    let client = Client::start(&["get", &target, "d", "-o", here], all(b""), drain);
    all_came.recv_timeout(LIMIT).unwrap();
    let peak = client.peak_kib();
    drop(measured);
    let (ended, _) = client.end();
    let told = format!("echo-client: {count} of {count} files not transferred\n");
    assert!(ended.stderr.ends_with(&told), "{}", ended.stderr.lines().last().unwrap());
    peak
}

#[test]
fn more_files_take_no_more_memory() {
    let many = if long() { 200_000 } else { 30_000 };
    for (what, peaks) in [("put", [4000, many].map(putting)), ("get", [4000, many].map(getting))] {
        println!("{what} of 4000 and {many} files: {peaks:?} KiB");
        assert!(peaks[1] < peaks[0] + NOISE_KIB, "{what}: {peaks:?} KiB");
        assert!(peaks[1] < 64 << 10, "{what}: {peaks:?} KiB");
    }
}

/// Whoever knows a file's name gets it, without a list of what is beside it.
#[test]
fn a_file_is_asked_for_by_its_name() {
    let target = liar(|kind, _| match kind {
        Kind::GET => opened(4, 0),
        Kind::READ => frame(Kind::DATA, b"good"),
        Kind::DONE => frame(Kind::DONE, &Sha256::digest(b"good")),
        _ => None,
    });
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args(["get", &target, "d/a", "d/b", "--retry=0"]).current_dir(&folder);
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    for name in ["a", "b"] {
        assert_eq!(fs::read(folder.path().join(name)).unwrap(), b"good");
    }
}

/// Files, folders and neither, one connection or several; one that may not list.
#[test]
fn folders_and_files_may_be_mixed() {
    for connections in ["--connections=1", "--connections=4"] {
        let place = Place::new();
        let _daemon = place.serve();
        for name in ["x/one", "d/two", "d/e/three", "f/four"] {
            place.write(&format!("store/{name}"), name.as_bytes());
        }
        let args = ["x/one", "d", "nothing", "f/", "-o", "../there", connections];
        let told = place.fails("get", &args);
        assert_eq!(
            told,
            "echo-client: nothing: refused: the server says: there is no file of that name (error 7)\n\
             echo-client: 1 of 5 files not transferred\n"
        );
        let there = tree(&place.path("there"));
        let names: Vec<_> = there.keys().map(|it| it.to_str().unwrap()).collect();
        assert_eq!(names, ["d/e/three", "d/two", "f/four", "one"]);
    }
    let target = liar(|kind, _| match kind {
        Kind::LIST => frame(Kind::ERROR, b"\0\x06\0not you"),
        _ => missing(),
    });
    let place = Place::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    let output = command.args(["get", &target, "d"]).current_dir(place.path("here")).output();
    let told = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(
        told.starts_with("echo-client: d: refused: the server says: none (error 7)\n"),
        "{told}"
    );
}

/// `.a.echo-part` is where `get` gathers `a`: as a file of its own it would be lost, or become `a`.
#[test]
fn files_that_are_not_fetched_to_their_end_stay_here() {
    let place = Place::new();
    let _daemon = place.serve();
    for name in ["a", ".a.echo-part", ".b.echo-part/c"] {
        place.write(&format!("here/d/{name}"), name.as_bytes());
        place.write(&format!("store/s/{name}"), name.as_bytes());
    }
    let output = place.run("put", &["d"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), &told[..]),
        (
            Some(0),
            "echo-client: d/.a.echo-part: skipped: not fetched to its end\n\
             echo-client: d/.b.echo-part: skipped: not fetched to its end\n"
        )
    );
    assert_eq!(tree(&place.path("store/d")).len(), 1);
    let unfinished = "files of that name are those not fetched to their end";
    let told = place.fails("put", &["d/.a.echo-part"]);
    assert!(told.contains(unfinished), "{told}");
    place.misuses("put", &["d/a", "--as", "x/.y.echo-part/z"], unfinished);
    place.done("put", &["d/.a.echo-part", "--as", "kept"]);
    for output in ["../there", "../there/new"] {
        let told = place.fails("get", &["s", "-o", output]);
        assert_eq!(told.matches("files of that name are those").count(), 2, "{told}");
        assert!(told.ends_with("2 of 3 files not transferred\n"), "{told}");
    }
    for there in ["there/s", "there/new"] {
        let there = tree(&place.path(there));
        assert_eq!(there.into_iter().collect::<Vec<_>>(), [("a".into(), b"a".to_vec())]);
    }
}

#[test]
fn two_files_of_one_name_are_refused() {
    let place = Place::new();
    let _daemon = place.serve();
    for name in ["x/a", "y/a"] {
        place.write(&format!("here/{name}"), name.as_bytes());
        place.write(&format!("store/{name}"), name.as_bytes());
    }
    for (task, args, told) in [
        ("put", &["x/a", "y/a"][..], "x/a and y/a would be stored under one name"),
        ("put", &["x", "z", "y/../x/"], "x and y/../x/ would be stored under one name"),
        ("get", &["x/a", "y/a", "-o", "../there"], "x/a and y/a would be written to one place"),
        ("get", &["x/a", "x/a/"], "x/a and x/a/ would be written to one place"),
    ] {
        let output = place.run(task, args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        assert!(stderr.contains(told) && stderr.contains("call once for each"), "{stderr}");
    }
    assert!(tree(&place.path("there")).is_empty() && !place.path("store/a").exists());
}

/// Devices, pipes and sockets are not waited for, nor opened.
#[test]
fn only_regular_files_are_stored() {
    let place = Place::new();
    let _daemon = place.serve();
    mkfifoat(CWD, place.path("here/pipe"), Mode::RWXU).unwrap();
    place.write("here/file", b"1");
    symlink("file", place.path("here/link")).unwrap();
    for path in ["pipe", "../socket", "/dev/null", "/dev/tty"] {
        let told = place.fails("put", &[path, "--as", "x"]);
        assert!(
            told.starts_with(&format!("echo-client: {path}: cannot read it: not a regular file"))
        );
    }
    // A link that is named is what it leads to.
    assert_eq!(place.done("put", &["link"]), format!("{}  link\n", sum(b"1")));
    fs::create_dir(place.path("here/d")).unwrap();
    fs::rename(place.path("here/link"), place.path("here/d/link")).unwrap();
    fs::rename(place.path("here/pipe"), place.path("here/d/pipe")).unwrap();
    let output = place.run("put", &["-q", "d"]);
    let told = String::from_utf8(output.stderr).unwrap();
    let expected = "echo-client: d/link: skipped: not a regular file\n\
                    echo-client: d/pipe: skipped: not a regular file\n";
    assert_eq!((output.status.code(), &told[..]), (Some(0), expected));
}

/// Files of /proc have a size of 0.
#[test]
fn files_that_do_not_know_their_size_are_read_to_their_end() {
    let place = Place::new();
    let _daemon = place.serve();
    // A line, and some megabytes.
    for path in ["/proc/version", "/proc/kallsyms"] {
        let Ok(content) = fs::read(path) else { continue };
        assert_eq!(fs::metadata(path).unwrap().len(), 0, "{path}");
        let printed = place.done("put", &[path, "--as", "x"]);
        assert_eq!(printed, format!("{}  x\n", sum(&content)), "{path}");
        assert!(fs::read(place.path("store/x")).unwrap() == content);
    }
}

/// Any bytes that a name may have.
#[test]
fn what_is_printed_can_be_checked() {
    let place = Place::new();
    let _daemon = place.serve();
    for name in [&b"plain"[..], b"no \xff UTF-8", b"back\\slash", b"\\", "\u{fc}".as_bytes()] {
        fs::write(place.path("here").join(OsStr::from_bytes(name)), name).unwrap();
    }
    place.misuses("put", &[".", "--as", "."], "no file's name");
    fs::rename(place.path("here"), place.path("d")).unwrap();
    fs::create_dir(place.path("here")).unwrap();
    fs::rename(place.path("d"), place.path("here/d")).unwrap();
    let output = place.run("put", &["d"]);
    assert_eq!(output.status.code(), Some(0));
    let mut check = Command::new("sha256sum");
    check.args(["-c", "--strict"]).current_dir(place.path("here"));
    let mut check = check.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(&output.stdout).unwrap();
    let checked = check.wait_with_output().unwrap();
    assert!(checked.status.success());
    assert_eq!(
        checked.stdout.split(|it| *it == b'\n').filter(|it| it.ends_with(b": OK")).count(),
        5
    );
}

/// Of a folder with pages of names: it is said once that nobody is verified, with -q too.
#[test]
fn what_is_insecure_is_said_once() {
    let place = Place::new();
    let out = place.path("tls").display().to_string();
    let mut make = Command::new(support::daemon::program());
    make.args(["tls", "self-signed", "--name", "localhost", "--out", &out]);
    assert!(make.output().unwrap().status.success());
    let store = place.path("store").display().to_string();
    let (cert, key) = (format!("{out}/cert.pem"), format!("{out}/key.pem"));
    let uri = "tls://127.0.0.1:0";
    let files = ["--listen", uri, "--files", &store, "--tls-cert", &cert, "--tls-key", &key];
    let daemon = Daemon::start(&files);
    for number in 0..1000 {
        place.write(&format!("store/d/{}", long_name(number)), b"");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args(["get", &daemon.target, "d", "--insecure", "-q"]).current_dir(place.path("here"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines: Vec<_> =
        BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    assert!(lines.len() == 1 && lines[0].contains("INSECURE"), "{lines:?}");
    assert_eq!(tree(&place.path("here/d")).len(), 1000);
}

/// The folders that a `get` makes are on the disk when it ends, as its files are.
#[test]
fn folders_that_are_made_are_synced() {
    if support::can_trace("folders_that_are_made_are_synced") {
        assert_folders_are_synced(&Place::new());
    }
}

/// Also those that a call before has made, which was killed before it could do that.
#[test]
fn folders_that_were_made_before_are_synced() {
    if support::can_trace("folders_that_were_made_before_are_synced") {
        let place = Place::new();
        fs::create_dir_all(place.path("there/d/e")).unwrap();
        assert_folders_are_synced(&place);
    }
}

#[track_caller]
fn assert_folders_are_synced(place: &Place) {
    let _daemon = place.serve();
    place.write("store/d/e/f", b"1");
    let log = place.path("log");
    let plain = place.command("get", &["d", "-o", "../there"]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-e", "trace=fsync,mkdirat", "-o"]).arg(&log);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(place.path("here"));
    assert!(command.output().unwrap().status.success());
    let log = fs::read_to_string(log).unwrap();
    for folder in ["there", "there/d", "there/d/e"] {
        let synced = format!("{}>)", fs::canonicalize(place.path(folder)).unwrap().display());
        assert!(
            log.lines().any(|it| it.contains("fsync(") && it.contains(&synced)),
            "{folder}: {log}"
        );
    }
}

/// What is no regular file is not replaced by one.
#[test]
fn devices_pipes_and_links_are_not_replaced() {
    let place = Place::new();
    let _daemon = place.serve();
    place.write("here/a", b"content");
    place.done("put", &["a"]);
    mkfifoat(CWD, place.path("there/pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    symlink("/dev/stdout", place.path("there/link")).unwrap();
    symlink("nowhere", place.path("there/dangling")).unwrap();
    for name in ["pipe", "link", "dangling"] {
        let stderr = place.fails("get", &["a", "-o", &format!("../there/{name}")]);
        assert!(stderr.ends_with("it is no regular file (stdout is -o -)\n"), "{stderr}");
        assert!(!fs::symlink_metadata(place.path("there").join(name)).unwrap().is_file());
    }
    place.done("get", &["a", "-o", "../there/a"]);
    place.done("get", &["a", "-o", "../there/a"]);
    place.assert_no_leftovers();
}

//! `put`, `get`, `ls` and `rm` with the workspace's own daemon, and with servers that lie.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../support/mod.rs"]
mod support;

mod events;
mod gather;
mod kills;
mod liars;
mod limits;
mod patience;
mod piped;
mod refusals;
mod removals;
mod restarts;
mod sources;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use echo_core::Kind;
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::daemon::Daemon;
use support::{long, noise};
use tempfile::TempDir;

/// A folder for a store, a socket, and this host's files.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for folder in ["store", "here", "there"] {
            fs::create_dir(place.path(folder)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn target(&self) -> String {
        format!("unix:{}", self.path("socket").display())
    }

    /// A server to which anybody may write, and that does not wait for uploads when it is stopped.
    fn serve(&self) -> Daemon {
        let (uri, store) = (self.target(), self.path("store").display().to_string());
        let args = ["--listen", &uri, "--files", &store, "--anonymous-put", "--drain-timeout=1ms"];
        // One that was killed leaves its socket.
        let _ = fs::remove_file(self.path("socket"));
        Daemon::start(&args)
    }

    /// A client's command, which runs in `here`.
    fn command(&self, task: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
        command.arg(task).arg(self.target()).args(args).current_dir(self.path("here"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, task: &str, args: &[&str]) -> Output {
        self.command(task, args).output().unwrap()
    }

    /// The same, which goes well and says nothing on stderr; its stdout.
    #[track_caller]
    fn done(&self, task: &str, args: &[&str]) -> String {
        let output = self.run(task, args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &stderr[..]), (Some(0), ""));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, which fails; its stderr.
    #[track_caller]
    fn fails(&self, task: &str, args: &[&str]) -> String {
        let output = self.run(task, args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        stderr
    }

    /// The same, which is wrong from the start on: nobody is asked.
    #[track_caller]
    fn misuses(&self, task: &str, args: &[&str], told: &str) {
        let output = self.run(task, args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {stderr}");
        assert!(stderr.starts_with("echo-client: ") && output.stdout.is_empty(), "{stderr}");
        assert!(stderr.contains(told) && stderr.lines().count() == 1, "{args:?}: {told}: {stderr}");
    }

    /// The same with `--json`; its objects.
    #[track_caller]
    fn events(&self, task: &str, args: &[&str]) -> Vec<Value> {
        objects(&self.done(task, &[&["--json"], args].concat()))
    }

    /// How many bytes of an upload the server keeps.
    fn parked(&self) -> u64 {
        let parts = tree(&self.path("store/.echo-server"));
        let part = parts.iter().find(|(name, _)| name.extension().is_some_and(|it| it == "part"));
        part.map_or(0, |(_, bytes)| bytes.len() as u64)
    }

    /// Nothing is left of transfers, here or there.
    #[track_caller]
    fn assert_no_leftovers(&self) {
        let left = tree(self.0.path()).into_keys().filter(|path| {
            let end = path.extension().unwrap_or_default();
            ["part", "state", "new", "echo-part"].iter().any(|it| end == *it)
        });
        assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Waits for what another process does soon.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = tokio::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a command with `--json` prints: an object a line, and nothing else.
#[track_caller]
fn objects(stdout: &str) -> Vec<Value> {
    let object = |line| {
        let value: Value = serde_json::from_str(line).unwrap();
        assert!(value["event"].is_string(), "{line}");
        value
    };
    stdout.lines().map(object).collect()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files of a folder.
fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap().path();
            match (entry.is_dir(), entry.is_file()) {
                (true, _) => folders.push(entry),
                (false, false) => {}
                (false, true) => {
                    let name = entry.strip_prefix(path).unwrap().to_owned();
                    found.insert(name, fs::read(&entry).unwrap());
                }
            }
        }
    }
    found
}

/// Many small files, and some that are none.
#[test]
fn folders_go_there_and_come_back() {
    let place = Place::new();
    let _daemon = place.serve();
    // As many as put sorts in a folder, at most.
    let many = if long() { 10_000 } else { 300 };
    for number in 0..many {
        // 4 KiB each, but for some.
        let len = if number % 10 == 0 { number } else { 4096 };
        place.write(&format!("here/d/many/{}/{}", number / 1000, number % 1000), &noise(len));
    }
    for (name, len) in [("empty", 0), ("edge", 65_536), ("over", 65_537), ("large", 3_000_001)] {
        place.write(&format!("here/d/{name}"), &noise(len));
    }
    fs::File::create(place.path("here/d/sparse")).unwrap().set_len(5 << 20).unwrap();
    let here = tree(&place.path("here/d"));
    let printed = place.done("put", &["d"]);
    // One line a file, as sha256sum -c reads, in the order of their names, whichever arrived first.
    let expected: Vec<_> =
        here.iter().map(|(name, bytes)| format!("{}  d/{}", sum(bytes), name.display())).collect();
    assert!(printed.lines().eq(expected));
    place.assert_no_leftovers();
    assert!(fs::metadata(place.path("store/d/sparse")).unwrap().blocks() < 2048);
    place.done("get", &["d", "-o", "../there"]);
    assert!(tree(&place.path("there/d")) == here);
    assert!(fs::metadata(place.path("there/d/sparse")).unwrap().blocks() < 2048);
    let listed = place.done("ls", &["d/many/0/1"]);
    assert_eq!(
        listed.lines().count(),
        here.keys()
            .filter(|name| name.starts_with("many/0")
                && name.file_name().unwrap().to_str().unwrap().starts_with('1'))
            .count()
    );
    let objects = place.done("ls", &["--json", "d/e"]);
    let objects: Vec<Value> = objects.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert_eq!(objects.len(), 2);
    assert_eq!((&objects[0]["name"], &objects[0]["bytes"]), (&"d/edge".into(), &65_536.into()));
    place.done("rm", &["d/edge", "d/empty"]);
    assert!(place.fails("rm", &["d/edge", "d/over"]).contains("d/edge: refused: "));
    assert!(!place.path("store/d/over").exists());
}

#[test]
fn names_stdin_stdout_and_attributes() {
    let place = Place::new();
    let _daemon = place.serve();
    place.write("here/a", b"one");
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 7);
    fs::File::options().write(true).open(place.path("here/a")).unwrap().set_modified(old).unwrap();
    fs::set_permissions(place.path("here/a"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(
        place.done("put", &["a", "--as", "x/b\\c", "-p"]),
        format!("\\{}  x/b\\\\c\n", sum(b"one"))
    );
    let stored = fs::metadata(place.path("store/x/b\\c")).unwrap();
    assert_eq!((stored.modified().unwrap(), stored.mode() & 0o777), (old, 0o640));
    place.done("get", &["x/b\\c", "-p", "-o", "copy"]);
    let copy = fs::metadata(place.path("here/copy")).unwrap();
    assert_eq!((copy.modified().unwrap(), copy.mode() & 0o777, copy.len()), (old, 0o640, 3));
    assert_eq!(place.done("get", &["x/b\\c", "-o", "-"]), "one");
    // Through pipes, of any length.
    let bytes = noise(700_000);
    let mut command = place.command("put", &["-", "--as", "piped", "--json"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let fed = bytes.clone();
    let feeder = thread::spawn(move || std::io::Write::write_all(&mut stdin, &fed).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["sha256"], &told["bytes"]), (&sum(&bytes).into(), &700_000.into()));
    assert!(fs::read(place.path("store/piped")).unwrap() == bytes);
    assert!(place.run("get", &["piped", "-o", "-"]).stdout == bytes);
}

#[test]
fn what_cannot_be_done_is_told_and_the_rest_is_done() {
    let place = Place::new();
    let _daemon = place.serve();
    place.write("here/d/good", b"1");
    place.write("here/d/also", b"2");
    symlink("/etc/passwd", place.path("here/d/link")).unwrap();
    mkfifoat(CWD, place.path("here/pipe"), Mode::RWXU).unwrap();
    place.write("here/d/bad\nname", b"3");
    let told = place.fails("put", &["d", "missing", "pipe"]);
    assert!(told.contains("skipped: not a regular file"), "{told}");
    assert!(told.contains("no name for a file"), "{told}");
    assert!(told.contains("missing: cannot read it: No such file or directory"), "{told}");
    assert!(told.contains("pipe: cannot read it: not a regular file"), "{told}");
    assert!(told.ends_with("echo-client: 3 of 5 files not transferred\n"), "{told}");
    assert_eq!(tree(&place.path("store/d")).len(), 2);
    let told = place.fails("get", &["nothing"]);
    assert!(
        told.contains("nothing: refused: the server says: there is no file of that name (error 7)")
    );
    assert_eq!(fs::read_dir(place.path("there")).unwrap().count(), 0);
    for (task, args, told) in [
        ("put", &["-"][..], "give one with --as"),
        ("put", &["a", "b", "--as", "c"], "--as is for a single path"),
        ("get", &["a", "b", "-o", "-"], "stdout takes one file"),
        ("get", &["a", "--json", "-o", "-"], "stdout is for the file: leave out --json"),
        ("get", &["a", "b", "-o", "nowhere"], "-o must be a folder"),
        ("put", &[], "required arguments"),
    ] {
        let output = place.run(task, args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
}

/// A server without a store, and one that may not be written to.
#[test]
fn servers_that_do_not_want_files_are_told() {
    let place = Place::new();
    place.write("here/a", b"1");
    let (_folder, plain) = Daemon::of_its_own();
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    let output = command.args(["ls", &plain.target]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told, "echo-client: refused: the server stores no files: it needs --files\n");
    let (uri, store) = (place.target(), place.path("store").display().to_string());
    let _daemon = Daemon::start(&["--listen", &uri, "--files", &store]);
    let told = place.fails("put", &["a"]);
    assert!(
        told.contains(
            "a: refused: the server says: that needs authentication here (error 5): give \
             --user NAME, or under tls:// --cert FILE --key FILE\n"
        ),
        "{told}"
    );
    assert_eq!(place.done("ls", &[]), "");
}

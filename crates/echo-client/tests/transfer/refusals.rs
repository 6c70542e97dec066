//! What is refused before anything is transferred, and the words for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::liars::{liar, opened};
use super::support::pty::Pty;
use super::*;

#[test]
fn a_folder_that_is_not_there_is_not_taken_for_a_file() {
    let place = Place::new();
    let _daemon = place.serve();
    place.write("store/a", b"1");
    place.write("store/d/b", b"2");
    place.write("there/file", b"kept");
    for name in ["a", "d"] {
        for output in ["../there/none/", "../there/none/.", "../there/file/"] {
            let told = place.fails("get", &[name, "-o", output]);
            let expected = format!("echo-client: cannot write to {output}: no such folder\n");
            assert_eq!(told, expected);
        }
    }
    assert_eq!(tree(&place.path("there")).len(), 1);
    // Without the slash it is the name that the folder is to have here.
    place.done("get", &["d", "-o", "../there/none"]);
    assert_eq!(fs::read(place.path("there/none/b")).unwrap(), b"2");
}

#[test]
fn a_folder_does_not_go_to_a_file() {
    let place = Place::new();
    let _daemon = place.serve();
    for name in ["d/b", "d/c", "d/e/f"] {
        place.write(&format!("store/{name}"), name.as_bytes());
    }
    place.write("there/file", b"kept");
    place.write("there/deep/d", b"kept");
    fs::create_dir(place.path("there/folder")).unwrap();
    fs::create_dir(place.path("there/links")).unwrap();
    symlink("../folder", place.path("there/links/d")).unwrap();
    for output in ["../there/file", "../there/deep", "../there/links"] {
        let told = place.fails("get", &["d", "-o", output]);
        let here = if output.ends_with("file") { "file" } else { "d" };
        let expected = format!(
            "echo-client: d: it is a folder on the server, and {here} is none here\n\
             echo-client: 1 of 1 files not transferred\n"
        );
        assert_eq!(told, expected);
    }
    // What is neither is not there, whatever is here.
    let told = place.fails("get", &["nothing", "-o", "../there/file"]);
    assert!(told.contains("nothing: refused: the server says: there is no file"), "{told}");
    let there = tree(&place.path("there"));
    assert!(there.len() == 2 && there.values().all(|it| it == b"kept"), "{there:?}");
}

#[test]
fn a_file_does_not_go_to_a_folder() {
    let place = Place::new();
    let _daemon = place.serve();
    place.write("store/a", b"1");
    place.write("store/large", &noise(3 << 20));
    place.write("store/d/a", b"1");
    place.write("store/d/b", b"2");
    for folder in ["there/a", "there/large", "there/d/a", "here/a"] {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    let told = |name: &str, last: &str| {
        format!(
            "echo-client: {name}: cannot write it: it is a file on the server, and {last} is a folder here: move \
             that, or give another place with -o\necho-client: 1 of "
        )
    };
    for (args, last) in [
        (&["a"][..], "a"),
        (&["a", "-o", "../there"], "a"),
        (&["large", "-o", "../there"], "large"),
        (&["large", "-o", "../there", "-p"], "large"),
    ] {
        let stderr = place.fails("get", args);
        assert_eq!(stderr, format!("{}1 files not transferred\n", told(args[0], last)));
    }
    // Of a folder the others come.
    let stderr = place.fails("get", &["d", "-o", "../there"]);
    assert_eq!(stderr, format!("{}2 files not transferred\n", told("d/a", "a")));
    assert_eq!(fs::read(place.path("there/d/b")).unwrap(), b"2");
    // A part that was left before the folder came is of no use either.
    place.write("there/.large.echo-part", &noise(3 << 20)[..1 << 20]);
    place.fails("get", &["large", "-o", "../there"]);
    assert_eq!(tree(&place.path("there")).len(), 1);
    assert_eq!(tree(&place.path("here")).len(), 0);
}

/// Before a byte of it is asked for.
#[test]
fn a_file_for_a_folder_is_not_fetched() {
    let place = Place::new();
    fs::create_dir(place.path("here/a")).unwrap();
    let reads = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&reads);
    let target = liar(move |kind, _| match kind {
        Kind::GET => opened(3 << 20, 0),
        kind => {
            seen.fetch_add(usize::from(kind == Kind::READ), Relaxed);
            None
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args(["get", &target, "a", "--retry=0"]).current_dir(place.path("here"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("a is a folder here"), "{stderr}");
    assert_eq!(reads.load(Relaxed), 0);
}

/// New contents are for those for whom the old ones were; what is more than permissions is not handed on.
#[test]
fn a_file_keeps_the_mode_of_the_one_it_replaces() {
    let place = Place::new();
    let _daemon = place.serve();
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().mode() & 0o7777;
    for (number, (before, after)) in
        [(0o600, 0o600), (0o755, 0o755), (0o666, 0o666), (0o400, 0o400), (0o4755, 0o755)]
            .into_iter()
            .enumerate()
    {
        for len in [1, 3 << 20] {
            let name = format!("{number}.{len}");
            place.write(&format!("store/d/{name}"), &noise(len));
            let here = format!("here/d/{name}");
            place.write(&here, b"old");
            fs::set_permissions(place.path(&here), fs::Permissions::from_mode(before)).unwrap();
            // By its name, and as one that a list tells of.
            for args in [&[&*format!("d/{name}"), "-o", "d"][..], &["d"]] {
                place.done("get", args);
                assert_eq!(mode(&here), after, "{name}");
                assert!(fs::read(place.path(&here)).unwrap() == noise(len));
            }
        }
    }
    // A link is replaced as if nothing was there.
    place.write("there/secret", b"kept");
    fs::set_permissions(place.path("there/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    place.write("store/new", b"1");
    symlink("../there/secret", place.path("here/link")).unwrap();
    place.write("store/link", b"1");
    place.done("get", &["new", "link"]);
    assert_eq!(mode("here/link"), mode("here/new"));
}

/// What one group may read is for that group, or for nobody but its owner where the file cannot have that group.
#[test]
fn a_file_keeps_the_group_of_the_one_it_replaces() {
    // Only root has files of groups that are not its own.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let _daemon = place.serve();
    place.write("store/d/a", &noise(100));
    let rights = |name: &str| {
        let it = fs::metadata(place.path(name)).unwrap();
        (it.gid(), it.mode() & 0o7777)
    };
    let old = |mode| {
        place.write("here/d/a", b"old");
        std::os::unix::fs::chown(place.path("here/d/a"), None, Some(65534)).unwrap();
        fs::set_permissions(place.path("here/d/a"), fs::Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o640, 0o660, 0o604, 0o644] {
        old(mode);
        place.done("get", &["d"]);
        assert_eq!(rights("here/d/a"), (65534, mode));
    }
    for (before, after) in [(0o640, 0o600), (0o664, 0o644), (0o604, 0o600), (0o755, 0o755)] {
        old(before);
        // Without the right to give files away.
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-chown", env!("CARGO_BIN_EXE_echo-client"), "get"]);
        command.args([&place.target(), "d"]).current_dir(place.path("here"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(rights("here/d/a"), (0, after), "{before:o}");
        assert!(fs::read(place.path("here/d/a")).unwrap() == noise(100));
    }
}

#[test]
fn names_that_are_none_are_told_as_they_were_given() {
    let place = Place::new();
    place.write("here/d/a", b"1");
    for (path, name, told) in [
        ("d/a", "x/../y", "x/../y: no file's name: "),
        ("d", "/x", "/x: no file's name: "),
        ("-", "x//y", "x//y: no file's name: "),
        ("d/a", "x/.y.echo-part", "x/.y.echo-part: files of that name are those not fetched"),
    ] {
        place.misuses("put", &[path, "--as", name], told);
    }
}

/// As part of the command line, which is wrong then.
#[test]
fn names_that_are_none_are_not_asked_for() {
    let place = Place::new();
    let (long, part) = ("x/".repeat(600), "y".repeat(256));
    let deep = ["d"; 33].join("/");
    for task in ["get", "rm", "ls"] {
        for name in ["../x", "x/../y", "/x", "x//y", "a\nb", &long, &part, &deep] {
            let verb = if task == "ls" {
                "no file's name begins so: a name"
            } else {
                "no file's name: a name"
            };
            place.misuses(task, &[name], verb);
        }
    }
    for task in ["get", "rm"] {
        place.misuses(task, &["fine", ""], "\"\": no file's name: a name has at least one byte");
    }
    place.misuses("put", &["a", "--as", ""], "\"\": no file's name: a name has at least one byte");
    place.misuses(
        "put",
        &["fine", "here/.."],
        "here/.. has no name of its own: give one with --as",
    );
    for (task, arg) in [("get", "a"), ("put", "a")] {
        for count in ["0", "256", "-1", "many", "1.5", ""] {
            let told = "'--connections <N>': write a whole number from 1 to 255 (see";
            place.misuses(task, &[arg, &format!("--connections={count}")], told);
        }
    }
    // All that a name can begin with.
    let _daemon = place.serve();
    let (whole, full) = ("z".repeat(255), ["d"; 32].join("/"));
    place.write(&format!("store/{whole}"), b"");
    for prefix in ["", ".", "..", "a/", &whole, &format!("{whole}/"), &full] {
        let listed = place.done("ls", &[prefix]);
        assert_eq!(listed.lines().count(), usize::from(whole.starts_with(prefix)), "{prefix}");
    }
}

/// On a terminal names do nothing; elsewhere they are what sha256sum reads.
#[test]
fn names_are_escaped_on_a_terminal() {
    let place = Place::new();
    let _daemon = place.serve();
    let names =
        [&b"esc\x1b[31m"[..], b"c1\xc2\x9b31m", b"raw\x9b31m", "bidi\u{202e}txt".as_bytes()];
    let names = [&names[..], &[b"b\\s", b"plain"]].concat();
    for name in &names {
        // The name of a client's own file may hold what a server's may not.
        let path = place.path("here").join(OsStr::from_bytes(name));
        fs::write(path, name).unwrap();
    }
    for name in names {
        let path = place.path("here").join(OsStr::from_bytes(name));
        let mut piped = place.command("put", &[]);
        let output = piped.arg(&path).output().unwrap();
        let (target, path) = (place.target(), path.as_os_str());
        let mut pty = Pty::start_with(&[OsStr::new("put"), target.as_ref(), path, "-q".as_ref()]);
        let code = pty.end();
        assert_eq!(code, output.status.code(), "{name:?}");
        let shown = str::from_utf8(&pty.raw).unwrap().replace("\r\n", "");
        let unsafe_for_terminals = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!shown.contains(unsafe_for_terminals), "{shown:?}");
        let task = ["put".as_ref(), target.as_ref(), path, "--json".as_ref()];
        let mut json = Pty::start_with(&task);
        assert_eq!(json.end(), code, "{name:?}");
        let shown = str::from_utf8(&json.raw).unwrap().replace("\r\n", "");
        assert!(!shown.contains(unsafe_for_terminals), "{shown:?}");
        let end = pty.raw.strip_suffix(b"\r\n").unwrap();
        if code == Some(0) && (name == b"plain" || name == b"b\\s") {
            assert_eq!(end, output.stdout.strip_suffix(b"\n").unwrap());
        } else if code == Some(0) {
            // As what sha256sum escapes; and what it does not, it does not take for another name.
            assert!(end.starts_with(b"\\") && end.contains(&b'\\'), "{end:?}");
            assert!(output.stdout.windows(name.len()).any(|it| it == name), "{output:?}");
        }
    }
}

//! `put -`: stdin is read once.

use std::io::Write;
use std::process::{Child, ChildStdin};

use super::*;

struct Piping {
    child: Child,
    stdin: ChildStdin,
}

impl Piping {
    fn start(place: &Place) -> Self {
        let mut command = place.command("put", &["-", "--as", "piped", "--json"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        Self { stdin: child.stdin.take().unwrap(), child }
    }

    /// What became of it, and the last object that it printed.
    fn end(self) -> (Output, Value) {
        drop(self.stdin);
        let output = self.child.wait_with_output().unwrap();
        let last = objects(&String::from_utf8_lossy(&output.stdout)).pop().unwrap();
        (output, last)
    }
}

/// The server is restarted again and again; what it did not keep is sent again from memory.
#[test]
fn stdin_goes_on_after_restarts() {
    let place = Place::new();
    let mut daemon = place.serve();
    let bytes = noise(24 << 20);
    let mut piping = Piping::start(&place);
    for (round, part) in bytes.chunks(4 << 20).enumerate() {
        piping.stdin.write_all(part).unwrap();
        daemon.signal(if round % 2 == 0 { Signal::KILL } else { Signal::TERM });
        daemon.wait();
        daemon = place.serve();
    }
    let (output, stored) = piping.end();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &stderr[..]), (Some(0), ""));
    assert_eq!((&stored["event"], &stored["sha256"]), (&"stored".into(), &sum(&bytes).into()));
    assert!(fs::read(place.path("store/piped")).unwrap() == bytes);
    // Each time at most what is kept.
    let moved = stored["transferred"].as_u64().unwrap();
    assert!(moved <= (24 << 20) + 6 * (8 << 20), "{moved}");
    place.assert_no_leftovers();
}

/// A server that lost too much of it: that is said, and nothing is stored.
#[test]
fn stdin_that_cannot_be_sent_again_is_told() {
    let place = Place::new();
    let mut daemon = place.serve();
    let mut piping = Piping::start(&place);
    piping.stdin.write_all(&noise(24 << 20)).unwrap();
    daemon.signal(Signal::KILL);
    daemon.wait();
    // As after a crash of its host: what was not synced is gone.
    fs::remove_dir_all(place.path("store/.echo-server")).unwrap();
    let _daemon = place.serve();
    let (output, last) = piping.end();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &last["event"]), (Some(1), &"error".into()), "{stderr}");
    let failed = objects(&String::from_utf8_lossy(&output.stdout));
    let failed = failed.iter().find(|it| it["event"] == "failed").unwrap();
    let told = failed["error"].as_str().unwrap();
    assert!(
        told.starts_with("interrupted: of the ")
            && told.contains("the server kept 0, ")
            && told.ends_with("only the last 8 MiB can be sent again: start it anew"),
        "{told}"
    );
    assert!(!place.path("store/piped").exists());
}

/// `-p` has nothing to keep of what is no file.
#[test]
fn stdin_has_no_attributes() {
    let place = Place::new();
    let _daemon = place.serve();
    place.done("put", &["-", "--as", "empty", "-p"]);
    assert_ne!(fs::metadata(place.path("store/empty")).unwrap().mode() & 0o600, 0);
}

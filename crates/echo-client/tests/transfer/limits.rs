//! What a server's limits do to transfers.

use std::io::{BufRead, BufReader, Write};

use super::*;

#[test]
fn files_are_longer_than_the_servers_longest_frame() {
    let place = Place::new();
    let (uri, store) = (place.target(), place.path("store").display().to_string());
    let args = ["--listen", &uri, "--files", &store, "--anonymous-put", "--max-frame", "16KiB"];
    let _daemon = Daemon::start(&args);
    for (name, len) in [("a", 16 << 10), ("b", (16 << 10) + 1), ("c", 60 << 10), ("d", 300 << 10)] {
        let bytes = noise(len);
        place.write(&format!("here/{name}"), &bytes);
        place.done("put", &[name]);
        assert!(fs::read(place.path("store").join(name)).unwrap() == bytes, "{name}");
        place.done("get", &[name, "-o", "../there/"]);
        assert!(fs::read(place.path("there").join(name)).unwrap() == bytes, "{name}");
    }
}

/// A server without a place for one more transfer is asked again.
#[test]
fn a_busy_server_is_asked_again() {
    let place = Place::new();
    let (uri, store) = (place.target(), place.path("store").display().to_string());
    let args = ["--listen", &uri, "--files", &store, "--anonymous-put", "--files-transfers", "1"];
    let daemon = Daemon::start(&args);
    place.write("here/small", b"small");
    place.write("here/large", &noise(100_000));
    let mut holder = place.command("put", &["-", "--as", "held"]);
    let mut holder = holder.stdin(Stdio::piped()).spawn().unwrap();
    holder.stdin.as_mut().unwrap().write_all(&noise(1 << 20)).unwrap();
    eventually("it is open", || place.parked() > 0);
    let mut command = place.command("put", &["small", "large"]);
    let mut waiting = command.arg("--connections=1").spawn().unwrap();
    let mut stderr = BufReader::new(waiting.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("open transfers is used up (error 4); trying again"), "{line}");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert!(fs::read(place.path("store/small")).unwrap() == b"small");
    // One that stays so is not asked for ever.
    let mut holder = place.command("put", &["-", "--as", "held"]);
    let mut holder = holder.stdin(Stdio::piped()).spawn().unwrap();
    holder.stdin.as_mut().unwrap().write_all(&noise(1 << 20)).unwrap();
    eventually("it is open", || place.parked() > 0);
    let output = place.run("put", &["small", "--retry=10ms"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(stderr.ends_with("open transfers is used up (error 4)\n"), "{stderr}");
    drop(daemon);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

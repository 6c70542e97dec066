//! Files that take long to be counted: a start that moves has all the time it needs, and one that is to stop stops.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use super::support::{PATIENCE, Signal, injection};
use super::*;

/// So many folders, each of which takes 600 ms to be read.
const FOLDERS: usize = 500;

#[test]
fn the_manager_waits_while_files_are_counted_and_a_stop_does_not() {
    if !injection::can_inject("the_manager_waits_while_files_are_counted_and_a_stop_does_not") {
        return;
    }
    let place = Place::new();
    for folder in 0..FOLDERS {
        fs::create_dir(place.path(&folder.to_string())).unwrap();
        fs::write(place.path(&format!("{folder}/file")), "").unwrap();
    }
    let manager = UnixDatagram::bind(place.folder.path().join("manager")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let log = place.folder.path().join("trace");
    let args = place.args();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut command: Command =
        injection::injected(&[], &log, "getdents64:delay_enter=300000", &args);
    command.env("NOTIFY_SOCKET", place.folder.path().join("manager"));
    let mut server = Server::spawn(command);
    let told = || {
        let mut text = [0; 256];
        let len = manager.recv(&mut text).unwrap();
        String::from_utf8(text[..len].to_vec()).unwrap()
    };
    // More than once: a start that moves has no end.
    for _ in 0..2 {
        assert_eq!(told().trim_end(), "EXTEND_TIMEOUT_USEC=30000000");
    }
    let began = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!server.stderr().contains("files are in"), "it was still counting");
}

//! Files that take long to be counted: a start that moves has all the time it needs, and one that is to stop stops.

use super::support::manager::Manager;
use super::support::{PATIENCE, Signal};
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
    let path = place.folder.path().join("manager").display().to_string();
    let manager = Manager::new(&path);
    let mut command = place.injected("getdents64:delay_enter=300000", None, &[]);
    manager.of(&mut command);
    let mut server = Server::spawn(command);
    // More than once: a start that moves has no end.
    for _ in 0..2 {
        assert_eq!(manager.next().trim_end(), "EXTEND_TIMEOUT_USEC=30000000");
    }
    server.signal(Signal::TERM);
    // Counting would take five minutes.
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
    assert!(!server.stderr().contains("files are in"), "it was still counting");
}

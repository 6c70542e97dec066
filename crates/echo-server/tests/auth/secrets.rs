//! A planted password, looked for everywhere.

use std::fs;
use std::path::PathBuf;

use crate::house::*;
use crate::support::traffic::*;

/// A password that was planted is found in no output, no file and no argument.
#[test]
fn a_planted_password_is_found_nowhere() {
    let house = House::new();
    let mut server = house.open(&["--log-level=trace", "--access-log", "--log=json"]);
    let peer = meet(&server.uris()[REQUIRED]);
    log_in(&peer, "alice", PASSWORD).unwrap();
    // In the wrong place: as a name, as a message, as a mechanism.
    let peer = meet(&server.uris()[REQUIRED]);
    let _ = log_in(&peer, PASSWORD, "x");
    peer.send(&frame(AUTH, format!("\0\x0c{PASSWORD}n,,").as_bytes()));
    peer.read_frame().unwrap();
    let peer = meet(&server.uris()[OPEN]);
    peer.send(&start(PASSWORD.as_bytes()));
    peer.read_frame().unwrap();
    let proc = PathBuf::from(format!("/proc/{}", server.pid()));
    assert!(!contains(&fs::read(proc.join("cmdline")).unwrap()));
    assert!(!contains(&fs::read(proc.join("environ")).unwrap()));
    assert_eq!(server.stop(), Some(0));
    assert!(!contains(server.stderr().as_bytes()) && !contains(server.stdout().as_bytes()));
    for file in fs::read_dir(house.folder.path()).unwrap() {
        let path = file.unwrap().path();
        assert!(path.ends_with("password") || !contains(&fs::read(&path).unwrap()), "{path:?}");
    }
    // Nor in what the commands say of it.
    for text in [format!("{PASSWORD}\n{PASSWORD}"), format!("{PASSWORD}\u{7}"), PASSWORD.repeat(99)]
    {
        fs::write(house.path("password"), text).unwrap();
        let (code, stdout, stderr) = house.try_user(&["add", "eve"], true);
        assert_eq!(code, Some(65));
        assert!(!contains(stdout.as_bytes()) && !contains(stderr.as_bytes()), "{stderr}");
    }
}

fn contains(bytes: &[u8]) -> bool {
    bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes())
}

//! The socket by which a reload is asked for.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;

use crate::support::ending::{assert_refused, ends, with_args};
use crate::support::traffic::{Peer, echo};
use crate::support::{Server, command};

#[test]
fn the_control_socket_is_for_its_user_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let mut usual = command();
    usual.env("RUNTIME_DIRECTORY", folder.path()).args(["--listen", "tcp://127.0.0.1:0"]);
    let mut server = Server::start_command(usual, 1);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut reload = command();
    reload.env("RUNTIME_DIRECTORY", folder.path()).args(["ctl", "reload"]);
    assert_eq!(ends(reload).0, Some(0));

    // As many as may ask at once, and none of them does; a question that there is not.
    let uri = format!("unix:{}", socket.display());
    let idle: Vec<_> = (0..4).map(|_| Peer::connect(&uri)).collect();
    let wordy = Peer::connect(&uri);
    wordy.send(&echo(b"nonsense"));
    let answer = wordy.read_frame().unwrap().payload;
    assert!(answer[0] == 1 && answer.ends_with(b"does not know the question"), "{answer:?}");
    drop(idle);
    drop(wordy);
    assert_eq!(server.stop(), Some(0));
    assert!(!socket.exists());

    let path = socket.to_str().unwrap();
    assert_refused(
        with_args(&["ctl", "reload", "--control", path]),
        1,
        "no answer from the server",
    );
    assert_refused(with_args(&["ctl", "reload"]), 64, "--control PATH");
    assert_refused(with_args(&["ctl"]), 64, "requires a subcommand");
    // One that echoes, and one that closes.
    let other = folder.path().join("echo");
    let echoing = Server::start(&["--listen", &format!("unix:{}", other.display())]);
    let args = ["ctl", "reload", "--control", other.to_str().unwrap()];
    assert_refused(with_args(&args), 1, "this is no control socket");
    drop(echoing);
    let _ = fs::remove_file(&other);
    let closing = UnixListener::bind(&other).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut question = [0; 10];
            closing.accept().unwrap().0.read_exact(&mut question).unwrap();
        });
        assert_refused(with_args(&args), 1, "this is no control socket");
    });
    let missing = folder.path().join("no/such/folder");
    let args = ["--listen", "tcp://127.0.0.1:0", "--control", missing.to_str().unwrap()];
    assert_refused(with_args(&args), 69, "no such directory");
}

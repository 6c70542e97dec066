//! How long a server is tried: for `--retry` without progress, and not in silence.

use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use echo_core::{PutReply, Read};
use socket2::{Domain, SockAddr, Socket, Type};

use super::liars::{HELLO_REPLY, frame, liar, missing, opened};
use super::support::pty::Pty;
use super::*;

/// Runs a client that has to end by itself, long before this does it.
fn ended(place: &Place, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("timeout")
        .args(["30", env!("CARGO_BIN_EXE_echo-client")])
        .args(args)
        .current_dir(place.path("here"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// All bytes come, and then the server fails or has no place: that is no progress from the second time on.
#[test]
fn a_server_that_fails_at_the_end_is_given_up() {
    let busy = || frame(Kind::ERROR, b"\0\x04\0too much to do");
    let bytes = vec![b'x'; 200_000];
    for at_the_end in [None, busy()] {
        for task in ["put", "get"] {
            let place = Place::new();
            place.write("here/a", &bytes);
            let (last, come, size) = (at_the_end.clone(), AtomicU64::new(0), bytes.len() as u64);
            let target = liar(move |kind, payload| match kind {
                Kind::PUT => {
                    come.store(0, Relaxed);
                    let mut reply = Vec::new();
                    PutReply { offset: 0, prefix: Sha256::digest(b"").into() }.put(&mut reply);
                    frame(Kind::PUT, &reply)
                }
                Kind::DATA => {
                    let len = payload.len() as u64;
                    frame(Kind::DATA, &(come.fetch_add(len, Relaxed) + len).to_be_bytes())
                }
                Kind::GET => opened(size, 0),
                Kind::READ => {
                    let Read { len } = Read::parse(payload).unwrap();
                    frame(Kind::DATA, &vec![b'x'; len as usize])
                }
                Kind::COMMIT | Kind::DONE => last.clone(),
                _ => None,
            });
            let (code, told) = ended(&place, &[task, &target, "a", "--retry=500ms"]);
            assert_eq!(code, Some(1), "{task}: {told}");
        }
    }
}

/// Who waits is told why, at once and one time, and then is served.
#[test]
fn a_server_that_is_not_there_yet_is_told_and_waited_for() {
    for (task, arg) in [("put", "a"), ("get", "a"), ("ls", "a"), ("rm", "a")] {
        for json in [false, true] {
            let place = Place::new();
            place.write("here/a", b"1");
            place.write("store/a", b"1");
            let mut command = place.command(task, &[arg, "--retry=1m"]);
            command.args(json.then_some("--json"));
            let mut client = command.spawn().unwrap();
            let mut stdout = BufReader::new(client.stdout.take().unwrap());
            let mut stderr = BufReader::new(client.stderr.take().unwrap());
            let mut line = String::new();
            match json {
                true => stdout.read_line(&mut line).unwrap(),
                false => stderr.read_line(&mut line).unwrap(),
            };
            let told =
                format!("refused: {}: No such file or directory; trying for 60s", place.target());
            let expected = match json {
                true => serde_json::json!({ "event": "retrying", "error": told }).to_string(),
                false => format!("echo-client: {told}"),
            };
            assert_eq!(line.trim_end(), expected, "{task}");
            let _daemon = place.serve();
            assert_eq!(client.wait().unwrap().code(), Some(0), "{task}");
            let (mut out, mut err) = (String::new(), String::new());
            stdout.read_to_string(&mut out).unwrap();
            stderr.read_to_string(&mut err).unwrap();
            assert_eq!((&err[..], out.contains("retrying")), ("", false), "{task}");
        }
    }
}

/// Also after a loss; not for who wants silence, and not where nothing is tried again.
#[test]
fn each_outage_is_told_one_time() {
    let place = Place::new();
    place.write("here/d/a", b"1");
    place.write("here/d/b", b"1");
    let (target, _held) = closed_port();
    let refused = format!("refused: {target}: Connection refused (is it running?)");
    let given_up = format!("echo-client: {refused}\n");
    for task in ["put", "get", "ls", "rm"] {
        let both = format!("echo-client: {refused}; trying for 300ms\n{given_up}");
        for (args, told) in [
            (&["--retry=300ms"][..], &both),
            (&["--retry=300ms", "-q"], &given_up),
            (&["--retry=0"], &given_up),
        ] {
            let args = [&[task, &target, "d"], args].concat();
            assert_eq!(ended(&place, &args), (Some(1), told.clone()), "{args:?}");
        }
    }
    // One that goes in the middle of a file, after a time in which nothing has come: what is left is told.
    let (target, held) = closed_port();
    let listener = port_of(&held.local_addr().unwrap());
    listener.listen(1).unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let mut hello = [0; 10];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(HELLO_REPLY).unwrap();
        // A PUT, and no more.
        stream.read_exact(&mut hello[..4]).unwrap();
        thread::sleep(Duration::from_millis(1700)); // How slow it is.
    });
    let (code, told) = ended(&place, &["put", &target, "d", "--retry=3s", "--connections=1"]);
    serving.join().unwrap();
    let told: Vec<_> = told.lines().collect();
    assert_eq!((code, told.len()), (Some(1), 3), "{told:?}");
    assert!(told[0].ends_with("; going on") && told[1].ends_with("; trying for 1s"), "{told:?}");
}

/// A socket of that port, which others that say the same may share until one listens.
fn port_of(address: &SockAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// A port that is nobody else's while the socket lives: it is bound, and does not listen.
fn closed_port() -> (String, Socket) {
    let socket = port_of(&SocketAddr::from(([127, 0, 0, 1], 0)).into());
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (address.to_string(), socket)
}

/// A bar that is full says that all is done.
#[test]
fn nothing_known_is_no_full_bar() {
    let place = Place::new();
    let target = place.target();
    let part = place.path("here/got").display().to_string();
    for args in [&["ls", &target][..], &["rm", &target, "a"], &["get", &target, "a", "-o", &part]] {
        let mut pty = Pty::start(&[args, &["--retry=1m"]].concat());
        pty.expect("trying for 60s");
        pty.press(support::pty::CTRL_C);
        assert_eq!(pty.end(), Some(130));
        let shown = String::from_utf8_lossy(&pty.raw).into_owned();
        assert!(!shown.contains(" B of ") && !shown.contains('%'), "{shown}");
    }
    // Of stdin nobody knows how long it is.
    let answer = |kind, _: &[u8]| match kind {
        Kind::PUT => {
            let mut reply = Vec::new();
            PutReply { offset: 0, prefix: Sha256::digest(b"").into() }.put(&mut reply);
            frame(Kind::PUT, &reply)
        }
        _ => missing(),
    };
    let target = liar(answer);
    let mut pty = Pty::start(&["put", &target, "-", "--as", "a"]);
    pty.press("12345\n");
    pty.wait("that something went out", |pty| pty.count("/s") > 0);
    pty.press(support::pty::CTRL_C);
    assert_eq!(pty.end(), Some(130));
    let shown = String::from_utf8_lossy(&pty.raw).into_owned();
    assert!(shown.contains("6 B") && !shown.contains('%'), "{shown}");
}

/// Lines on stdout stand on their own, where stderr with the bar is the same terminal.
#[test]
fn lines_stand_above_the_bar() {
    let place = Place::new();
    let _daemon = place.serve();
    let bytes = noise(32 << 20);
    place.write("here/a", &bytes);
    let path = place.path("here/a").display().to_string();
    let mut pty = Pty::start(&["put", &place.target(), &path]);
    assert_eq!(pty.end(), Some(0));
    let shown = String::from_utf8_lossy(&pty.raw).into_owned();
    assert!(shown.contains("32.00 MiB"), "there was no bar: {shown}");
    let (before, _) = shown.split_once(&sum(&bytes)).unwrap();
    let before = before.trim_end_matches('\r');
    assert!(before.ends_with('\n') || before.ends_with("\x1b[2K"), "{before:?}");
}

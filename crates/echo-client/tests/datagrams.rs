//! Datagrams: `send`, the pipe and the REPL, with our server and other people's.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::net::UdpSocket;

use support::daemon::Daemon;
use support::datagrams::lossy;
use support::peer::Peer;
use support::pty::Pty;
use support::*;

/// Our server on a socket of each kind, in a folder of its own.
fn daemons() -> (tempfile::TempDir, [Daemon; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unixgram:{}", folder.path().join("socket").display());
    (folder, [Daemon::start(&["--listen=udp://127.0.0.1:0"]), Daemon::start(&["--listen", &unix])])
}

#[test]
fn each_message_is_a_datagram() {
    let (folder, daemons) = daemons();
    for daemon in &daemons {
        let ended = pipe(&["send", &daemon.target, "one", "", "two words"], b"");
        ended.copied(b"one\n\ntwo words\n");
        let ended = pipe(&["send", "--stdin-lines", "--hex", &daemon.target], b"00ff\n\n");
        ended.copied(b"00 ff\n\n");
        let ended = pipe(&["send", "--probe", "--json", &daemon.target, "hello"], b"");
        let line: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!((&line["reply"], ended.code), (&"hello".into(), Some(0)));
        assert!(line["server_ns"].as_u64() < line["round_trip_ns"].as_u64(), "{line}");
    }
    // Nothing is left of this side's names.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn lengths_have_a_limit_that_is_told() {
    let (folder, [udp, unix]) = daemons();
    let file = folder.path().join("file");
    let send = |target: &str, len: usize, probe: bool| {
        fs::write(&file, noise(len)).unwrap();
        let args = ["send", target, "--file", file.to_str().unwrap(), "--probe"];
        pipe(&args[..if probe { 5 } else { 4 }], b"")
    };
    for (len, probe) in [(0, false), (65_507, false), (65_471, true)] {
        let ended = send(&udp.target, len, probe);
        ended.copied(&[noise(len), b"\n".to_vec()].concat());
    }
    let place = file.display();
    let told = |len, max| {
        format!("too long: {place}: {len} bytes are over the {max} that fit into a datagram\n")
    };
    for (len, max, probe) in [(65_508, 65_507, false), (65_472, 65_471, true)] {
        let ended = send(&udp.target, len, probe);
        ended.failed(&told(len, max));
        assert_eq!(ended.stdout, b"");
    }
    // A Unix socket's limit is the host's.
    let ended = send(&unix.target, 4 << 20, false);
    ended.failed(&format!("too long: {place}: 4194304 bytes are more than this host sends"));
}

#[test]
fn nobody_there_is_told() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let closed = format!("udp://{}", socket.local_addr().unwrap());
    drop(socket);
    for args in [&["send", &closed, "hello"][..], &[&closed]] {
        pipe(args, b"hello").failed("refused: 127.0.0.1:");
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = format!("unixgram:{}", folder.path().join("socket").display());
    for args in [&["send", &missing, "hello"][..], &[&missing]] {
        pipe(args, b"hello").failed("refused: unixgram:");
    }
    pipe(&["udp://no.such.name.invalid:7"], b"").failed("unresolved: ");
}

#[test]
fn families_and_source_are_honoured() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let mut buffer = [0; 100];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..len], from).unwrap();
        from.ip().to_string()
    });
    let target = format!("udp://localhost:{port}");
    let ended = pipe(&["send", "-4", "--source=127.0.0.7", &target, "from?"], b"");
    ended.copied(b"from?\n");
    assert_eq!(serving.join().unwrap(), "127.0.0.7");
    pipe(&["send", "-6", "udp://127.0.0.1:7", "x"], b"").misused("127.0.0.1 is an IPv4 address");
    pipe(&["-4", "unixgram:x"], b"").misused("are for TCP and UDP targets");
    pipe(&["--retry=1s", "udp://127.0.0.1:7"], b"").misused("--retry is for connections");
    pipe(&["--message-size=9", "127.0.0.1:7"], b"").misused("--message-size is for datagrams");
    let mut pty = Pty::start(&["--message-size=9", "udp://127.0.0.1:7"]);
    pty.expect("--message-size is for the pipe");
    assert_eq!(pty.end(), Some(64));
    pipe(&["--message-size=65472", "udp://127.0.0.1:7"], b"").misused("from 1 to 65471");
    pipe(&["udp://127.0.0.1:7?rate=1"], b"").misused("rate is for servers");
    pipe(&["udp://127.0.0.1:0"], b"").misused("port 0");
}

#[test]
fn the_pipe_copies() {
    let (_folder, daemons) = daemons();
    for daemon in &daemons {
        for len in [0, 1, 1400, 1401, 1 << 20] {
            pipe(&[&daemon.target], &noise(len)).copied(&noise(len));
        }
        // Pieces that are equal are told apart.
        pipe(&[&daemon.target], &[0; 200_000]).copied(&[0; 200_000]);
        pipe(&["--message-size=65471", &daemon.target], &noise(300_000)).copied(&noise(300_000));
        pipe(&["--message-size=1", &daemon.target], b"letters").copied(b"letters");
        let raw = format!("{}?mode=raw", daemon.target);
        pipe(&[&raw], &noise(50_000)).copied(&noise(50_000));
    }
}

/// More than a source may have at once, at the rate that servers grant by default.
#[test]
fn the_pipe_keeps_below_the_rate_of_servers() {
    let daemon = Daemon::start(&["--listen=udp://127.0.0.1:0"]);
    let args = ["--verify", "--json", "--message-size=100", &daemon.target];
    let ended = pipe(&args, &noise(1_200_000));
    assert_eq!((ended.code, &ended.stderr[..]), (Some(0), ""));
    let line: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(line["bytes"], 1_200_000);
    assert!(line["datagrams"]["answered"].as_u64().unwrap() >= 12_000, "{line}");
    assert_eq!(line["datagrams"]["lost"], 0);
}

/// Asks until a server has come up that only its answers tell of.
fn wait_for(target: &str) {
    let ask = || pipe(&["send", "-q", "--timeout=1s", target, "there?"], b"").code;
    let began = tokio::time::Instant::now();
    while ask() != Some(0) {
        assert!(began.elapsed() < LIMIT, "{target} does not come up");
    }
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.79:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn copies_through_socat() {
    if !has("copies_through_socat", "socat", "-V") {
        return;
    }
    let port = free_port();
    let listen = format!("UDP-LISTEN:{port},bind=127.0.0.79,fork,reuseaddr");
    let _socat = Peer::start("socat", &[&listen, "PIPE"]);
    // The first datagram of each peer waits for a process of its own.
    let target = format!("udp://127.0.0.79:{port}");
    wait_for(&target);
    pipe(&["send", &target, "one", "two"], b"").copied(b"one\ntwo\n");
    pipe(&[&format!("{target}?mode=raw")], &noise(20_000)).copied(&noise(20_000));
    let ended = pipe(&["send", "--probe", "--json", &target, "hello"], b"");
    let line: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&line["reply"], &line["server_ns"]), (&"hello".into(), &().into()));
}

/// It discards what has queued up while it answers one, and cuts at 2,048 bytes.
#[test]
fn tells_what_xinetd_loses_and_cuts() {
    if !has("tells_what_xinetd_loses_and_cuts", "xinetd", "-version") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _xinetd = Peer::xinetd(&format!(
        " id = echo-dgram\n socket_type = dgram\n protocol = udp\n port = {port}\n \
         bind = 127.0.0.79\n wait = yes\n cps = 100000 1\n"
    ));
    let target = format!("udp://127.0.0.79:{port}");
    wait_for(&target);
    let input = noise(20 * 1400);
    let ended = pipe(&["--timeout=1s", &target], &input);
    let missing = input.len() / 1400 - ended.stdout.len() / 1400;
    if missing > 0 {
        ended.failed(&format!("lost: {missing} of 20 datagrams had no reply within 1s\n"));
    }
    let mut pieces = input.chunks(1400);
    assert!(ended.stdout.chunks(1400).all(|came| pieces.any(|piece| piece == came)), "in order");
    let file = folder.path().join("file");
    fs::write(&file, noise(3000)).unwrap();
    let args = ["send", "-q", "--timeout=1s", &target, "--file", file.to_str().unwrap()];
    let ended = loop {
        let ended = pipe(&args, b"");
        if !ended.stderr.contains("lost: ") {
            break ended;
        }
    };
    ended.failed("different at byte 2048: the reply is cut to 2048 of 3000 bytes");
}

#[test]
fn the_repl_speaks_datagrams() {
    let (_folder, [udp, unix]) = daemons();
    let mut pty = Pty::start(&[&udp.target]);
    pty.expect("datagrams to 127.0.0.1:");
    pty.expect("may be lost, doubled or overtaken");
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    pty.enter(":hex");
    pty.expect("write :hex DIGITS");
    pty.enter(":probe");
    pty.expect("round trip ");
    pty.expect(" + server ");
    pty.enter(":repeat 3 again");
    pty.expect("3 sent, 3 answered, 0 lost");
    pty.enter(&format!(":connect {}", unix.target));
    pty.expect("datagrams, of up to ");
    pty.enter("unix");
    pty.expect("unix  (4 bytes, ");
    unix.stop();
    pty.enter("gone");
    pty.expect("refused: ");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

/// A watch beside a server that is away has a line for each message, not two.
#[test]
fn another_socket_is_not_worth_a_line() {
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut pty = Pty::start(&[&format!("udp://{closed}")]);
    for number in 1..=3 {
        pty.enter(&format!("message {number}"));
        pty.wait("a refusal", |pty| pty.contents().matches("refused: ").count() == number);
    }
    let told = pty.contents().matches("datagrams to 127.0.0.1:").count();
    assert_eq!(told, 1, "{}", pty.contents());
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

#[test]
fn the_repl_counts_what_is_lost() {
    let server = lossy(|_, came| came.ends_with(b"void"));
    let mut pty = Pty::start(&["--timeout=1s", &server.target]);
    pty.enter("hello");
    pty.expect("hello  (5 bytes, ");
    pty.enter("void");
    pty.expect("lost: no reply to 4 bytes within 1s");
    pty.enter(":repeat 2");
    pty.expect("2 sent, 0 answered, 2 lost (100.000 %)");
    pty.enter("on");
    pty.expect("on  (2 bytes, ");
    pty.enter(":probe");
    pty.expect("the server tells no times");
    pty.enter(":stats");
    pty.expect("6 sent, 3 answered, 3 lost (50.000 %)");
    pty.enter(":quit");
    assert_eq!(pty.end(), Some(0));
}

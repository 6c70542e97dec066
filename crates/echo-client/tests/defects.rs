//! What goes wrong, how it is told, and that nothing hangs on it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::mpsc::channel;

use socket2::{Domain, SockRef, Socket, Type};
use support::*;

/// A port of this host on which nobody listens for as long as the socket lives.
fn taken_port() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    (socket, addr)
}

/// Reads on until the client ends the connection.
fn linger(mut stream: TcpStream) {
    while let Ok(1..) = stream.read(&mut [0; 4096]) {}
}

/// Keeps the connection open, deaf and dumb, for as long as the tests run.
fn hold(_stream: TcpStream) {
    loop {
        std::thread::park();
    }
}

fn raw(script: impl FnOnce(TcpStream) + Send + 'static) -> String {
    format!("raw://{}", serve(script))
}

#[test]
fn names_a_refused_connection() {
    let (_socket, addr) = taken_port();
    // Stdin stays open: a client without a server must not wait for it.
    let ended = pipe_open(&[&addr], b"hello");
    ended.failed(&format!("refused: {addr}: "));
    assert!(ended.stdout.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:{}", folder.path().join("none").display());
    pipe_open(&[&nowhere], b"").failed(&format!("refused: {nowhere}: "));
}

#[test]
fn names_an_unresolved_name() {
    // The resolver may take its time to find out that there is no network.
    pipe_open(&["--connect-timeout", "5m", "host.invalid"], b"").failed("unresolved: ");
}

#[test]
fn names_an_address_without_a_way() {
    pipe_open(&["--source", "192.0.2.1", "127.0.0.1"], b"").failed("unreachable: ");
}

/// A full backlog answers no one: over TCP the kernel drops, on a Unix path it asks to come again.
#[test]
fn names_a_connection_that_takes_too_long() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(addr).unwrap();
    pipe_open(&["--connect-timeout", "300ms", &addr.to_string()], b"").failed("timed out: ");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let target = format!("unix:{}", path.display());
    pipe_open(&["--connect-timeout", "300ms", &target], b"").failed("timed out: ");
}

#[test]
fn retries_until_somebody_listens() {
    let (socket, addr) = taken_port();
    let client = Client::start(&["--retry", "2m", &addr], all(b"hello"), read_all);
    let notice = client.stderr.recv_timeout(LIMIT).unwrap();
    assert!(notice.starts_with("echo-client: refused: ") && notice.contains("trying"), "{notice}");
    socket.listen(1).unwrap();
    framed_echo(TcpStream::from(std::os::fd::OwnedFd::from(socket.accept().unwrap().0)), 100);
    let (ended, stdout) = client.end();
    Ended { stdout, ..ended }.copied(b"hello");

    let (_socket, addr) = taken_port();
    pipe_open(&["-q", "--retry", "300ms", &addr], b"").failed("refused: ");
}

#[test]
fn connects_from_the_source_address() {
    let (from, source) = channel();
    let target = serve(move |stream| {
        from.send(stream.peer_addr().unwrap().ip().to_string()).unwrap();
        framed_echo(stream, 100);
    });
    pipe(&["-4", "--source", "127.0.0.2", &target], b"hello").copied(b"hello");
    assert_eq!(source.recv().unwrap(), "127.0.0.2");
}

#[test]
fn names_a_server_that_does_not_answer_hello() {
    let silent = serve(linger);
    let ended = pipe_open(&["--timeout", "300ms", &silent], b"hello");
    ended.failed("timed out: no answer to HELLO within 300ms");
    let closing = serve(|mut stream| {
        stream.read_exact(&mut [0; 10]).unwrap();
    });
    let ended = pipe_open(&[&closing], b"hello");
    ended.failed("closed early: the server ended the stream before it answered HELLO");
    let greeting = serve(|mut stream| {
        stream.write_all(b"SSH-2.0-x\x1b[2J\r\n").unwrap();
        linger(stream);
    });
    let ended = pipe_open(&[&greeting], b"hello");
    ended.failed("different at byte 0: the server answered HELLO with \"SSH-2.0-x\\x1b[2J\\r\\n\"");
    // Its bytes come one at a time, for ever: the deadline is one for all of them.
    let trickle = serve(|mut stream| {
        let _ = stream.write_all(b"\x80\0\x0f\xff\0\x01");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    pipe_open(&["--timeout", "300ms", &trickle], b"hello").failed("timed out: no answer to HELLO");
}

/// The server ends before it has answered all; the producer is still there, or is not.
#[test]
fn names_an_early_end() {
    fn script(mut stream: TcpStream) {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        linger(stream);
    }
    let ended = pipe(&[&raw(script)], b"hello world");
    ended.failed("closed early: the server ended the stream: 6 bytes unanswered");
    assert_eq!(ended.stdout, b"hello");
    let ended = pipe_open(&[&raw(script)], b"hello");
    ended.failed("closed early: the server ended the stream while stdin was open, all 5 bytes");
    assert_eq!(ended.stdout, b"hello");
}

/// Fault 6: a reset, after some answers and before the first.
#[test]
fn names_a_reset() {
    for answered in [0, 5] {
        let ended = pipe_open(
            &[&raw(move |mut stream| {
                let mut bytes = [0; 11];
                stream.read_exact(&mut bytes).unwrap();
                stream.write_all(&bytes[..answered]).unwrap();
                SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            })],
            b"hello world",
        );
        ended.failed("closed early: Connection reset by peer: ");
        assert!(b"hello".starts_with(&ended.stdout), "{:?}", ended.stdout);
    }
}

#[test]
fn names_the_first_different_byte() {
    let input = noise(200_000);
    for at in [0, 1, 65_535, 65_536, 131_072, 199_999] {
        // Raw: the byte at this place of the stream. Framed: of the payload, over all frames.
        let target = raw(move |stream| {
            let mut all = Vec::new();
            (&stream).read_to_end(&mut all).unwrap();
            all[at] ^= 1;
            (&stream).write_all(&all).unwrap();
        });
        let ended = pipe(&[&target], &input);
        ended.failed(&format!("different at byte {at}: "));
        assert!(ended.stdout == input[..at], "{} bytes", ended.stdout.len());

        let target = serve(move |mut stream| {
            greet(&mut stream, 1 << 20);
            let mut payload = 0;
            loop {
                let mut frame = read_frame(&mut stream, 1 << 20);
                if frame.is_empty() {
                    return;
                }
                let len = frame.len() - 4;
                if (payload..payload + len).contains(&at) {
                    frame[4 + at - payload] ^= 1;
                }
                payload += len;
                if stream.write_all(&frame).is_err() {
                    return;
                }
            }
        });
        let ended = pipe(&[&target], &input);
        ended.failed(&format!("different at byte {at}: "));
        assert!(ended.stdout == input[..at], "{} bytes", ended.stdout.len());
    }
}

/// The first defect is the one that counts: what follows a difference is not looked at.
#[test]
fn names_bytes_that_nobody_asked_for() {
    let ended = pipe_open(
        &[&raw(|mut stream| {
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(b"hello, I am a talker").unwrap();
            linger(stream);
        })],
        b"hello",
    );
    ended.failed("different at byte 5: ");
    assert_eq!(ended.stdout, b"hello");
    let unasked = raw(|mut stream| {
        stream.write_all(b"welcome").unwrap();
        linger(stream);
    });
    pipe_open(&[&unasked], b"").failed("different at byte 0: ");
}

/// Fault 9 from the other side: a server that reads nothing, and one that answers nothing.
#[test]
fn names_a_silent_server() {
    let ended = pipe(&["--timeout", "500ms", &raw(hold)], &noise(32 << 20));
    ended.failed("timed out: nothing came for 500ms: ");
    let ended = pipe_open(&["--timeout", "500ms", &raw(linger)], b"hello");
    ended.failed("timed out: nothing came for 500ms: 5 bytes unanswered");
    // All is answered, but the server does not end its side.
    let endless = raw(|mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        hold(stream);
    });
    let ended = pipe(&["--timeout", "5s", &endless], b"hello");
    ended.failed("timed out: the server did not end the stream for 5s, all 5 bytes answered");
    assert_eq!(ended.stdout, b"hello");
}

/// GOAWAY, draining, after two frames: HELLO and one ECHO.
const GOAWAY: &[u8] = b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\x02";

/// A server that drains says how many frames it has answered.
#[test]
fn names_a_drain() {
    let target = serve(|mut stream| {
        greet(&mut stream, 4);
        let frame = read_frame(&mut stream, 4);
        stream.write_all(&frame).unwrap();
        stream.write_all(GOAWAY).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        linger(stream);
    });
    let ended = pipe(&[&target], b"abcdefghij");
    ended.failed("closed early: the server drains: 1 of 3 frames answered\n");
    assert_eq!(ended.stdout, b"abcd");
    // Stdin had more to come.
    let target = serve(|mut stream| {
        greet(&mut stream, 4);
        let frame = read_frame(&mut stream, 4);
        stream.write_all(&frame).unwrap();
        stream.write_all(GOAWAY).unwrap();
        linger(stream);
    });
    let told = "closed early: the server drains: 1 of 1 frames answered, stdin was still open\n";
    pipe_open(&[&target], b"abcd").failed(told);
    // Nothing is missing when all had been answered and stdin had ended.
    let target = serve(|mut stream| {
        greet(&mut stream, 4);
        let frame = read_frame(&mut stream, 4);
        assert!(read_frame(&mut stream, 4).is_empty());
        stream.write_all(&frame).unwrap();
        stream.write_all(GOAWAY).unwrap();
    });
    pipe(&[&target], b"abcd").copied(b"abcd");
}

/// All was answered, but the server's count says otherwise.
#[test]
fn names_a_goaway_that_miscounts() {
    for counted in [1, 99] {
        let target = serve(move |mut stream| {
            greet(&mut stream, 4);
            let frame = read_frame(&mut stream, 4);
            assert!(read_frame(&mut stream, 4).is_empty());
            stream.write_all(&frame).unwrap();
            stream.write_all(&[&GOAWAY[..GOAWAY.len() - 1], &[counted]].concat()).unwrap();
        });
        let ended = pipe(&[&target], b"abcd");
        ended.failed(&format!(
            "different at byte 4: the server drains: 1 of 1 frames answered, \
             but it counts {counted} with our HELLO\n"
        ));
        assert_eq!(ended.stdout, b"abcd");
    }
}

#[test]
fn shows_what_an_error_frame_says() {
    let target = serve(|mut stream| {
        greet(&mut stream, 1 << 20);
        read_frame(&mut stream, 1 << 20);
        let text = "too big \x1b[31m\u{202e}";
        let mut frame = vec![0x82, 0, 0, 3 + text.len() as u8, 0, 1, 0];
        frame.extend_from_slice(text.as_bytes());
        stream.write_all(&frame).unwrap();
        linger(stream);
    });
    let ended = pipe_open(&[&target], b"hello");
    ended.failed("refused: the server says: too big \\u{1b}[31m\\u{202e} (error 1, too long)\n");
}

#[test]
fn ctrl_c_ends_at_once() {
    let (accepted, connected) = channel();
    let target = raw(move |stream| {
        accepted.send(()).unwrap();
        linger(stream);
    });
    let client = Client::start(&[&target], open(b"hello"), read_all);
    connected.recv_timeout(LIMIT).unwrap();
    client.interrupt();
    let (ended, _) = client.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(130), ""));
}

#[test]
fn names_a_wrong_command_line() {
    for (args, told) in [
        (&["--timeout", "30", "x"][..], "write a whole number with its unit"),
        (&["--timeout", "0", "x"], "more than 0"),
        (&["--connect-timeout", "x", "x"], "write a whole number with its unit"),
        (&["--retry", "-1s", "x"], "'-1'"),
        (&["--no-such-flag"], "'--no-such-flag'"),
        (&["-4", "-6", "x"], "-4 and -6 exclude each other"),
        (&["-4", "unix:/x"], "are for TCP and UDP targets"),
        (&["-4", "--source", "::1", "x"], "--source is an IPv6 address, not IPv4"),
        (&["-6", "127.0.0.1"], "127.0.0.1 is an IPv4 address, and -4 or -6 asks for IPv6"),
        (&["-4", "raw://[::1]:7"], "::1 is an IPv6 address, and -4 or -6 asks for IPv4"),
        (&["--source", "::1", "127.0.0.1"], "an IPv4 address, and --source asks for IPv6"),
        (&["--source", "127.0.0.1", "fe80::1%lo"], "an IPv6 address, and --source asks for IPv4"),
        (&["--source", "lo", "x"], "write an IPv4 or IPv6 address"),
        (&[""], "no host"),
        (&["tcp://"], "no host"),
        (&["x:0"], "from 1 to 65535"),
        (&["unix:/x?perm=0600"], "perm is for servers"),
        (&["tcp://x:1?rate=1"], "rate"),
        (&["one", "two"], "'two'"),
        (&["--json", "x"], "--json goes with --verify"),
        (&["completions", "tcsh"], "bash, zsh, fish"),
        (&["-q", "completions", "bash"], "for what connects"),
        (&["man", "-q"], "'-q'"),
        (&["man", "nonsense"], "no such command"),
    ] {
        pipe_open(args, b"").misused(told);
    }
    for wish in ["--help", "-h", "--version"] {
        let ended = pipe_open(&[wish], b"");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(!ended.stdout.is_empty());
    }
}

/// A full disk is a failure of ours, not of the server's.
#[test]
fn names_a_stdout_that_takes_nothing() {
    let target = serve(|stream| framed_echo(stream, 100));
    let copy = format!("echo hello | \"$0\" {target}");
    for line in [&*copy, "\"$0\" man", "\"$0\" --help", "\"$0\" send -h", "\"$0\" --version"] {
        let client = Command::new("sh")
            .args(["-c", &format!("{line} > /dev/full"), env!("CARGO_BIN_EXE_echo-client")])
            .output()
            .unwrap();
        assert_eq!(client.status.code(), Some(1), "{line}");
        let stderr = String::from_utf8(client.stderr).unwrap();
        assert_eq!(stderr, "echo-client: cannot write to stdout: No space left on device\n");
    }
}

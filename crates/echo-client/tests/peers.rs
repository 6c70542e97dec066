//! The pipe through other people's RFC 862 servers.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::TcpListener;

use support::peer::Peer;
use support::*;

/// A port that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.78:0").unwrap().local_addr().unwrap().port()
}

#[track_caller]
fn copies(target: &str) {
    for size in [0, 1, 65_535, 65_536, 65_537, 5 << 20] {
        let ended = pipe(&["--retry", "60s", "-q", target], &noise(size));
        ended.copied(&noise(size));
    }
}

/// socat on a Unix socket and on TCP, and our `--retry` to wait for it.
#[test]
fn copies_through_socat() {
    if !has("copies_through_socat", "socat", "-V") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let port = free_port();
    for (listen, target) in [
        (
            format!("UNIX-LISTEN:{},fork", path.display()),
            format!("unix:{}?mode=raw", path.display()),
        ),
        (
            format!("TCP-LISTEN:{port},bind=127.0.0.78,fork,reuseaddr"),
            format!("raw://127.0.0.78:{port}"),
        ),
    ] {
        let _socat = Peer::start("socat", &[&listen, "EXEC:cat"]);
        copies(&target);
    }
}

/// xinetd's built-in echo. It knows no HELLO, and gives it back.
#[test]
fn copies_through_xinetd() {
    if !has("copies_through_xinetd", "xinetd", "-version") {
        return;
    }
    let port = free_port();
    let _xinetd = Peer::xinetd(&format!(
        " id = echo-stream\n socket_type = stream\n protocol = tcp\n port = {port}\n \
         bind = 127.0.0.78\n wait = no\n"
    ));
    copies(&format!("raw://127.0.0.78:{port}"));
    copies(&format!("tcp://127.0.0.78:{port}"));
    let ended = pipe(&[&format!("tcp://127.0.0.78:{port}")], b"hello");
    assert_eq!((ended.code, &ended.stdout[..]), (Some(0), &b"hello"[..]));
    let told = "echo-client: the server echoes HELLO itself (RFC 862): going on raw\n";
    assert_eq!(ended.stderr, told);
}

//! Paths on which nobody answers, in networks of the test's own: what is sent there is swallowed, and
//! nothing goes anywhere else.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "what is skipped is said on stdout")]
#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]

mod support;

use std::env;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use echo_core::Mode;
use support::server::Server;
use support::*;

/// Says to the process that it runs in a network of its own.
const INSIDE: &str = "ECHO_CLIENT_TEST_NETWORK";

/// Whether this process has a network of its own, with a card that swallows all that is sent to
/// 192.0.2.1 and 2001:db8::1, and mounts of its own. If not, the test is run again in a process
/// that has them, and fails if it fails there.
fn is_own(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        for command in [
            "ip link set lo up",
            // A cable whose other end takes nothing: what comes there is for another card.
            "ip link add hole type veth peer name bottom",
            "ip address add 192.0.2.2/24 dev hole",
            "ip address add 2001:db8::2/64 dev hole nodad",
            "ip link set hole up",
            "ip link set bottom up",
            "ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev hole",
            "ip neighbour add 2001:db8::1 lladdr 02:00:00:00:00:01 dev hole",
        ] {
            run(command);
        }
        // Before the cable carries, its addresses do not count.
        let began = Instant::now();
        while !run("ip -brief link show hole").contains(" UP ") {
            assert!(began.elapsed() < LIMIT, "the cable does not carry");
            thread::sleep(Duration::from_millis(5));
        }
        return true;
    }
    let unshare = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount"]).args(args);
        command
    };
    let probe = unshare(&["ip", "link", "add", "hole", "type", "veth"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "{test} needs a network of its own");
        println!("SKIPPED {test}: root and network namespaces (unshare, ip) are missing");
        return false;
    }
    let program = env::current_exe().unwrap();
    let status = unshare(&[program.to_str().unwrap(), "--exact", test, "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in a network of its own");
    false
}

/// Runs a command, which must go well, and gives its output.
fn run(command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Gives a name these addresses, in the eyes of this process and its children.
fn name(name: &str, addresses: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    let lines: String = addresses.iter().map(|address| format!("{address} {name}\n")).collect();
    fs::write(&path, lines).unwrap();
    run(&format!("mount --bind {} /etc/hosts", path.display()));
}

/// Nobody answers: the client gives up when it said that it would, be it in the REPL's words or a
/// script's.
#[test]
fn a_black_hole_is_given_up_in_time() {
    if !is_own("a_black_hole_is_given_up_in_time") {
        return;
    }
    for target in ["192.0.2.1", "[2001:db8::1]:7777"] {
        let began = Instant::now();
        let ended = pipe_open(&["--connect-timeout", "700ms", target], b"hello");
        let took = began.elapsed();
        ended.failed("timed out: tcp://");
        assert!(ended.stderr.ends_with(": no connection within 700ms\n"), "{}", ended.stderr);
        // Its own limit, and not the kernel's two minutes; a busy machine may take its time.
        assert!((Duration::from_millis(700)..Duration::from_secs(30)).contains(&took), "{took:?}");
    }
    let ended =
        pipe(&["send", "--connect-timeout", "300ms", "--retry", "1s", "192.0.2.1", "x"], b"");
    assert_eq!(ended.code, Some(1));
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.starts_with("echo-client: timed out: "), "{}", ended.stderr);
}

/// Happy eyeballs: an address that swallows costs the delay to the next one (RFC 8305, 250 ms), not
/// its whole time.
#[test]
fn a_black_hole_makes_way_for_the_next_address() {
    if !is_own("a_black_hole_makes_way_for_the_next_address") {
        return;
    }
    name("both.test", &["2001:db8::1", "127.0.0.1"]);
    let server = Server::start("tcp://127.0.0.1:0", Mode::Auto);
    let target = server.target.replace("127.0.0.1", "both.test");
    let began = Instant::now();
    pipe(&["--connect-timeout", "100s", &target], b"hello").copied(b"hello");
    let took = began.elapsed();
    // Later than the delay: the other address was asked first.
    assert!((Duration::from_millis(250)..Duration::from_secs(30)).contains(&took), "{took:?}");
    if long() {
        assert!(took < Duration::from_millis(750), "{took:?}");
    }
    // An address of the family that is asked for alone has no other beside it.
    let ended = pipe_open(&["-6", "--connect-timeout", "700ms", &target], b"hello");
    ended.failed("timed out: tcp://both.test:");
    server.stop();
}

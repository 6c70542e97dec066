//! The command line seen from outside: options, exit codes, and what is said where.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::process::Command;
use std::{fs, thread};

use support::ending::{assert_refused, ends, with_args};
use support::{PATIENCE, Server, Signal, command, command_under, command_with_open_files, skip};

#[test]
fn help_has_every_option() {
    let (code, stdout, stderr) = ends(with_args(&["--help"]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for word in [
        "--listen",
        "--drain-timeout",
        "--drain-delay",
        "--max-connections",
        "--max-per-source",
        "--max-frame",
        "--idle-timeout",
        "--frame-timeout",
        "--write-timeout",
        "--min-rate",
        "--udp-rate",
        "--udp-refuse-ports",
        "--max-datagram",
        "--linger",
        "--greeting",
        "--workers",
        "--log",
        "--log-level",
        "--config",
        "--print-config",
        "check",
        "--control",
        "ctl",
        "--version",
        "healthcheck",
        "Exit codes",
    ] {
        assert!(stdout.contains(word), "{word} is missing in: {stdout}");
    }
    let (code, stdout, _) = ends(with_args(&["--version"]));
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), concat!("echo-server ", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn a_full_disk_gets_no_help() {
    let mut full = with_args(&["--help"]);
    full.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    assert_refused(full, 74, "cannot write to stdout: No space left on device");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut gone = with_args(&["--help"]);
    gone.stdout(writer);
    assert_eq!(ends(gone).0, Some(0));
}

/// Rust's runtime opens /dev/null for a stdout that is closed, which takes whatever is printed. A daemon goes on
/// (`output_that_goes_nowhere_stops_nothing`), and so does what needs to print nothing.
#[test]
fn what_is_printed_needs_a_stdout() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| folder.path().join(name).display().to_string();
    let (users, out) = (in_folder("users.toml"), in_folder("tls"));
    let closed = |args: &[&str]| {
        let mut command = command_under(&["sh", "-c", r#"exec "$@" >&-"#, "sh"]);
        command.args(args);
        command
    };
    let add = ["user", "add", "alice", "--no-password", "--users", &users];
    assert_eq!(ends(closed(&add)).0, Some(0));
    for args in [
        &["user", "list", "--users", &users][..],
        &["check", "--listen=unix:@never"],
        &["--print-config"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["--version"],
        &["tls", "self-signed", "--name=localhost", "--out", &out],
    ] {
        assert_refused(closed(args), 74, "cannot write to stdout: it is closed");
    }
    assert!(!folder.path().join("tls").exists());
    // Who began with /dev/null there means it.
    let mut null = with_args(&["man"]);
    null.stdout(std::process::Stdio::null());
    assert!(null.status().unwrap().success());
}

#[test]
fn a_wrong_command_line_is_64() {
    for (args, told) in [
        (["--listen", "127.0.0.1:7777"], "tcp://HOST:PORT"),
        (["--listen", "ftp://127.0.0.1:7777"], "unknown scheme"),
        (["--listen", "tcp://127.0.0.1:65536"], "bad port"),
        (["--listen", "tcp://127.0.0.1"], "no port"),
        (["--listen", "unix:"], "no path"),
        (["--listen", "tcp://127.0.0.1:0?mode=cooked"], "bad mode"),
        (["--listen", "tcp://127.0.0.1:0?speed=5"], "unknown option \"speed\""),
        (["--listen", "tcp://127.0.0.1:0?rate=5"], "rate belongs to udp://"),
        (["--listen", "udp://127.0.0.1:0?rate=0"], "bad rate"),
        (["--listen", "udp:127.0.0.1:0"], "udp://HOST:PORT"),
        (["--udp-rate", "0"], "--udp-rate"),
        (["--udp-refuse-ports", "1-70000"], "0-1023,5353"),
        (["--max-datagram", "0"], "16 MiB"),
        (["--lisen", "tcp://127.0.0.1:0"], "--listen"),
        (["--drain-timeout", "30"], "units"),
        (["--idle-timeout", "0s"], "no \"unlimited\""),
        (["--max-frame", "16MiB"], "16 MiB - 1"),
        (["--max-connections", "0"], "--max-connections"),
        (["--workers", "many"], "--workers"),
        (["--log", "xml"], "json"),
        (["healthcheck", "ftp://127.0.0.1"], "unknown scheme"),
    ] {
        assert_refused(with_args(&args), 64, told);
    }
    for (variable, value, told) in [
        ("ECHO_SERVER_LINGER", "soon", "ECHO_SERVER_LINGER: "),
        ("ECHO_SERVER_LOG", "xml", "ECHO_SERVER_LOG: "),
        ("ECHO_SERVER_UDP_REFUSE_PORTS", "all", "ECHO_SERVER_UDP_REFUSE_PORTS: "),
        ("ECHO_SERVER_LISTEN", "ftp://x", "ECHO_SERVER_LISTEN: "),
        ("ECHO_SERVER_LISTEN", "tcp://127.0.0.1:0,ftp://127.0.0.1", "unknown scheme"),
    ] {
        let mut from_environment = command();
        from_environment.env(variable, value);
        assert_refused(from_environment, 64, told);
    }
}

#[test]
fn a_name_that_does_not_resolve_is_69() {
    let args = ["--listen", "tcp://no-such-host.invalid:0"];
    assert_refused(with_args(&args), 69, "does not resolve");
}

#[test]
fn a_port_in_use_is_69_and_nothing_listens() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let uri = format!("tcp://{taken}");
    let told = format!("port {} is in use", taken.port());
    assert_refused(with_args(&["--listen", "tcp://127.0.0.1:0", "--listen", &uri]), 69, &told);
}

#[test]
fn an_address_of_another_host_is_69() {
    assert_refused(with_args(&["--listen", "tcp://192.0.2.1:0"]), 69, "no such address");
}

/// Linux binds them; nothing that is sent there may be answered.
#[test]
fn an_address_of_many_is_69() {
    for (address, kind) in [
        ("udp://224.0.0.1:0", "multicast"),
        ("udp://[ff02::1]:0", "multicast"),
        ("udp://255.255.255.255:0", "broadcast"),
        ("udp://127.255.255.255:0", "broadcast"),
        ("tcp://239.1.2.3:0", "multicast"),
    ] {
        let told =
            format!("cannot listen on {address}: a {kind} address is no single host's: choose");
        assert_refused(with_args(&["--listen", address]), 69, &told);
    }
}

#[test]
fn a_privileged_port_is_69() {
    let name = "a_privileged_port_is_69";
    let privileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if privileged.trim().parse::<u16>().unwrap() <= 80 {
        return eprintln!("{name} does not apply: anybody may listen on port 80 here");
    }
    // Root without capabilities is a user like others.
    let mut command = match rustix::process::geteuid().is_root() {
        true if Command::new("setpriv").arg("--version").output().is_err() => {
            return skip(name, "setpriv");
        }
        true => command_under(&["setpriv", "--inh-caps=-all", "--bounding-set=-all"]),
        false => command(),
    };
    command.args(["--listen", "tcp://127.0.0.1:80"]);
    assert_refused(command, 69, "CAP_NET_BIND_SERVICE");
}

#[test]
fn an_unwritable_or_taken_socket_path_is_69() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("unix:{}", folder.path().join(name).display());
    let _holder = UnixListener::bind(folder.path().join("taken")).unwrap();
    fs::write(folder.path().join("file"), "not a socket").unwrap();
    for (uri, told) in [
        (path("no-such-folder/socket"), "no such directory"),
        ("unix:/proc/socket".to_owned(), "cannot listen on unix:/proc/socket"),
        (path("taken"), "another process listens"),
        (path("file"), "/file: "),
    ] {
        assert_refused(with_args(&["--listen", &uri]), 69, told);
    }
    assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "not a socket");
}

#[test]
fn connections_fit_the_limit_on_open_files() {
    let mut command = command_with_open_files(128);
    command.args(["--max-connections", "65"]);
    assert_refused(command, 78, "at most 64");

    for open_files in [9, 15] {
        let mut command = command_with_open_files(open_files);
        command.args(["--listen", "tcp://127.0.0.1:0"]);
        let (code, stdout, stderr) = ends(command);
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{open_files}: {stderr}");
        assert!(stderr.contains("LimitNOFILE="), "{open_files}: {stderr}");
    }

    let mut command = command_with_open_files(128);
    command.args(["--listen", "tcp://127.0.0.1:0"]);
    let mut server = Server::start_command(command, 1);
    server.wait_for_stderr("--max-connections is 64 instead of 10000");
    assert_echoes(TcpStream::connect(server.address()).unwrap());
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn every_listener_has_its_line_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a socket");
    let unix = format!("unix:{}?mode=raw&perm=0600", path.display()).replace(' ', "%20");
    let abstract_name = format!("echo-server-test-{}", std::process::id());
    let mut server = Server::start(&[
        "--listen=tcp://127.0.0.1:0",
        &format!("--listen={unix}"),
        "--listen=tcp://localhost:0?mode=auto",
        &format!("--listen=unix:@{abstract_name}"),
    ]);
    let [first, second, third, fourth] = server.uris() else { panic!("{:?}", server.uris()) };
    assert!(first.starts_with("tcp://127.0.0.1:") && !first.ends_with(":0"));
    assert_eq!(second, &unix);
    assert!(third.ends_with("?mode=auto") && !third.contains("localhost"), "{third}");
    assert_eq!(fourth, &format!("unix:@{abstract_name}"));

    assert_echoes(TcpStream::connect(server.address_of(0)).unwrap());
    assert_echoes(UnixStream::connect(&path).unwrap());
    assert_echoes(TcpStream::connect(server.address_of(2)).unwrap());
    let abstract_addr = UnixAddr::from_abstract_name(abstract_name).unwrap();
    assert_echoes(UnixStream::connect_addr(&abstract_addr).unwrap());
    assert_eq!(server.stop(), Some(0));
    assert!(!path.exists(), "the socket is unlinked at the end");
    assert_eq!(server.stdout().lines().count(), 4, "nothing but the listening lines");
}

#[test]
fn the_wildcard_takes_both_families() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skip("the_wildcard_takes_both_families", "IPv6");
    }
    let server = Server::start(&["--listen", "tcp://[::]:0"]);
    let port = server.address().port();
    assert_echoes(TcpStream::connect(("::1", port)).unwrap());
    assert_echoes(TcpStream::connect(("127.0.0.1", port)).unwrap());
}

#[test]
fn the_environment_sets_options_and_flags_win() {
    let mut both = command();
    both.env("ECHO_SERVER_LISTEN", "tcp://127.0.0.1:0?mode=raw,tcp://127.0.0.1:0");
    both.env("ECHO_SERVER_GREETING", "welcome").env("ECHO_SERVER_WORKERS", "1");
    let server = Server::start_command(both, 2);
    let mut greeting = [0; 8];
    TcpStream::connect(server.address()).unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"welcome\n");

    let mut gaps = command();
    gaps.env("ECHO_SERVER_LISTEN", "tcp://127.0.0.1:0,,").env("ECHO_SERVER_DRAIN_TIMEOUT", "");
    gaps.env("ECHO_SERVER_WORKERS", "").env("ECHO_SERVER_LOG", "").env("ECHO_SERVER_LINGER", "");
    Server::start_command(gaps, 1);

    let mut flag = with_args(&["--listen", "tcp://127.0.0.1:0"]);
    flag.env("ECHO_SERVER_LISTEN", "ftp://nowhere");
    Server::start_command(flag, 1);
}

#[test]
fn healthcheck_tells_the_living_from_the_dead() {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", folder.path().join("socket").display());
    let abstract_name = format!("unix:@echo-server-health-{}", std::process::id());
    let server = Server::start(&[
        "--greeting=welcome",
        "--listen=tcp://127.0.0.1:0",
        "--listen=tcp://127.0.0.1:0?mode=framed",
        "--listen=tcp://127.0.0.1:0?mode=raw",
        &format!("--listen={unix}"),
        &format!("--listen={abstract_name}"),
    ]);
    let bare = server.address().to_string();
    let raw = format!("raw://{}", server.address_of(2));
    for (target, mode) in [
        (&bare, "framed"),
        (&server.uris()[1], "framed"),
        (&server.uris()[2], "raw"),
        (&raw, "raw"),
        (&unix, "framed"),
        (&abstract_name, "framed"),
    ] {
        let (code, stdout, stderr) = ends(with_args(&["healthcheck", target]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{target}");
        assert!(stdout.starts_with("healthy: ") && stdout.contains(mode), "{target}: {stdout}");
    }
    let mut from_listen = with_args(&["healthcheck"]);
    from_listen.env("ECHO_SERVER_LISTEN", &server.uris()[0]);
    assert_eq!(ends(from_listen).0, Some(0));
}

#[test]
fn healthcheck_asks_for_no_more_than_a_frame_holds() {
    let uri = "--listen=tcp://127.0.0.1:0";
    for max_frame in ["1", "16"] {
        let server = Server::start(&[uri, "--max-frame", max_frame]);
        let target = server.address().to_string();
        let (code, stdout, stderr) = ends(with_args(&["healthcheck", &target]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.contains("framed"), "{stdout}");
    }
}

#[test]
fn healthcheck_says_what_is_wrong() {
    // Bound, so that nobody else gets the port, but not listening.
    let closed = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    closed.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let closed_addr = closed.local_addr().unwrap().as_socket().unwrap().to_string();
    assert_refused(with_args(&["healthcheck", &closed_addr]), 1, "refused: Connection refused");
    assert_refused(with_args(&["healthcheck", "no-such-host.invalid"]), 1, "unresolved: ");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_addr = silent.local_addr().unwrap().to_string();
    let args = ["healthcheck", &silent_addr, "--timeout", "50ms"];
    assert_refused(with_args(&args), 1, "timed out: ");

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let other_addr = other.local_addr().unwrap().to_string();
    let hangs_up = thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"220 ready\r\n").unwrap();
        // Reads all, so that closing sends no reset.
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert_refused(with_args(&["healthcheck", &other_addr]), 1, "closed early: ");
    hangs_up.join().unwrap();
}

#[test]
fn an_empty_drain_is_clean() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&["--listen", "tcp://127.0.0.1:0"]);
        server.signal(signal);
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        assert_eq!(server.summary()["connections"], 0);
    }
}

#[test]
fn the_delay_before_a_drain_serves_on_and_a_second_signal_ends_it() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut server = Server::start(&["--listen", "tcp://127.0.0.1:0", "--drain-delay", "1h"]);
        server.signal(Signal::TERM);
        server.wait_for_stderr("SIGTERM: ");
        assert_echoes(TcpStream::connect(server.address()).unwrap());
        server.signal(signal);
        assert_eq!(server.wait(PATIENCE).code(), Some(code));
        server.summary();
    }
}

fn assert_echoes(mut stream: impl Read + Write) {
    stream.write_all(b"hi\n").unwrap();
    let mut echo = [0; 3];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hi\n");
}

/// Signals that mean something to other daemons: none of them ends this one.
#[test]
fn signals_of_other_daemons_mean_nothing() {
    let mut server = Server::start(&["--listen", "tcp://127.0.0.1:0"]);
    for signal in [Signal::USR1, Signal::USR2, Signal::ALARM] {
        server.signal(signal);
    }
    support::traffic::assert_serves(&server.uris()[0]);
    assert_eq!(server.stop(), Some(0));
}

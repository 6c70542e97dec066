//! Service managers: sockets that are passed, what the manager is told, and process 1 of a container.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};

use support::ending::{Settings, assert_refused, with_args};
use support::manager::Manager;
use support::process::eventually;
use support::traffic::{ECHO, GOAWAY, Peer, assert_serves, header};
use support::{PATIENCE, Server, Signal, command, command_under, skip};

/// A server that is passed `socket` under a name, by a shell that has it as its stdin.
fn passed(socket: impl Into<OwnedFd>, name: &str, args: &[&str]) -> Command {
    let script = format!(r#"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec "$@" 3<&0"#);
    let mut command = command_under(&["sh", "-c", &script, "sh"]);
    command.args(args).stdin(Stdio::from(socket.into()));
    command
}

#[test]
fn a_passed_socket_is_adopted_by_name_address_or_default() {
    for args in [&["--listen=systemd:mine"][..], &["--listen=TCP"], &[]] {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let held = socket.try_clone().unwrap();
        let uri = format!("tcp://{}", socket.local_addr().unwrap());
        let args: Vec<_> = args.iter().map(|it| it.replace("TCP", &uri)).collect();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut server = Server::start_command(passed(socket, "mine", &args), 1);
        let listening = if args == ["--listen=systemd:mine"] { "systemd:mine" } else { &uri };
        assert_eq!(server.uris(), [listening]);
        assert_serves(&uri);
        // Who waits in the queue of a socket that somebody else holds is not reset.
        assert_eq!(server.stop(), Some(0));
        let waiting = Peer::connect(&uri);
        let mut next = Server::start_command(passed(held, "mine", &args), 1);
        waiting.round_trip(b"patience");
        drop(waiting);
        assert_eq!(next.stop(), Some(0));
    }
}

#[test]
fn a_passed_socket_keeps_its_path_and_can_be_taken_again_by_a_reload() {
    let settings = Settings::new("");
    let path = settings.beside("socket");
    let uri = format!("unix:{path}");
    let with = format!("listen = [\"tcp://127.0.0.1:0\", \"{uri}\"]\n");
    settings.write(&with);
    let socket = UnixListener::bind(&path).unwrap();
    let command = passed(socket, "mine", &["--config", settings.path()]);
    let mut server = Server::start_command(command, 2);
    assert_serves(&uri);
    for round in 1..=3 {
        settings.write("listen = [\"tcp://127.0.0.1:0\"]\n");
        server.signal(Signal::HUP);
        server.wait_for_stderr_times("1 drained", round);
        settings.write(&with);
        server.signal(Signal::HUP);
        server.wait_for_stderr_times("1 of them new", round);
        assert_serves(&uri);
    }
    assert_eq!(server.stop(), Some(0));
    assert!(fs::exists(&path).unwrap(), "it is not the server's to unlink");
}

/// They are its maker's.
#[test]
fn permissions_of_a_passed_socket_are_refused() {
    let settings = Settings::new("");
    let path = settings.beside("socket");
    let socket = UnixListener::bind(&path).unwrap();
    for uri in [format!("unix:{path}?perm=0600"), format!("unix:{path}?perm=0666&mode=raw")] {
        let command = passed(socket.try_clone().unwrap(), "mine", &["--listen", &uri]);
        assert_refused(command, 69, "SocketMode= of the socket unit sets it: leave perm out");
    }
}

#[test]
fn what_is_passed_and_cannot_be_used_is_refused() {
    let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_refused(passed(pair, "mine", &[]), 69, "a socket that was passed (mine)");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let args = ["--listen", "systemd:other"];
    assert_refused(passed(socket, "mine", &args), 69, "no socket of this name");
    assert_refused(with_args(&args), 69, "no socket of this name");
    // `check` too, where there is a manager that passes others.
    let args = ["check", "--listen", "systemd:other"];
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_refused(passed(socket, "mine", &args), 69, "no socket of this name");
    for (variables, told) in [
        ("LISTEN_PID=$$ LISTEN_FDS=many", "invalid LISTEN_FDS"),
        ("LISTEN_PID=$$ LISTEN_FDS=4000000000", "cannot use a socket that was passed"),
        ("LISTEN_PID=$$ LISTEN_FDS=0 LISTEN_FDNAMES=a:b", "invalid LISTEN_FDNAMES"),
    ] {
        let script = format!("{variables} exec \"$@\"");
        let mut command = command_under(&["sh", "-c", &script, "sh"]);
        command.args(["--listen", "tcp://127.0.0.1:0"]);
        assert_refused(command, 69, told);
    }
    // Of another process, as a variable that was left behind.
    let mut of_another = command();
    of_another.env("LISTEN_PID", "1").env("LISTEN_FDS", "5");
    drop(Server::start_command(
        {
            of_another.args(["--listen", "tcp://127.0.0.1:0"]);
            of_another
        },
        1,
    ));
}

#[test]
fn systemd_socket_activate_starts_it_with_the_first_client() {
    let test = "systemd_socket_activate_starts_it_with_the_first_client";
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        return skip(test, "systemd-socket-activate");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let uri = format!("unix:{}", path.display());
    let mut activated =
        command_under(&["systemd-socket-activate", "--fdname=mine", "-l", path.to_str().unwrap()]);
    activated.args(["--listen", "systemd:mine?mode=raw"]);
    let mut server = Server::spawn(activated);
    // The file is there before anyone listens on it.
    let mut peer = None;
    eventually("it listens", || {
        peer = Peer::try_connect(&uri, |_| Ok(())).ok();
        peer.is_some()
    });
    peer.take().unwrap().round_trip(b"hello");
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.summary()["forced"], 0);
}

#[test]
fn the_manager_is_told_of_every_phase() {
    let settings = Settings::new("");
    let manager = Manager::new(&settings.beside("notify"));
    let mut command = with_args(&["--listen", "tcp://127.0.0.1:0", "--config", settings.path()]);
    manager.of(&mut command);
    command.env("WATCHDOG_USEC", "200000");
    let mut server = Server::start_command(command, 1);
    manager.hears(&["FDSTORE=1", "FDNAME=stored tcp|//127.0.0.1|", "FDPOLL=0"]);
    manager.hears(&["READY=1", "STATUS=serving: 0 connections"]);
    let peer = Peer::connect(&server.uris()[0]);
    peer.hello();
    manager.hears(&["WATCHDOG=1", "STATUS=serving: 1 connections open, 1 accepted in all"]);

    for text in ["", "mistake = 1"] {
        settings.write(text);
        server.signal(Signal::HUP);
        let message = manager.hears(&["RELOADING=1", "MONOTONIC_USEC="]);
        assert_eq!(message.lines().count(), 2);
        manager.hears(&["READY=1", "STATUS="]);
    }

    peer.send(&header(ECHO, 2));
    server.signal(Signal::TERM);
    manager.hears(&["STOPPING=1", "EXTEND_TIMEOUT_USEC="]);
    manager.hears(&["FDSTOREREMOVE=1", "FDNAME=stored tcp|//127.0.0.1|"]);
    manager.hears(&["WATCHDOG=1", "STATUS=draining: 1 connections are left"]);
    peer.send(b"a");
    manager.hears(&["EXTEND_TIMEOUT_USEC="]);
    peer.send(b"b");
    drop(peer);
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
}

/// The unit lets it store 64. What is beyond that would not live on.
#[test]
fn more_sockets_than_the_manager_stores_are_warned_of_once() {
    for (sockets, warnings) in [(64, 0), (65, 1)] {
        let settings = Settings::new("");
        let manager = Manager::new(&settings.beside("notify"));
        let uris: Vec<_> = (0..sockets)
            .map(|number| format!("{:?}", format!("unix:{}", settings.beside(&number.to_string()))))
            .collect();
        settings.write(&format!("listen = [{}]\n", uris.join(", ")));
        let mut command = with_args(&["--config", settings.path()]);
        manager.of(&mut command);
        let mut server = Server::start_command(command, sockets);
        manager.hears(&["READY=1"]);
        server.signal(Signal::TERM);
        (0..sockets).for_each(|_| drop(manager.hears(&["FDSTOREREMOVE=1"])));
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        let log = server.stderr();
        let told = "more than 64 sockets are given to the service manager";
        assert_eq!(log.matches(told).count(), warnings, "{log}");
    }
}

/// A manager that is gone, or never was, stops nobody.
#[test]
fn a_manager_that_does_not_listen_is_no_reason_to_stop() {
    for path in ["/no/such/socket", "not a path", "@echo-server-test-nobody"] {
        let mut command = with_args(&["--listen", "tcp://127.0.0.1:0"]);
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "soon");
        let mut server = Server::start_command(command, 1);
        assert_serves(&server.uris()[0]);
        assert_eq!(server.stop(), Some(0));
    }
}

/// One that does not read holds up neither the service nor its end, and hears all of it once it reads.
#[test]
fn a_manager_whose_queue_is_full_holds_up_nobody() {
    let settings = Settings::new("");
    let path = settings.beside("notify");
    let manager = Manager::new(&path);
    let fill = || {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        while other.send_to(b"FULL=1", &path).is_ok() {}
    };
    for reads in [true, false] {
        fill();
        let mut command =
            with_args(&["--listen", "tcp://127.0.0.1:0", "--config", settings.path()]);
        manager.of(&mut command);
        command.env("WATCHDOG_USEC", "20000");
        let mut server = Server::start_command(command, 1);
        let peer = Peer::connect(&server.uris()[0]);
        peer.hello();
        server.signal(Signal::HUP);
        server.wait_for_stderr("reloaded: 1 to listen on");
        if reads {
            for wanted in ["FDSTORE=1", "READY=1", "RELOADING=1", "READY=1", "WATCHDOG=1"] {
                manager.hears(&[wanted]);
            }
            fill();
        }
        peer.send(&header(ECHO, 2));
        server.signal(Signal::TERM);
        server.wait_for_stderr("SIGTERM: draining");
        peer.send(b"ab");
        assert_eq!(peer.read_frame().unwrap().payload, b"ab");
        assert_eq!(peer.read_frame().unwrap().kind, GOAWAY);
        drop(peer);
        if reads {
            manager.hears(&["STOPPING=1"]);
            manager.hears(&["FDSTOREREMOVE=1"]);
        }
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        assert_eq!(server.summary()["completed"], 1);
    }
}

/// Process 1 of a container has no default actions for signals, and ends with all of it.
#[test]
fn it_is_process_1_of_a_container() {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
    let probe = Command::new(unshare[0]).args(&unshare[1..]).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skip("it_is_process_1_of_a_container", "unshare, and the right to use it");
    }
    let mut contained = command_under(&unshare);
    contained.args(["--listen", "tcp://127.0.0.1:0"]);
    let mut server = Server::start_command(contained, 1);
    assert_serves(&server.uris()[0]);
    let outer = server.pid();
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
    let inner = rustix::process::Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(inner, Signal::TERM).unwrap();
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
    assert_eq!(server.summary()["forced"], 0);
}

//! Unix datagram peers where the system has not all that answering them needs.

#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;
use support::injection::{can_inject, start_injected, was_injected};
use support::process::eventually;
use support::{PATIENCE, Server, command_under, skip};

const TOLD: &str = "Unix peers with a path get no answers without openat2(2) and /proc";

fn listen(folder: &Path) -> String {
    format!("--listen=unixgram:{}", folder.join("server").display())
}

/// Peers that have a path are not answered, and one line of the log says why; all others are.
fn assert_only_paths_go_unanswered(mut server: Server, folder: &Path) {
    let path = folder.join("server");
    let on_path = UnixDatagram::bind(folder.join("peer")).expect("a path");
    on_path.set_nonblocking(true).expect("a socket");
    let in_abstract = {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("{}-peer", folder.display());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
        UnixDatagram::bind_addr(&address).expect("a name that is free")
    };
    in_abstract.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for _ in 0..20 {
        on_path.send_to(b"?", &path).expect("it is sent");
        in_abstract.send_to(b"abstract", &path).expect("it is sent");
        let mut reply = [0; 9];
        assert_eq!(in_abstract.recv(&mut reply).expect("it is answered"), 8);
        assert!(on_path.recv(&mut reply).is_err(), "nothing comes by a path");
    }
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    assert_eq!(datagrams.get("refused_address"), 20, "{datagrams:?}");
    assert_eq!(datagrams.get("answered"), 20, "{datagrams:?}");
    assert_eq!(server.stderr().matches(TOLD).count(), 1, "{}", server.stderr());
}

/// Before Linux 5.6, and under a filter that says EPERM for what it does not know.
#[test]
fn without_openat2() {
    if !can_inject("without_openat2") {
        return;
    }
    for error in ["ENOSYS", "EPERM"] {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");
        let args = [listen(folder.path())];
        let args = args.each_ref().map(String::as_str);
        let server = start_injected(&trace, &format!("openat2:error={error}"), &args);
        assert_only_paths_go_unanswered(server, folder.path());
        eventually("the trace shows the error", || was_injected(&trace));
    }
}

#[test]
fn without_proc() {
    let unmounted = ["unshare", "--mount", "sh", "-c", "umount -l /proc && exec \"$@\"", "sh"];
    let probe = Command::new(unmounted[0]).args(&unmounted[1..]).arg("true").output();
    if !geteuid().is_root() || !probe.is_ok_and(|output| output.status.success()) {
        return skip("without_proc", "root, and mount namespaces (unshare)");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = command_under(&unmounted);
    command.arg(listen(folder.path()));
    assert_only_paths_go_unanswered(Server::start_command(command, 1), folder.path());
}

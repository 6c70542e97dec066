//! Unix datagram peers where the system has not all that answering them needs.

#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;
use support::injection::{can_inject, start_injected, wait_until_injected};
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
        wait_until_injected(&trace);
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

/// A name is a text: where a peer with mounts of its own has bound it, there may be a file system here that never
/// answers, such as that of a network server which is gone.
#[test]
fn a_path_on_a_file_system_that_hangs_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let hanging = folder.path().join("hanging");
    fs::create_dir(&hanging).unwrap();
    // FUSE, whose server, the shell, says nothing; not even when it has become ours.
    let script = "exec 3<>/dev/fuse && options=fd=3,rootmode=40000,user_id=0,group_id=0,allow_other && \
                  mount -i -t fuse -o $options hanging \"$0\" && exec \"$@\"";
    let mounted =
        ["unshare", "--mount", "sh", "-c", script, hanging.to_str().expect("a plain path")];
    let probe = Command::new(mounted[0]).args(&mounted[1..]).arg("true").output();
    if !geteuid().is_root() || !probe.is_ok_and(|output| output.status.success()) {
        let missing = "root, mount namespaces (unshare), and FUSE";
        return skip("a_path_on_a_file_system_that_hangs_holds_up_nobody", missing);
    }
    let mut command = command_under(&mounted);
    command.arg(listen(folder.path()));
    let mut server = Server::start_command(command, 1);
    let path = folder.path().join("server");
    let elsewhere = UnixDatagram::bind(hanging.join("peer")).expect("a path");
    let near = UnixDatagram::bind(folder.path().join("near")).expect("a path");
    near.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for _ in 0..3 {
        elsewhere.send_to(b"look for me", &path).expect("it is sent");
        near.send_to(b"near", &path).expect("it is sent");
        assert_eq!(near.recv(&mut [0; 9]).expect("it is answered"), 4);
    }
    assert_eq!(server.stop(), Some(0));
    let datagrams = server.datagrams();
    assert_eq!((datagrams.get("answered"), datagrams.get("failed")), (3, 3), "{datagrams:?}");
}

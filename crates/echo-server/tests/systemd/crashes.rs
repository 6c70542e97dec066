//! Servers that die or hang: systemd starts another one, and the listeners live on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use rustix::process::{Signal, kill_process};

use crate::inside::{
    Clients, TCP, UNIX, drop_in, journal, main_pid, must, property, restarted, run, settings,
    udp_echoes,
};
use crate::support::process::eventually;
use crate::support::skip;
use crate::support::traffic::{Peer, assert_serves};
use crate::under_systemd;

/// Kills the server a few times under clients; none of them is refused, and all go on.
fn killed_under_clients(uris: &[&str], kills: u32) {
    let clients = Clients::beside(uris, false, |clients| {
        for kill in 1..=kills {
            let echoes = Clients::count(&clients.echoes) + 20;
            eventually("all clients go on", || Clients::count(&clients.echoes) > echoes);
            kill_process(main_pid(), Signal::KILL).unwrap();
            restarted(kill);
        }
        let echoes = Clients::count(&clients.echoes) + 20;
        eventually("all clients go on", || Clients::count(&clients.echoes) > echoes);
    });
    assert_eq!(Clients::count(&clients.refused), 0, "{}", journal());
    udp_echoes();
}

/// Fault 80: systemd holds the sockets.
#[test]
fn a_crash_with_the_socket_unit_refuses_nobody() {
    under_systemd(|| {
        must("systemctl start echo-server.socket echo-server.service");
        killed_under_clients(&[TCP, UNIX], 5);
    });
}

/// systemd has been given the sockets that the server bound itself.
#[test]
fn a_crash_without_socket_unit_refuses_nobody() {
    under_systemd(|| {
        must("systemctl start echo-server.service");
        eventually("both sockets are stored", || property("NFileDescriptorStore") == "2");
        killed_under_clients(&[TCP], 5);
        assert_eq!(property("NFileDescriptorStore"), "2", "none is stored twice");

        // A stop closes them as without a manager.
        must("systemctl stop echo-server.service");
        assert!(Peer::try_connect(TCP, |_| Ok(())).is_err());
        must("systemctl start echo-server.service");
        assert_serves(TCP);
    });
}

/// A stored socket that the settings mean no longer would stand in the way of the one that they mean, and systemd
/// would try for ever.
#[test]
fn a_crash_after_a_change_of_the_address_is_one_restart() {
    under_systemd(|| {
        let path = "/run/echo-server-control/stream";
        let listen = |tcp: &str, options: &str| {
            settings(&format!("listen = [\"{tcp}\", \"unix:{path}{options}\"]\n"));
        };
        listen(TCP, "?perm=0666");
        must("systemctl start echo-server.service");
        eventually("both are stored", || property("NFileDescriptorStore") == "2");
        let everywhere = TCP.replace("127.0.0.1", "0.0.0.0");
        listen(&everywhere, "?perm=0666");
        // Not by a reload: the old one is in its way.
        assert!(!run("systemctl reload echo-server.service").0);
        assert!(journal().contains("until a restart"), "{}", journal());
        // The unit's own UMask= at last, where nothing is asked for.
        for (crashes, options, mode) in [(1, "?perm=0606", 0o606), (2, "", 0o700)] {
            listen(&everywhere, options);
            kill_process(main_pid(), Signal::KILL).unwrap();
            restarted(crashes);
            assert_serves(TCP);
            assert_serves(&format!("unix:{path}"));
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
            assert!(must("ss -ltn").contains("0.0.0.0:7777"));
            eventually("both are stored", || property("NFileDescriptorStore") == "2");
        }
    });
}

/// What the manager has under a name of which one socket is meant no longer it forgets whole, and what is called
/// otherwise now it has under the old name: of either kind nothing may be served that is stored no more.
#[test]
fn a_crash_after_a_change_of_the_name_loses_no_listener() {
    under_systemd(|| {
        must("printf '127.0.0.1 both\\n::1 both\\n' >> /etc/hosts");
        let uris = ["tcp://both:7777", "tcp://[::1]:7777", "tcp://[0::1]:7777"];
        settings(&format!("listen = {:?}\n", [uris[0]]));
        must("systemctl start echo-server.service");
        eventually("both are stored", || property("NFileDescriptorStore") == "2");
        for (crash, uri) in (1..).zip([uris[1], uris[1], uris[2], uris[2]]) {
            settings(&format!("listen = {:?}\n", [uri]));
            kill_process(main_pid(), Signal::KILL).unwrap();
            restarted(crash);
            assert_serves(uris[1]);
            eventually("it is stored", || property("NFileDescriptorStore") == "1");
        }
    });
}

/// The paths are in the service's own folder, which lives on over a restart by systemd itself. Where
/// somebody has removed them nevertheless, sockets that nobody can find are of no use.
#[test]
fn a_crash_or_a_reload_leaves_no_socket_that_nobody_finds() {
    under_systemd(|| {
        let (stream, datagram) =
            ("/run/echo-server-control/stream", "/run/echo-server-control/datagram");
        settings(&format!("listen = [\"unix:{stream}\", \"unixgram:{datagram}\"]\n"));
        must("systemctl start echo-server.service");
        let serves = || {
            assert_serves(&format!("unix:{stream}"));
            assert!(fs::exists(datagram).unwrap());
            eventually("both are stored", || property("NFileDescriptorStore") == "2");
        };
        serves();
        let inode = || fs::symlink_metadata(stream).unwrap().ino();
        let first = inode();
        kill_process(main_pid(), Signal::KILL).unwrap();
        restarted(1);
        serves();
        assert_eq!(inode(), first, "the path is still there");

        let remove = || [stream, datagram].map(|path| fs::remove_file(path).unwrap());
        remove();
        kill_process(main_pid(), Signal::KILL).unwrap();
        restarted(2);
        serves();
        remove();
        must("systemctl reload echo-server.service");
        serves();
        // Another socket's file, which is stale.
        remove();
        drop(UnixListener::bind(stream).unwrap());
        fs::set_permissions(stream, fs::Permissions::from_mode(0o777)).unwrap();
        kill_process(main_pid(), Signal::KILL).unwrap();
        restarted(3);
        serves();
        must("systemctl stop echo-server.service");
        assert!(!fs::exists(stream).unwrap() && !fs::exists(datagram).unwrap());
    });
}

/// With a mistake in its file the server cannot start, and who waits in the queue makes systemd try.
#[test]
fn a_wrong_file_is_not_tried_for_ever() {
    under_systemd(|| {
        // A slow machine does not start anything 200 times in a minute.
        drop_in("socket", "[Socket]\nTriggerLimitBurst=40\n");
        must("systemctl start echo-server.socket echo-server.service");
        settings("max-farme = 5\n");
        kill_process(main_pid(), Signal::KILL).unwrap();
        let waiting = Peer::connect(TCP);
        let result = || must("systemctl show -P Result echo-server.socket");
        eventually("the socket unit gives up", || result() == "trigger-limit-hit\n");
        assert!(journal().contains("Trigger limit hit"), "{}", journal());
        drop(waiting);
        assert!(Peer::try_connect(TCP, |_| Ok(())).is_err());

        // As the operator's guide says.
        settings("");
        must("systemctl reset-failed echo-server.socket echo-server.service");
        must("systemctl start echo-server.socket echo-server.service");
        assert_serves(TCP);
    });
}

/// Fault 77: nobody answers, so nobody feeds the watchdog.
#[test]
fn the_watchdog_restarts_a_stopped_server() {
    under_systemd(|| {
        drop_in("service", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n");
        must("systemctl start echo-server.socket echo-server.service");
        kill_process(main_pid(), Signal::STOP).unwrap();
        // Or more often, where the machine itself stands still for so long.
        eventually("it is restarted", || property("NRestarts") != "0");
        assert_serves(TCP);
        assert!(journal().contains("Watchdog timeout"), "{}", journal());
    });
}

/// One accept loop hangs in a system call; the process, its other loops and its timers live.
#[test]
fn the_watchdog_restarts_a_wedged_server() {
    under_systemd(|| {
        if !run("strace -D -o /dev/null true").0 {
            return skip("the_watchdog_restarts_a_wedged_server", "strace, and the right to trace");
        }
        drop_in(
            "service",
            "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\nExecStart=\n\
             ExecStart=/usr/bin/strace -D -f -qq -o /dev/null -e trace=accept4 \
             -e inject=accept4:delay_enter=600s:when=5+ /usr/bin/echo-server\n\
             DynamicUser=no\nNoNewPrivileges=no\nPrivateUsers=no\nProtectProc=default\n\
             CapabilityBoundingSet=~\nSystemCallFilter=\nRestrictNamespaces=no\n\
             MemoryDenyWriteExecute=no\nProcSubset=all\n",
        );
        must("systemctl start echo-server.service");
        // Until one of them waits in vain. Its worker is gone, but others serve datagrams.
        let mut peers = Vec::new();
        eventually("the watchdog hears nothing", || {
            peers.truncate(50);
            peers.extend(Peer::try_connect(TCP, |_| Ok(())));
            property("NRestarts") != "0"
        });
        assert!(journal().contains("Watchdog timeout"), "{}", journal());
    });
}

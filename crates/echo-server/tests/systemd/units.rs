//! Units that are right, hardened, and still serve.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::inside::{TCP, UNIX, drop_in, must, property, run, settings, udp_echoes};
use crate::support::PATIENCE;
use crate::support::traffic::{Peer, assert_serves, be, frame};
use crate::under_systemd;

/// SHA-256 of nothing.
const EMPTY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

#[test]
fn the_units_are_right_and_exposed_to_little() {
    under_systemd(|| {
        let folder = "/etc/systemd/system";
        let units = format!("{folder}/echo-server.service {folder}/echo-server.socket");
        let verify = "systemd-analyze verify --man=no --recursive-errors=no";
        assert_eq!(must(&format!("{verify} {units}")), "");
        let security = "systemd-analyze security --no-pager --offline=true --threshold=15";
        must(&format!("{security} {folder}/echo-server.service"));
        // With a key that this systemd does not know, it would complain.
        let broken = format!("{folder}/broken.service");
        fs::write(&broken, "[Service]\nExecStart=/bin/true\nNoSuchKey=1\n").unwrap();
        assert!(!run(&format!("{verify} {broken}")).1.is_empty());
    });
}

/// The start blocks until all is served, and the first status comes with it.
#[test]
fn a_start_without_socket_unit_and_file_serves_at_once() {
    under_systemd(|| {
        must("systemctl start echo-server.service");
        assert_eq!(property("ActiveState"), "active");
        assert!(property("StatusText").starts_with("serving: 0 connections"));
        assert_serves(TCP);
        udp_echoes();
        must("systemctl reload echo-server.service");
        must("systemctl stop echo-server.service");
        assert_eq!(
            (property("Result"), property("ExecMainStatus")),
            ("success".into(), "0".into())
        );
        assert!(Peer::try_connect(TCP, |_| Ok(())).is_err());
    });
}

#[test]
fn the_hardened_unit_serves_all_sockets_of_the_socket_unit() {
    under_systemd(|| {
        must("systemctl start echo-server.socket");
        // The first connection starts the service.
        assert_serves(UNIX);
        assert_serves(TCP);
        udp_echoes();
        let journal = crate::inside::journal();
        for uri in [TCP, "udp://127.0.0.1:7777", UNIX] {
            assert!(journal.contains(&format!("listening {uri}\n")), "{uri}: {journal}");
        }
        // Neither a stop nor its folder takes the socket's path away.
        must("systemctl stop echo-server.service");
        assert_serves(UNIX);
        must("systemctl stop echo-server.socket echo-server.service");
        assert!(!fs::exists("/run/echo-server/echo.sock").unwrap());
    });
}

/// Whose a path is that a datagram came from, the shipped unit's server cannot look at, and where all users but root
/// and its own look alike, it cannot tell. A drop-in changes both.
#[test]
fn a_drop_in_lets_unix_datagrams_be_answered_to_paths() {
    const STRANGER: u32 = 1234;
    under_systemd(|| {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/drop-ins/unixgram.conf");
        let shipped = fs::read_to_string(shipped).unwrap();
        let add_user = shipped.lines().find_map(|line| line.strip_prefix("# useradd"));
        must(&format!("useradd {}", add_user.unwrap()));
        let (server, path) = ("/run/echo-server-datagrams/echo.sock", "/run/peer");
        settings(&format!("listen = [\"unixgram:{server}?perm=0666\"]\n"));
        let peer = UnixDatagram::bind(path).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        chown(path, Some(STRANGER), None).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        let say = |user: u32, word: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("printf {word} >&0")]).uid(user).current_dir("/");
            let socket = Stdio::from(OwnedFd::from(peer.try_clone().unwrap()));
            assert!(command.stdin(socket).status().unwrap().success());
        };
        let folder = "[Service]\nRuntimeDirectory=\nRuntimeDirectory=echo-server-datagrams\n\
                      RuntimeDirectoryMode=0755\n";
        for (drop_in_text, answers, counted) in [
            (folder, &[][..], "received=2 refused_address=2"),
            (&shipped.replace("Users=no", "Users=yes"), &["root"], "answered=1 refused_address=1"),
            (&shipped, &["stranger", "root"], "received=2 answered=2"),
        ] {
            drop_in("service", drop_in_text);
            must("systemctl start echo-server.service");
            peer.connect(server).unwrap();
            say(STRANGER, "stranger");
            say(0, "root");
            for answer in answers {
                let mut reply = [0; 99];
                let len = peer.recv(&mut reply).unwrap();
                assert_eq!(&reply[..len], answer.as_bytes());
            }
            must("systemctl stop echo-server.service");
            let journal = crate::inside::journal();
            assert!(journal.contains(counted), "{counted}: {journal}");
            must("rm -f /run/echo-server-datagrams");
        }
    });
}

/// Files are stored where the drop-in makes room for them, by threads that give way.
#[test]
fn a_drop_in_lets_the_hardened_unit_store_files() {
    under_systemd(|| {
        let files = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/drop-ins/files.conf");
        drop_in("service", &fs::read_to_string(files).unwrap());
        let security = "systemd-analyze security --no-pager --offline=true --threshold=15";
        must(&format!("cd /etc/systemd/system && {security} echo-server.service"));
        settings("files = \"/var/lib/echo-server/files\"\nanonymous-put = true\n");
        must("systemctl start echo-server.service");
        let peer = Peer::connect(TCP);
        peer.hello();
        let put = [&[0; 9][..], &[0; 16], &[0, 5], b"empty"].concat();
        peer.send(&[frame(0x90, &put), frame(0x92, &[&EMPTY[..], &[0; 8]].concat())].concat());
        assert_eq!(peer.read_frame().unwrap().kind, 0x90);
        let stored = peer.read_frame().unwrap();
        assert_eq!((stored.kind, &stored.payload[..]), (0x92, &EMPTY[..]));
        assert_eq!(must("stat -Lc %s /var/lib/echo-server/files/empty"), "0\n");
        let pid = property("MainPID");
        let nice = must(&format!("sed 's/.*)//' /proc/{pid}/task/*/stat | cut -d' ' -f18"));
        assert!(nice.lines().any(|nice| nice == "15"), "{nice}");
        assert_serves(TCP);
    });
}

#[test]
fn a_drop_in_takes_port_7() {
    under_systemd(|| {
        let port_7 = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/drop-ins/port-7.conf");
        drop_in("service", &fs::read_to_string(port_7).unwrap());
        must("systemctl start echo-server.service");
        assert_serves("tcp://127.0.0.1:7");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"hi", "127.0.0.1:7").unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 2);
    });
}

/// An older systemd passes over what it does not know, and says so; a newer one has nothing to say.
#[test]
fn the_drop_in_for_systemd_254_is_right() {
    under_systemd(|| {
        let newer = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/drop-ins/systemd-254.conf");
        let newer = fs::read_to_string(newer).unwrap();
        drop_in("service", &newer);
        let verify = "systemd-analyze verify --man=no --recursive-errors=no";
        let said = run(&format!("{verify} /etc/systemd/system/echo-server.service")).1;
        let version = must("systemctl --version");
        let version: u32 = version.split([' ', '\n']).nth(1).unwrap().parse().unwrap();
        let keys: Vec<_> = newer
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        assert_eq!(keys, ["RestartMode", "RestartSteps", "RestartMaxDelaySec"]);
        let unknown = if version < 254 { &keys[..] } else { &[] };
        assert_eq!(said.lines().count(), unknown.len(), "{said}");
        for key in unknown {
            assert!(said.contains(&format!("Unknown key '{key}' in section")), "{said}");
        }
        must("systemctl start echo-server.service");
        assert_serves(TCP);
    });
}

#[test]
fn a_bad_reload_fails_and_changes_nothing() {
    under_systemd(|| {
        must("systemctl start echo-server.socket echo-server.service");
        let max_frame = || be(&Peer::connect(TCP).hello().payload[2..6]);
        settings("max-frame = 1000\nmax-farme = 5\n");
        let (success, said) = run("systemctl reload echo-server.service");
        assert!(!success, "{said}");
        assert_eq!((max_frame(), property("ActiveState")), (1 << 20, "active".into()));
        let journal = crate::inside::journal();
        let told =
            "echo-server.toml:2: unknown key \"max-farme\"; the nearest known one is \"max-frame\"";
        assert!(journal.contains(told), "{journal}");

        settings("max-frame = 1000\n");
        must("systemctl reload echo-server.service");
        assert_eq!(max_frame(), 1000, "the reload is over when systemctl ends");
        assert_serves(UNIX);
    });
}

/// Not to be able to look for the file is something else than that there is none.
#[test]
fn a_folder_that_the_service_cannot_enter_is_an_error() {
    under_systemd(|| {
        settings("max-frame = 1000\n");
        let folder = |mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions("/etc/echo-server", mode).unwrap();
        };
        folder(0o750);
        assert!(!run("systemctl start echo-server.service").0);
        assert_eq!(property("ExecMainStatus"), "78");
        let told = "cannot read /etc/echo-server/echo-server.toml: Permission denied";
        assert!(crate::inside::journal().contains(told), "{}", crate::inside::journal());

        folder(0o755);
        must("systemctl start echo-server.service");
        folder(0o750);
        assert!(!run("systemctl reload echo-server.service").0);
        assert_eq!(be(&Peer::connect(TCP).hello().payload[2..6]), 1000);
    });
}

//! Settings in layers: the file, what it may not say, `check`, and `--print-config`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::fs::Permissions;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use support::ending::{Settings, assert_refused, ends, with_args};
use support::{Server, command, command_with_open_files};

#[test]
fn a_file_sets_what_nothing_else_does() {
    let file = Settings::new(
        "# Two listeners\nlisten = [\"tcp://127.0.0.1:0?mode=raw\", \"tcp://127.0.0.1:0\"]\n\
         greeting = \"of the file\"\nlinger = \"1s\"\n",
    );
    let greeting_of = |server: &Server| {
        let mut greeting = [0; 12];
        TcpStream::connect(server.address()).unwrap().read_exact(&mut greeting).unwrap();
        String::from_utf8(greeting.to_vec()).unwrap()
    };
    let mut alone = command();
    alone.args(["--config", file.path()]);
    let mut server = Server::start_command(alone, 2);
    assert_eq!(greeting_of(&server), "of the file\n");
    assert_eq!(server.stop(), Some(0));

    let mut under_a_variable = command();
    under_a_variable
        .env("ECHO_SERVER_CONFIG", file.path())
        .env("ECHO_SERVER_GREETING", "variable...");
    assert_eq!(
        greeting_of(&Server::start_command(under_a_variable, 2)),
        "variable...\n".trim_end().to_owned() + "\n"
    );

    let mut under_an_option = command();
    under_an_option.env("ECHO_SERVER_GREETING", "variable...");
    under_an_option.args(["--config", file.path(), "--greeting", "an option.."]);
    under_an_option.args(["--listen", "tcp://127.0.0.1:0?mode=raw"]);
    assert_eq!(greeting_of(&Server::start_command(under_an_option, 1)), "an option..\n");
}

/// In the folder that systemd names, if it is there; one that was asked for must be.
#[test]
fn the_usual_file_may_be_missing() {
    let file = Settings::new("listen = [\"tcp://127.0.0.1:0\", \"tcp://127.0.0.1:0\"]\n");
    let folder = Path::new(file.path()).parent().unwrap();
    let mut usual = command();
    usual.env("CONFIGURATION_DIRECTORY", folder);
    drop(Server::start_command(usual, 2));

    // One that names none does not mean where the server was started.
    for nowhere in ["", ":/no/such/folder"] {
        let mut nameless = command();
        nameless.env("CONFIGURATION_DIRECTORY", nowhere).current_dir(folder);
        nameless.args(["--print-config"]);
        let printed = String::from_utf8(nameless.output().unwrap().stdout).unwrap();
        assert!(!printed.contains("echo-server.toml"), "{nowhere:?}: {printed}");
    }

    fs::remove_file(file.path()).unwrap();
    let mut missing = command();
    missing.env("CONFIGURATION_DIRECTORY", folder).args(["--listen", "tcp://127.0.0.1:0"]);
    drop(Server::start_command(missing, 1));

    // That a link leads to nothing is something else.
    std::os::unix::fs::symlink("nowhere", file.path()).unwrap();
    let mut dangling = command();
    dangling.env("CONFIGURATION_DIRECTORY", folder).args(["--listen", "tcp://127.0.0.1:0"]);
    assert_refused(dangling, 78, "No such file or directory");

    let mut wanted = command();
    wanted.args(["--config", file.path()]);
    assert_refused(wanted, 78, "No such file or directory");
}

#[test]
fn what_is_wrong_in_the_file_is_78_with_its_line() {
    for (text, told) in [
        (
            "\nmax_connections = 5",
            ":2: unknown key \"max_connections\"; the nearest known one is \"max-connections\"",
        ),
        ("linger = \"0s\"", ":1: invalid value '0s' for linger: must be above 0"),
        (
            "listen = [\"tcp://127.0.0.1:0\",\n \"ftp://127.0.0.1\"]",
            ":2: cannot listen on ftp://127.0.0.1: unknown scheme",
        ),
        (
            "listen = [\"tcp://127.0.0.1:7\",\n\"tcp://127.0.0.1:7?mode=raw\"]",
            ":2: cannot listen on tcp://127.0.0.1:7?mode=raw: tcp://127.0.0.1:7 is the same address",
        ),
        ("drain-timeout = \"30\"", ":1: invalid value '30'"),
        ("greeting = \"\u{1b}[2J", "echo-server.toml:1: "),
        ("max-connections = 99999999", "--max-connections 99999999 does not fit"),
    ] {
        let file = Settings::new(text);
        let (mut serve, mut check, mut print) = (command(), command(), command());
        serve.args(["--config", file.path()]);
        check.args(["check", "--config", file.path()]);
        print.args(["--print-config", "--config", file.path()]);
        for command in [serve, check, print] {
            assert_refused(command, 78, told);
        }
    }
    // Text of another encoding, or so much of it that a character is cut.
    let file = Settings::new("");
    let long = "é".repeat(1 << 20);
    for (bytes, told) in [
        (&b"\n\ngreeting = \"gr\xfcezi\"\n"[..], "line 3 is not UTF-8"),
        (long.as_bytes(), "1 MiB"),
    ] {
        fs::write(file.path(), bytes).unwrap();
        assert_refused(with_args(&["check", "--config", file.path()]), 78, told);
    }
    for path in ["/", "/dev/zero", "/proc/self/mem"] {
        let mut command = command();
        command.args(["--config", path]);
        assert_refused(command, 78, &format!("cannot read {path}: "));
    }
}

#[test]
fn an_unknown_variable_is_refused() {
    for args in [&["check"][..], &["--print-config"], &["--listen", "tcp://127.0.0.1:0"]] {
        let mut command = with_args(args);
        command.env("ECHO_SERVER_MAX_FRAM", "5");
        assert_refused(command, 64, "the nearest known one is ECHO_SERVER_MAX_FRAME");
    }
}

#[test]
fn check_tells_what_would_not_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "not a socket").unwrap();
    let path = |name: &str| format!("unix:{}", folder.path().join(name).display());
    let (file, missing) = (path("file")[5..].to_owned(), path("no/such/folder")[5..].to_owned());
    for (args, code, told) in [
        (["--listen", "ftp://x"], 64, "unknown scheme"),
        (["--listen", "tcp://no-such-host.invalid:7777"], 69, "does not resolve"),
        (["--listen", "tcp://192.0.2.1:7777"], 69, "no such address"),
        (["--listen", "udp://192.0.2.1:7777"], 69, "no such address"),
        (["--listen", "udp://224.0.0.1:7777"], 69, "a multicast address is no single host's"),
        (["--listen", "udp://[ff02::1]:7777"], 69, "a multicast address is no single host's"),
        (["--listen", "udp://127.255.255.255:7"], 69, "a broadcast address is no single host's"),
        (["--listen", "tcp://224.0.0.1:7777"], 69, "a multicast address is no single host's"),
        (["--listen", &path("file")], 69, "not a socket"),
        (["--listen", &path("no/such/folder")], 69, "no such directory"),
        (["--control", &file], 69, "a file that is not a socket is there"),
        (["--control", &missing], 69, "no such directory"),
        (["--listen", "systemd:a%3Ab"], 64, "bad name"),
        (["--admin", "192.0.2.1:9777"], 69, "no such address"),
        (["--admin", "127.0.0.1"], 64, "no port"),
        (["--linger", "0"], 64, "no \"unlimited\""),
        (["--max-connections", "99999999"], 78, "does not fit"),
    ] {
        let mut before = command();
        before.args(args).arg("check");
        assert_refused(before, code, told);
        let mut behind = command();
        behind.arg("check").args(args);
        assert_refused(behind, code, told);
    }
    // Whether there is such a socket is seen when the unit starts, not in a shell.
    let of_the_manager = ["check", "--listen", "systemd:nobody", "--listen", "tcp://127.0.0.1:0"];
    let (code, said, _) = ends(with_args(&of_the_manager));
    assert_eq!(code, Some(0));
    let told = "; only the service manager can tell whether it has systemd:nobody";
    assert!(said.contains("2 to listen on") && said.ends_with(told), "{said}");
    let mut few = command_with_open_files(128);
    few.args(["check", "--max-connections", "65"]);
    assert_refused(few, 78, "at most 64");
}

/// Beside a server that runs with the same settings.
#[test]
fn check_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let unix = format!("unix:{}", path.display());
    let server = Server::start(&["--listen", "tcp://127.0.0.1:0", "--listen", &unix]);
    let (code, stdout, stderr) =
        ends(with_args(&["check", "--listen", &server.uris()[0], "--listen", &unix]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("right: 2 to listen on"), "{stdout}");
    drop(server);

    fs::remove_file(&path).unwrap();
    assert_eq!(ends(with_args(&["check", "--listen", &unix])).0, Some(0));
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(ends(with_args(&["check", "--listen", &unix])).0, Some(0));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://{}", taken.local_addr().unwrap());
    assert_eq!(ends(with_args(&["check", "--listen", &uri])).0, Some(0));
}

/// What the server itself needs twice: `check` says so as a start does, and neither blames another process.
#[test]
fn the_servers_own_addresses_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let name = folder.path().file_name().unwrap().display();
    // Free a moment ago; one that is taken now is a clash all the same.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for args in [
        [format!("--listen=tcp://127.0.0.1:{port}"), format!("--listen=tcp://localhost:{port}")],
        [format!("--listen=tcp://127.0.0.1:{port}"), format!("--listen=tcp://0.0.0.0:{port}")],
        [format!("--listen=udp://127.0.0.1:{port}"), format!("--listen=udp://0.0.0.0:{port}")],
        [format!("--listen=tcp://127.0.0.1:{port}"), format!("--admin=localhost:{port}")],
        [format!("--listen=unix:{path}/a"), format!("--listen=unix:{path}/../{name}/a")],
        [format!("--listen=unix:{path}/a"), format!("--control={path}//a")],
        [format!("--admin=unix:{path}/a"), format!("--control={path}/a")],
    ] {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let (code, _, stderr) = ends(with_args(&args));
        assert!(code == Some(69) && stderr.contains(": the server's own "), "{args:?}: {stderr}");
        assert_refused(with_args(&[&["check"], &args[..]].concat()), 69, ": the server's own ");
    }
    let apart =
        [&*format!("--listen=tcp://127.0.0.1:{port}"), &format!("--listen=udp://[::]:{port}")];
    assert_eq!(ends(with_args(&[&["check"], &apart[..]].concat())).0, Some(0));
}

/// Where there is no journal to log to; a start would say the same.
#[test]
fn check_looks_for_the_journal() {
    if Path::new("/run/systemd/journal/socket").exists() {
        assert_eq!(ends(with_args(&["check", "--log", "journald"])).0, Some(0));
    } else {
        assert_refused(with_args(&["check", "--log", "journald"]), 78, "try --log text");
    }
}

#[test]
fn print_config_says_where_each_setting_came_from() {
    let file = Settings::new("\nmax-frame = 4096\nlinger = \"1s\"\nidle-timeout = \"1h\"\n");
    let mut command = command_with_open_files(256);
    command.args(["--config", file.path(), "--print-config", "--linger", "2s"]);
    command.env("ECHO_SERVER_IDLE_TIMEOUT", "2h").env("RUST_LOG", "warn");
    command.env("RUNTIME_DIRECTORY", "/run/usual");
    let (code, stdout, stderr) = ends(command);
    assert_eq!(code, Some(0), "{stderr}");
    let path = file.path();
    for line in [
        "listen = [\"tcp://127.0.0.1:7777\", \"udp://127.0.0.1:7777\"]  # default",
        &format!("max-frame = 4096  # {path}:2"),
        "linger = \"2s\"  # option",
        "idle-timeout = \"2h\"  # ECHO_SERVER_IDLE_TIMEOUT",
        "log-level = \"warn\"  # RUST_LOG",
        "write-timeout = \"10s\"  # default",
        "control = \"/run/usual/control.sock\"  # default",
        "max-connections = 192  # default",
    ] {
        assert!(stdout.lines().any(|it| it == line), "{line} is not in: {stdout}");
    }
    let printed = Settings::new(&stdout);
    let mut again = support::command();
    again.args(["--config", printed.path(), "--print-config"]);
    assert_eq!(ends(again).0, Some(0));
}

/// A store that this user cannot write to is told before the start; in one that he can nothing is left.
#[test]
fn check_tries_the_folder_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(folder.path(), 0o755);
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    let private = store.join(".echo-server");
    let with = |mut command: Command, path: &Path| {
        command.args(["check", "--listen=tcp://127.0.0.1:0", "--files"]).arg(path);
        command
    };
    // Root may write anywhere.
    let root = rustix::process::geteuid().is_root();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let check = |path: &Path| with(support::command_under(if root { &nobody } else { &[] }), path);
    mode(&store, 0o777);
    assert_eq!(ends(check(&store)).0, Some(0));
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0);
    for bad in [0o555, 0o333, 0o666] {
        mode(&store, bad);
        assert_refused(check(&store), 78, "cannot store files in ");
    }
    mode(&store, 0o777);
    let server =
        Server::start(&["--listen=tcp://127.0.0.1:0", &format!("--files={}", store.display())]);
    assert_eq!(ends(with(command(), &store)).0, Some(0), "beside a server");
    drop(server);
    mode(&private, 0o555);
    assert_refused(check(&store), 78, "read, write and enter");
    assert_refused(check(&folder.path().join("none")), 78, "No such file");
    fs::write(folder.path().join("file"), "").unwrap();
    assert_refused(check(&folder.path().join("file")), 78, "Not a directory");
    mode(&private, 0o755);
}

//! `tls self-signed`: what it makes serves, and clients that trust it alone believe it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use echo_core::client::{Client, Options};
use echo_core::tls;
use support::ending::{Settings, assert_refused, ends, with_args};
use support::{PATIENCE, Server};
use tokio::runtime::Runtime;

fn made(out: &str, names: &[&str]) -> String {
    let mut args = vec!["tls", "self-signed", "--out", out];
    args.extend(names.iter().flat_map(|name| ["--name", name]));
    let (code, stdout, stderr) = ends(with_args(&args));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    stdout
}

/// The first line that openssl prints.
fn openssl(args: &[&str], input: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    let mut told = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut told).unwrap();
    // At the end of its input s_client leaves, replies or not.
    drop(stdin);
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert!(child.wait().unwrap().success(), "{args:?}: {complaint}");
    told
}

#[test]
fn clients_believe_it_by_name_and_by_address() {
    let settings = Settings::new("");
    let out = settings.beside("new/tls");
    let told = made(&out, &["localhost", "127.0.0.1", "other.example"]);
    let (cert, key) = (format!("{out}/cert.pem"), format!("{out}/key.pem"));
    for (path, mode) in [(&cert, 0o644), (&key, 0o600)] {
        assert!(told.contains(path.as_str()), "{told}");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, mode, "{path}");
    }
    assert!(told.contains(&format!("echo-client --ca {cert} tls://localhost:7777")), "{told}");
    let server =
        ["--listen", "tls://127.0.0.1:0", "--tls-cert", cert.as_str(), "--tls-key", key.as_str()];
    let mut server = Server::start(&server);
    let uri = server.uris()[0].clone();
    let port = uri.rsplit(':').next().unwrap().to_owned();
    let trusted = tls::Authorities::from_pem(&fs::read(&cert).unwrap()).unwrap();
    Runtime::new().unwrap().block_on(async {
        for host in ["localhost", "127.0.0.1"] {
            let tls = Some(tls::Client::new(Some(trusted.clone()), None).unwrap());
            let options =
                Options { tls, connect_timeout: PATIENCE, timeout: PATIENCE, ..Options::default() };
            let target: echo_core::Endpoint = format!("tls://{host}:{port}").parse().unwrap();
            let mut client = Client::connect(target, options).await.unwrap();
            assert_eq!(client.echo(b"hello").await.unwrap().payload, b"hello");
        }
    });
    if Command::new("openssl").arg("version").output().is_err() {
        support::skip("clients_believe_it_by_name_and_by_address", "openssl");
    } else {
        let address = format!("127.0.0.1:{port}");
        for check in [["-verify_hostname", "localhost"], ["-verify_ip", "127.0.0.1"]] {
            let common = ["s_client", "-quiet", "-no_ign_eof", "-verify_return_error"];
            let trust = ["-CAfile", cert.as_str(), "-connect", address.as_str()];
            let echoed = openssl(&[&common[..], &trust, &check].concat(), "hello\n");
            assert_eq!(echoed, "hello\n");
        }
        said_in_the_readme(&settings, &cert, &port);
        for (check, told) in [
            (["-checkhost", "other.example"], "does match"),
            (["-checkhost", "none.example"], "does NOT match"),
            (["-checkend", "7689600"], "will not expire"), // 89 days
            (["-checkend", "7776000"], "will expire"),     // 90 days
        ] {
            let args = ["x509", "-in", cert.as_str(), "-noout"];
            let shown = Command::new("openssl").args(args).args(check).output().unwrap().stdout;
            let shown = String::from_utf8(shown).unwrap();
            assert!(shown.contains(told), "{check:?}: {shown}");
        }
        let shown = openssl(&["x509", "-in", &cert, "-noout", "-fingerprint", "-sha256"], "");
        let print = shown.trim().rsplit('=').next().unwrap();
        assert!(told.contains(print), "{told} {shown}");
    }
    assert_eq!(server.stop(), Some(0));
}

/// The commands as README has them, for a name that resolves here. How long a pipe has to stay open depends on the
/// machine.
fn said_in_the_readme(settings: &Settings, cert: &str, port: &str) {
    let readme = include_str!("../../../README.md");
    let run = |command: &str| {
        assert!(readme.contains(command), "README says otherwise: {command}");
        let command = command.replace("echo.example:7777", &format!("localhost:{port}"));
        let command = command.replace("ca.pem", cert);
        let mut told = Vec::new();
        for seconds in [1, 4, 16] {
            let command = command.replace("sleep 1", &format!("sleep {seconds}"));
            let mut shell = Command::new("sh");
            shell.args(["-c", &command]).current_dir(Path::new(settings.path()).parent().unwrap());
            told = shell.output().unwrap().stdout;
            if !told.is_empty() {
                break;
            }
        }
        assert_eq!(String::from_utf8_lossy(&told), "hello\n", "{command}");
    };
    run(
        "(echo hello; sleep 1) | openssl s_client -quiet -no_ign_eof -CAfile ca.pem -connect echo.example:7777 2>/dev/null",
    );
    if Command::new("socat").arg("-V").output().is_err() {
        support::skip("said_in_the_readme", "socat");
        return;
    }
    run("echo hello | socat - OPENSSL:echo.example:7777,cafile=ca.pem");
}

#[test]
fn nothing_is_overwritten_and_nothing_half_made_stays() {
    let settings = Settings::new("");
    for (there, other) in [("cert.pem", "key.pem"), ("key.pem", "cert.pem")] {
        let out = settings.beside(there);
        fs::create_dir(&out).unwrap();
        let path = format!("{out}/{there}");
        fs::write(&path, "precious").unwrap();
        let command = with_args(&["tls", "self-signed", "--name", "localhost", "--out", &out]);
        let told = format!("cannot write {path}: it is there already: remove it, or");
        assert_refused(command, 73, &told);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(!fs::exists(format!("{out}/{other}")).unwrap(), "{other} stayed");
    }
    // Where no folder is, or can be: what to do, and nothing is changed.
    let file = settings.path();
    let text = fs::read_to_string(file).unwrap();
    let below = format!("{file}/below");
    for (out, told) in [
        (file, "it is no folder: give one with --out"),
        (&below, "a file is on the way: give another folder with --out"),
        ("/proc/1/new", "No such file or directory"),
    ] {
        let command = with_args(&["tls", "self-signed", "--name", "localhost", "--out", out]);
        assert_refused(command, 73, &format!("cannot write {out}: {told}"));
    }
    assert_eq!(fs::read_to_string(file).unwrap(), text);
    if rustix::process::geteuid().is_root() {
        // As somebody whose folder it is not.
        let out = "/root/echo-server-never";
        let mut command = support::command_under(&["setpriv", "--reuid=65534", "--clear-groups"]);
        command.args(["tls", "self-signed", "--name", "localhost", "--out", out]);
        assert_refused(
            command,
            73,
            "Permission denied: give a folder with --out that this user may",
        );
        assert!(!fs::exists(out).unwrap());
    }
}

#[test]
fn wrong_names_and_times_are_refused() {
    let settings = Settings::new("");
    let out = settings.beside("none");
    let long = "a".repeat(64);
    let names = ["", "a b", "a..b", ".a", "a.", "-a", "a-", "é.example", "a/b", "*.example", &long];
    for name in names.into_iter().chain(["localhost:7777", "[::1]", "300.1.1.1", "1.2.3"]) {
        let name = format!("--name={name}");
        let command = with_args(&["tls", "self-signed", &name, "--out", &out]);
        assert_refused(command, 64, "write a DNS name or an IP address");
    }
    for days in ["0", "3651", "x"] {
        let args = ["tls", "self-signed", "--name", "a", "--out", &out, "--days", days];
        assert_refused(with_args(&args), 64, "--days");
    }
    assert_refused(with_args(&["tls", "self-signed", "--out", &out]), 64, "--name");
    assert_refused(with_args(&["tls", "self-signed", "--name", "a"]), 64, "--out");
    assert!(!fs::exists(&out).unwrap());
}

#[test]
fn an_ipv6_address_is_a_name() {
    let settings = Settings::new("");
    let out = settings.beside("six");
    assert!(made(&out, &["::1"]).contains("tls://[::1]:7777"));
}

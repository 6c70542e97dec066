//! Fault 65: secrets that were planted are found in no output, no argument, no file, and in no memory that
//! does not need them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::daemon::program;
use support::has;

/// A process that does not outlive its test.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        command.env_remove("ECHO_PASSWORD").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn proc(&self, name: &str) -> Vec<u8> {
        fs::read(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// All memory of the process, as gdb reads it for who may.
    fn core(&self, folder: &Path) -> Option<Vec<u8>> {
        let (name, id) = (folder.join("core"), self.child.id().to_string());
        let output = Command::new("gcore").arg("-o").arg(&name).arg(&id).output().unwrap();
        let path = folder.join(format!("core.{id}"));
        let core = fs::read(&path);
        if core.is_err() {
            missing(&format!(
                "the right to read memory: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        let _ = fs::remove_file(path);
        core.ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::print_stderr, reason = "what a test lacks is said there")]
fn missing(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run: {what}");
    eprintln!("SKIPPED: {what}");
}

/// A folder with a certificate, a user, and a store.
struct House {
    folder: tempfile::TempDir,
    password: String,
    key: Vec<u8>,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Of its own in each run: no copy is from elsewhere.
        let password: String = std::iter::repeat_with(fastrand::alphanumeric).take(24).collect();
        let mut house = Self { folder, password, key: Vec::new() };
        fs::write(house.path("password"), format!("{}\n", house.password)).unwrap();
        fs::create_dir(house.path("store")).unwrap();
        let mut made = Command::new(program());
        made.args(["tls", "self-signed", "--name", "127.0.0.1", "--out"]).arg(house.path("tls"));
        fs::create_dir(house.path("tls")).unwrap();
        assert!(made.output().unwrap().status.success());
        house.key = fs::read(house.path("tls/key.pem")).unwrap();
        let mut added = Command::new(program());
        added.args(["user", "add", "alice", "--allow", "echo,list,get,put", "--users"]);
        added.arg(house.path("users.toml")).arg("--password-file").arg(house.path("password"));
        assert!(added.output().unwrap().status.success());
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn serve(&self) -> Running {
        let mut command = Command::new(program());
        command.arg("--listen=tls://127.0.0.1:0?auth=required").arg("--log-level=trace");
        command.args(["--access-log", "--log=json", "--tls-cert"]).arg(self.path("tls/cert.pem"));
        command.arg("--tls-key").arg(self.path("tls/key.pem"));
        command.arg("--users").arg(self.path("users.toml"));
        command.arg("--files").arg(self.path("store"));
        command.stderr(File::create(self.path("server.log")).unwrap());
        Running::start(command)
    }

    /// A client's command for a server with that `listening` line.
    fn client(&self, listening: &str, task: &str) -> Command {
        let target = listening.strip_prefix("listening ").unwrap().split('?').next().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
        command.arg(task).arg(target).args(["--user", "alice", "--password-file"]);
        command.arg(self.path("password")).arg("--ca").arg(self.path("tls/cert.pem"));
        command.env("XDG_STATE_HOME", self.path("state"));
        command.stderr(File::create(self.path("client.log")).unwrap());
        command
    }

    /// Lines of the key as it stands in its file, and the number that it is about.
    fn key_secrets(&self) -> Vec<Vec<u8>> {
        let lines = self.key.split(|byte| *byte == b'\n').filter(|line| line.len() > 32);
        let mut secrets: Vec<_> =
            lines.filter(|line| line[0] != b'-').map(<[u8]>::to_vec).collect();
        let mut der = Command::new("openssl");
        der.args(["pkey", "-outform", "DER", "-in"]).arg(self.path("tls/key.pem"));
        let der = der.output().unwrap().stdout;
        // An octet string of 32 bytes: RFC 5915, section 3.
        let at = der.windows(2).position(|it| it == [4, 32]).unwrap() + 2;
        secrets.push(der[at..at + 32].to_vec());
        secrets
    }
}

/// By the first byte, then the rest: memory is long.
fn contains(bytes: &[u8], secret: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == secret[0]) {
        if rest[at..].starts_with(secret) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[test]
fn planted_secrets_are_found_nowhere() {
    let house = House::new();
    let (password, keys) = (house.password.as_bytes(), house.key_secrets());
    let mut server = house.serve();
    let listening = server.line();
    let mut command = house.client(&listening, "send");
    command.args(["--stdin-lines"]).stdin(Stdio::piped());
    let mut client = Running::start(command);
    let mut stdin = client.child.stdin.take().unwrap();
    stdin.write_all(b"logged in\n").unwrap();
    assert_eq!(client.line(), "logged in");
    for running in [&server, &client] {
        for name in ["cmdline", "environ"] {
            let text = running.proc(name);
            assert!(!contains(&text, password) && !keys.iter().any(|it| contains(&text, it)));
        }
    }
    if has("planted_secrets_are_found_nowhere", "gcore", "--version") {
        while_connected(&house, &server, &client);
    }
    drop(stdin);
    assert!(client.child.wait().unwrap().success());
    let mut put = house.client(&listening, "put");
    put.arg(house.path("users.toml")).stdin(Stdio::null());
    assert!(put.output().unwrap().status.success());
    server.signal(Signal::TERM);
    assert!(server.child.wait().unwrap().success());
    let mut rest = Vec::new();
    server.stdout.read_to_end(&mut rest).unwrap();
    client.stdout.read_to_end(&mut rest).unwrap();
    fs::write(house.path("outputs"), rest).unwrap();
    let mut folders = vec![house.folder.path().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("password") && !path.ends_with("key.pem") {
                let text = fs::read(&path).unwrap();
                assert!(!contains(&text, password), "{}", path.display());
                assert!(!keys.iter().any(|it| contains(&text, it)), "{}", path.display());
                files += 1;
            }
        }
    }
    let log = fs::metadata(house.path("server.log")).unwrap().len();
    assert!(files >= 6 && log > 200, "{files} files, {log} bytes of log");
}

/// What who may read all memory finds in it: no password, on either side; the key in the server alone,
/// which signs with it and cannot do without.
fn while_connected(house: &House, server: &Running, client: &Running) {
    let keys = house.key_secrets();
    let number = keys.last().unwrap();
    if let Some(core) = client.core(house.folder.path()) {
        assert!(contains(&core, b"alice"), "this is the client's memory");
        assert!(!contains(&core, house.password.as_bytes()), "the client keeps the password");
        assert!(!keys.iter().any(|it| contains(&core, it)), "the client has the server's key");
    }
    if let Some(core) = server.core(house.folder.path()) {
        assert!(contains(&core, b"alice"), "this is the server's memory");
        assert!(!contains(&core, house.password.as_bytes()), "the server has seen the password");
        // Else the search would prove nothing. A number may lie there from its small end.
        let reversed: Vec<u8> = number.iter().rev().copied().collect();
        let found = keys.iter().chain([&reversed]).any(|it| contains(&core, it));
        assert!(found, "the server has no key");
    }
}

/// The kernel writes no core of who holds secrets, whatever the limits say.
#[test]
fn no_core_is_written_of_who_holds_secrets() {
    let house = House::new();
    let bare = |mut command: Command| {
        command.current_dir(house.folder.path());
        Running::start(command)
    };
    let unlimited = |command: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -c unlimited && exec \"$@\"", "sh"]).arg(command.get_program());
        shell.args(command.get_args()).stdin(Stdio::piped()).stderr(Stdio::null());
        shell
    };
    let aborted = |mut running: Running| {
        running.signal(Signal::ABORT);
        let status = running.child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
        status.core_dumped()
    };
    let mut plain = Command::new(program());
    plain.arg("--listen").arg(format!("unix:{}", house.path("socket").display()));
    let mut plain = bare(unlimited(&plain));
    plain.line();
    if !aborted(plain) {
        return missing("a host where cores are written");
    }
    let mut guarded = Command::new(program());
    guarded.args(["--listen=tls://127.0.0.1:0", "--tls-cert"]).arg(house.path("tls/cert.pem"));
    guarded.arg("--tls-key").arg(house.path("tls/key.pem"));
    let mut guarded = bare(unlimited(&guarded));
    guarded.line();
    assert!(!aborted(guarded), "a core with a key in it");
    let mut users = Command::new(program());
    users.arg("--listen").arg(format!("unix:{}", house.path("other").display()));
    users.arg("--users").arg(house.path("users.toml"));
    let mut users = bare(unlimited(&users));
    users.line();
    assert!(!aborted(users), "a core with verifiers in it");
    let mut server = house.serve();
    let listening = server.line();
    let mut client = bare(unlimited(house.client(&listening, "send").arg("--stdin-lines")));
    client.child.stdin.as_mut().unwrap().write_all(b"logged in\n").unwrap();
    assert_eq!(client.line(), "logged in");
    assert!(!aborted(client), "a core of a client with a user");
}

/// No address has a password; who writes one is told so without it.
#[test]
fn passwords_in_addresses_are_not_told() {
    let client = env!("CARGO_BIN_EXE_echo-client");
    let address = "tls://bob:SeCrEtPw@127.0.0.1:1";
    for (program, args) in [
        (Path::new(client), &["send", address, "hi"][..]),
        (Path::new(client), &["ls", "bob:SeCrEtPw@127.0.0.1"]),
        (program(), &["--listen", address]),
        (program(), &["healthcheck", address]),
    ] {
        let output = Command::new(program).args(args).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{told}");
        assert!(told.contains("bob:…@127.0.0.1") && !told.contains("SeCrEtPw"), "{told}");
    }
}

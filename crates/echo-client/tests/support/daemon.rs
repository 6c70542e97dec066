//! The workspace's own server as a process, so that it can be stopped and started again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A running echo-server.
pub(crate) struct Daemon {
    child: Child,
    /// Where it listens, as it says.
    pub(crate) target: String,
}

impl Daemon {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = Command::new(program())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let target = line.trim_end().strip_prefix("listening ").unwrap().to_owned();
        Self { child, target }
    }

    /// A server on a socket in a folder of its own.
    pub(crate) fn of_its_own() -> (TempDir, Self) {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Self::on_socket(folder.path());
        (folder, daemon)
    }

    /// A server on a socket in `folder`: unlike a port, nobody else takes it between two of them.
    pub(crate) fn on_socket(folder: &Path) -> Self {
        Self::start(&["--listen", &format!("unix:{}", folder.join("socket").display())])
    }

    /// Stops it in order, and waits for its end.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().unwrap().success());
    }

    /// Waits for its end, however that is.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's program, built from what its sources are now: `cargo test -p echo-client` alone does
/// not build it, and one that lies there may be of yesterday.
pub(crate) fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build)
}

fn build() -> PathBuf {
    // .../debug/echo-client
    let profile = match Path::new(env!("CARGO_BIN_EXE_echo-client")).parent().unwrap().file_name() {
        Some(name) if name == "debug" => "dev".as_ref(),
        name => name.unwrap(),
    };
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--package=echo-server", "--bin=echo-server"])
        .args(["--message-format=json-render-diagnostics", "--profile"])
        .arg(profile)
        .arg("--target-dir")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "echo-server does not build");
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        message["executable"].as_str().map(PathBuf::from)
    });
    let program = programs.next_back().unwrap();
    assert_eq!(program.file_name().unwrap(), "echo-server");
    program
}

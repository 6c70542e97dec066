//! Commands that end by themselves, and files of settings for them.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::{PATIENCE, Server, command};

/// Runs a command: its exit code, stdout and stderr.
pub(crate) fn ends(command: Command) -> (Option<i32>, String, String) {
    let mut server = Server::spawn(command);
    let code = server.wait(PATIENCE).code();
    (code, server.stdout(), server.stderr())
}

/// The server's command with these arguments.
pub(crate) fn with_args(args: &[&str]) -> Command {
    let mut command = command();
    command.args(args);
    command
}

/// Checks that a command ends with `code` and one line that contains `told`.
#[track_caller]
pub(crate) fn assert_refused(command: Command, code: i32, told: &str) {
    let shown = format!("{command:?}");
    let (ended, stdout, stderr) = ends(command);
    assert_eq!((ended, stdout.as_str()), (Some(code), ""), "{shown}: {stderr}");
    assert!(stderr.starts_with("echo-server: ") && stderr.contains(told), "{shown}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{shown}: {stderr}");
}

/// A file of settings in a folder of its own, with room for sockets.
pub(crate) struct Settings {
    folder: TempDir,
    path: PathBuf,
}

impl Settings {
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("echo-server.toml");
        let settings = Self { folder, path };
        settings.write(text);
        settings
    }

    /// Replaces the file in one step, as editors do.
    pub(crate) fn write(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).expect("the file can be written");
        fs::rename(new, &self.path).expect("the file can be replaced");
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().expect("a path of plain characters")
    }

    /// The path of something else in the folder.
    pub(crate) fn beside(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path of plain characters").to_owned()
    }
}

//! Other people's servers.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// A server in a group of processes of its own, all of which are killed when the test ends.
pub(crate) struct Peer {
    child: Child,
    _folder: TempDir,
}

impl Peer {
    pub(crate) fn start(program: &str, args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), program, args)
    }

    /// xinetd's built-in echo, with these settings; each line of them ends with `\n`.
    pub(crate) fn xinetd(settings: &str) -> Self {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name).display().to_string();
        let (config, pid) = (path("xinetd.conf"), path("pid"));
        let service =
            format!("service echo\n{{\n type = INTERNAL UNLISTED\n{settings} user = {user}}}\n");
        std::fs::write(&config, service).unwrap();
        Self::start_in(folder, "xinetd", &["-dontfork", "-f", &config, "-pidfile", &pid])
    }

    fn start_in(folder: TempDir, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), _folder: folder }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

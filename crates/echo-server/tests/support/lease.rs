//! A file that cannot be opened for now.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Holds a lease on a file: who opens it waits until the lease is given back, as on a file system that hangs.
const HOLD: &str = "import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()
";

/// Held until it is dropped.
pub(crate) struct Lease(Child);

impl Lease {
    pub(crate) fn hold(path: impl AsRef<Path>) -> Self {
        let mut holder = Command::new("python3")
            .args(["-c", HOLD])
            .arg(path.as_ref())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut said = [0; 5];
        let told = holder.stdout.take().expect("stdout is collected").read_exact(&mut said);
        told.expect("the lease is held");
        Self(holder)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

//! The units as they are shipped, under a real systemd that each test boots for itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![allow(clippy::panic, reason = "helpers of tests fail as tests do")]

mod inside;
mod crashes;
mod journal;
mod restarts;
#[path = "../support/mod.rs"]
mod support;
mod units;

use std::path::Path;
use std::process::Command;
use std::{env, thread};

use support::skip;

/// Set where the test already runs under systemd.
const INSIDE: &str = "ECHO_TEST_INSIDE";

/// Longer than all waits of a test together; a machine that does not boot systemd ends before.
const TIME_LIMIT: &str = "600";

/// Runs `scenario` in this very test, run once more inside of a systemd that has the shipped units.
fn under_systemd(scenario: fn()) {
    if env::var_os(INSIDE).is_some() {
        inside::install();
        return scenario();
    }
    let test = thread::current().name().unwrap().to_owned();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exe = env::current_exe().unwrap();
    // Of the target folder, with the server in it.
    let built = Path::new(env!("CARGO_BIN_EXE_echo-server")).parent().unwrap();
    let output = Command::new("timeout")
        .args(["--kill-after=10", TIME_LIMIT, "bash"])
        .arg(package.join("tests/systemd/under-systemd.sh"))
        .arg(package.join("dist/echo-server.service"))
        .arg(package.join("dist/echo-server.socket"))
        .arg("--")
        .arg(exe)
        .args(["--exact", &test, "--nocapture"])
        .env(INSIDE, "1")
        .env("BIND", built)
        .current_dir(package)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => assert!(
            String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "it did not run inside"
        ),
        Some(77) => skip(&test, said.lines().last().unwrap_or_default()),
        code => panic!("{code:?}: {}{said}", String::from_utf8_lossy(&output.stdout)),
    }
}

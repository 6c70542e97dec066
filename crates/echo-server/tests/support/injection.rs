//! System calls made to fail, by strace.

#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::process::eventually;
use super::{Server, skip};

/// A server under strace, which makes a system call fail in each of its threads. The tracer is its
/// child, so that the process and its exit are the server's own.
pub(crate) fn start_injected(log: &Path, injection: &str, args: &[&str]) -> Server {
    let listeners = args.iter().filter(|arg| arg.starts_with("--listen")).count();
    Server::start_command(injected(&[], log, injection, args), listeners)
}

/// The command of such a server, with more options of strace.
pub(crate) fn injected(options: &[&str], log: &Path, injection: &str, args: &[&str]) -> Command {
    let plain = super::command();
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-e", &format!("inject={injection}")]).args(options);
    command.arg("-o").arg(log).arg(plain.get_program()).args(args);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Whether strace is there and may trace.
pub(crate) fn can_inject(test: &str) -> bool {
    let probe = Command::new("strace").args(["-D", "-o", "/dev/null", "true"]).output();
    let works = probe.is_ok_and(|output| output.status.success());
    if !works {
        skip(test, "strace, and the right to trace");
    }
    works
}

/// Waits until the trace shows that the system call has failed as it was told to: strace writes it down in its own time.
pub(crate) fn wait_until_injected(trace: &Path) {
    eventually("the trace shows the error", || {
        fs::read_to_string(trace).is_ok_and(|trace| trace.contains("(INJECTED)"))
    });
}

/// Runs each of the cases, two at a time.
pub(crate) fn each<T: Copy + Send + Sync>(cases: &[T], run: impl Fn(T) + Sync) {
    let (first, second) = cases.split_at(cases.len() / 2);
    thread::scope(|scope| {
        for half in [first, second] {
            let run = &run;
            scope.spawn(move || half.iter().for_each(|case| run(*case)));
        }
    });
}

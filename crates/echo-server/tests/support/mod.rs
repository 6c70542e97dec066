//! A running `echo-server` for black-box tests.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail as tests do"
)]

pub(crate) mod ending;
pub(crate) mod http;
pub(crate) mod injection;
pub(crate) mod lease;
pub(crate) mod manager;
pub(crate) mod process;
pub(crate) mod traffic;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// How long anything may take before a test gives up: generous, as the machine may be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A child process that is killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    uris: Vec<String>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Server {
    /// Starts a server with these arguments and waits until it says that it listens, once for each
    /// `--listen`.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = command();
        command.args(args);
        let listeners = args.iter().filter(|arg| arg.starts_with("--listen")).count();
        Self::start_command(command, listeners)
    }

    /// Starts a prepared [`command`] and waits for that many `listening` lines. Output that the
    /// caller has redirected is not collected.
    pub(crate) fn start_command(command: Command, listeners: usize) -> Self {
        let mut server = Self::spawn(command);
        let lines = server.stdout.as_ref().expect("stdout is collected").wait_for_lines(listeners);
        server.uris = lines
            .iter()
            .map(|line| match line.strip_prefix("listening ") {
                Some(uri) => uri.to_owned(),
                None => panic!("not a listening line: {line:?}"),
            })
            .collect();
        let got = server.uris.len();
        assert_eq!(got, listeners, "of its listening lines; stderr: {}", server.stderr());
        server
    }

    /// Starts a prepared [`command`] and waits for nothing.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the server starts");
        let stdout = child.stdout.take().map(Output::collect);
        let stderr = child.stderr.take().map(Output::collect);
        Self { child, uris: Vec::new(), stdout, stderr }
    }

    /// The URIs of the `listening` lines, in their order.
    pub(crate) fn uris(&self) -> &[String] {
        &self.uris
    }

    /// The address of the first listener, which is a TCP one.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// The address of a TCP or UDP listener.
    pub(crate) fn address_of(&self, index: usize) -> SocketAddr {
        let uri = &self.uris[index];
        let rest = uri.strip_prefix("tcp://").or_else(|| uri.strip_prefix("udp://"));
        let rest = rest.unwrap_or_else(|| panic!("{uri} is no IP address"));
        let address = rest.split('?').next().unwrap_or_default();
        address.parse().unwrap_or_else(|error| panic!("{uri}: {error}"))
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server is there to be signalled");
    }

    /// Whether the process has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits for the process to end; panics when it has not after `deadline`.
    pub(crate) fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(started.elapsed() < deadline, "still running after {deadline:?}");
            thread::sleep(Duration::from_millis(1)); // std can only poll with a deadline.
        }
    }

    /// Sends SIGTERM, waits for the end and gives the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait(PATIENCE).code()
    }

    /// What has come on stderr so far; all of it once the process has ended.
    pub(crate) fn stderr(&mut self) -> String {
        let ended = !self.is_running();
        self.stderr.as_ref().map(|output| output.text(ended)).unwrap_or_default()
    }

    /// What has come on stdout so far; all of it once the process has ended.
    pub(crate) fn stdout(&mut self) -> String {
        let ended = !self.is_running();
        self.stdout.as_ref().map(|output| output.text(ended)).unwrap_or_default()
    }

    /// Waits until a line on stderr contains `needle`, and gives that line.
    pub(crate) fn wait_for_stderr(&self, needle: &str) -> String {
        self.stderr.as_ref().expect("stderr is collected").wait_for(needle)
    }

    /// Waits until so many lines on stderr contain `needle`.
    pub(crate) fn wait_for_stderr_times(&self, needle: &str, count: usize) {
        self.stderr.as_ref().expect("stderr is collected").wait_for_times(needle, count);
    }

    /// The numbers of the summary line, which is the last on stderr: `summary()["forced"]`. The
    /// process has ended.
    pub(crate) fn summary(&mut self) -> BTreeMap<String, u64> {
        let stderr = self.stderr();
        let last = stderr.lines().last().unwrap_or_default();
        let (took, numbers) = last
            .strip_prefix("drained in ")
            .and_then(|rest| rest.split_once("s: "))
            .unwrap_or_else(|| panic!("no summary at the end of: {stderr}"));
        assert!(took.parse::<f64>().is_ok(), "not a time: {last:?}");
        let summary = counters(numbers);
        let ends = ["completed", "quiet", "forced", "failed", "panicked"];
        let ended = ends.iter().map(|end| summary[*end]).sum::<u64>();
        assert_eq!(summary["connections"], ended, "the ends do not add up: {last:?}");
        summary
    }
}

/// The numbers of a line, by their names: `answered=5`.
fn counters(line: &str) -> BTreeMap<String, u64> {
    let words = line.split(' ').filter_map(|word| word.split_once('='));
    words.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

impl Server {
    /// What became of the datagrams, as the log says at the end: `["over_rate"]`, 0 where it says
    /// nothing. The sum is checked. The process has ended.
    pub(crate) fn datagrams(&mut self) -> Datagrams {
        let stderr = self.stderr();
        let line = stderr.lines().find(|line| line.contains("datagrams: "));
        let counters = Datagrams(counters(line.unwrap_or_default()));
        let ends = ["answered", "truncated", "refused_port", "refused_address", "over_rate"];
        let more = ["loop_guard", "probe_replies", "unnamed", "blocked", "failed"];
        let ended = ends.iter().chain(&more).map(|end| counters.get(end)).sum::<u64>();
        assert_eq!(counters.get("received"), ended, "the ends do not add up: {line:?}");
        counters
    }
}

/// The counters of datagrams.
#[derive(Debug)]
pub(crate) struct Datagrams(BTreeMap<String, u64>);

impl Datagrams {
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either fails when the process has ended, which is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the server's stderr:\n{}---", self.stderr());
        }
    }
}

/// The server's command with its output piped and nothing of this process's settings. A test adds
/// arguments and redirects as it likes before [`Server::start_command`].
pub(crate) fn command() -> Command {
    command_under(&[])
}

/// The server's [`command`] under another one that executes it: `["prlimit", "--nofile=64"]`. Most
/// such commands become the server, so that signals reach it; those that stay do not pass them on.
pub(crate) fn command_under(wrapper: &[&str]) -> Command {
    let server = env!("CARGO_BIN_EXE_echo-server");
    let mut words = wrapper.iter().chain([&server]);
    let mut command = Command::new(words.next().expect("there is at least the server"));
    command.args(words);
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| name.starts_with("ECHO_SERVER_"));
        if ours || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A [`command`] whose process may open at most `open_files` files, as soft and as hard limit.
pub(crate) fn command_with_open_files(open_files: u32) -> Command {
    let script = r#"ulimit -n "$0" && exec "$@""#;
    command_under(&["sh", "-c", script, &open_files.to_string()])
}

/// Says that a test cannot run here, or fails where it must (`CI=true`).
pub(crate) fn skip(test: &str, missing: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} cannot run: {missing}");
    eprintln!("SKIPPED {test}: {missing}");
}

/// The lines of a pipe, collected by a thread so that the other end never blocks.
struct Output(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Output {
    fn collect(pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Lines::default()), Condvar::new()));
        let output = Self(Arc::clone(&shared));
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                shared.0.lock().expect("no holder panics").lines.push(text);
                shared.1.notify_all();
                line.clear();
            }
            shared.0.lock().expect("no holder panics").ended = true;
            shared.1.notify_all();
        });
        output
    }

    /// Waits until `done`, the pipe's end or [`PATIENCE`].
    fn wait_until<T>(&self, done: impl Fn(&Lines) -> Option<T>) -> Result<T, String> {
        let deadline = Instant::now() + PATIENCE;
        let (lines, changed) = &*self.0;
        let mut lines = lines.lock().expect("no holder panics");
        loop {
            if let Some(found) = done(&lines) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                return Err(lines.lines.join("\n"));
            }
            lines = changed.wait_timeout(lines, left).expect("no holder panics").0;
        }
    }

    fn wait_for_times(&self, needle: &str, count: usize) {
        let found = |got: &Lines| got.lines.iter().filter(|line| line.contains(needle)).count();
        let waited = self.wait_until(|got| (found(got) >= count).then_some(()));
        waited.unwrap_or_else(|text| panic!("no {count} times {needle:?} in: {text}"));
    }

    fn wait_for(&self, needle: &str) -> String {
        self.wait_until(|got| got.lines.iter().find(|line| line.contains(needle)).cloned())
            .unwrap_or_else(|text| panic!("no {needle:?} in: {text}"))
    }

    /// The first lines: `count` of them, or fewer at the end of the pipe.
    fn wait_for_lines(&self, count: usize) -> Vec<String> {
        let lines = self.wait_until(|got| Some(got.lines.get(..count)?.to_vec()));
        lines.unwrap_or_else(|text| text.lines().map(str::to_owned).collect())
    }

    /// What has been collected; everything once the other end is closed.
    fn text(&self, ended: bool) -> String {
        let all = self.wait_until(|got| (got.ended || !ended).then(|| got.lines.join("\n")));
        all.unwrap_or_else(|text| text)
    }
}

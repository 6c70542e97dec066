//! What the kernel says of a process and its sockets.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use super::{PATIENCE, traffic::Peer};

/// Whether the long campaigns were asked for.
pub(crate) fn long() -> bool {
    std::env::var_os("LONG").is_some()
}

/// Polls until `done`; fails with what was waited for after [`PATIENCE`].
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// How many descriptors the process has open.
pub(crate) fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").count()
}

/// A size of `/proc/PID/status` in KiB: `VmRSS`, `VmSize`.
pub(crate) fn kib(pid: Pid, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.strip_suffix("kB"))
        .and_then(|size| size.trim().parse().ok())
        .unwrap_or_else(|| panic!("no {name} in: {status}"))
}

/// The processor time that the process has used, in clock ticks of 10 ms.
pub(crate) fn ticks(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let time = |index| after_name.split(' ').nth(index).and_then(|time| time.parse::<u64>().ok());
    time(11).zip(time(12)).map(|(user, system)| user + system).expect("utime and stime")
}

/// Whether SIGSTOP has reached every thread.
pub(crate) fn is_stopped(pid: Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
    })
}

/// Sets the soft limit of a running child. It shares our hard limit, which stays, so that the limit
/// can be raised again.
pub(crate) fn limit(pid: Pid, resource: Resource, value: u64) {
    let limit = Rlimit { current: Some(value), maximum: getrlimit(resource).maximum };
    prlimit(Some(pid), resource, limit).expect("a child can be limited");
}

/// Limits a running child to the descriptors it has and so many more. What counts for the kernel is
/// the number of a descriptor, and a child may have inherited some with high ones.
pub(crate) fn leave_room(pid: Pid, more: usize) {
    let directory = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    let used: Vec<u64> =
        directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let last = (0..).filter(|number| !used.contains(number)).nth(more).expect("a free number");
    limit(pid, Resource::Nofile, last);
}

/// Raises this process's own descriptor limit as far as it goes; fails when that is not enough.
pub(crate) fn need_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(current >= count, "this test needs {count} descriptors, the hard limit is {current}");
}

/// What lies in the queues of this machine's TCP sockets, by local and remote port.
pub(crate) struct Queues(HashMap<(u16, u16), (u64, u64)>);

impl Queues {
    /// Reads them all.
    pub(crate) fn read() -> Self {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
        let lines = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
        Self(lines.filter_map(Self::row).collect())
    }

    /// Bytes that a socket has sent and that are not acknowledged. A closed socket has none.
    pub(crate) fn unacknowledged(&self, (local, remote): (u16, u16)) -> u64 {
        self.0.get(&(local, remote)).map_or(0, |queues| queues.0)
    }

    /// Bytes that wait in the other end of this socket to be read.
    pub(crate) fn unread_by_peer(&self, (local, remote): (u16, u16)) -> u64 {
        self.0.get(&(remote, local)).map_or(0, |queues| queues.1)
    }

    fn row(line: &str) -> Option<((u16, u16), (u64, u64))> {
        let mut fields = line.split_whitespace().skip(1);
        let mut port = || u16::from_str_radix(fields.next()?.rsplit(':').next()?, 16).ok();
        let ports = (port()?, port()?);
        let (sent, received) = fields.nth(1)?.split_once(':')?;
        let bytes = |field| u64::from_str_radix(field, 16).ok();
        Some((ports, (bytes(sent)?, bytes(received)?)))
    }
}

/// Waits until the server has read everything that was sent on these TCP connections. Many at once:
/// the kernel takes milliseconds to list its sockets.
pub(crate) fn settle<'a>(peers: impl IntoIterator<Item = &'a Peer>) {
    let ports: Vec<_> = peers.into_iter().filter_map(Peer::ports).collect();
    eventually("the server has read what was sent", || {
        let queues = Queues::read();
        let left = |ports: &_| queues.unacknowledged(*ports) + queues.unread_by_peer(*ports);
        ports.iter().map(left).sum::<u64>() == 0
    });
}

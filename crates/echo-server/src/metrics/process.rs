//! What this process uses, under the names that every Prometheus client has for it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::exposition::Exposition;

/// Reads without a new descriptor, since one may not be had when it matters.
#[derive(Debug)]
pub(crate) struct Process {
    started: SystemTime,
    memory: File,
}

impl Process {
    /// This process, which has just started.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { started: SystemTime::now(), memory: File::open("/proc/self/statm")? })
    }

    pub(super) fn expose(&self, out: &mut Exposition) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.gauge("process_start_time_seconds", "When the process started, since the epoch.")
            .sample(&[], started.as_secs_f64());
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::try_from(used).unwrap_or_default();
        out.counter("process_cpu_seconds", "Processor time that the process has used.")
            .sample(&[], used.as_secs_f64());
        if let Some((virtual_bytes, resident)) = self.memory() {
            out.gauge("process_virtual_memory_bytes", "Address space of the process.")
                .sample(&[], virtual_bytes);
            out.gauge("process_resident_memory_bytes", "Memory of the process.")
                .sample(&[], resident);
        }
        if let Some(open) = open_files() {
            out.gauge("process_open_fds", "Open descriptors.").sample(&[], open);
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            out.gauge("process_max_fds", "Descriptors that may be open.").sample(&[], most);
        }
    }

    /// Bytes of address space, and of them in memory: proc_pid_statm(5).
    fn memory(&self) -> Option<(u64, u64)> {
        let mut text = [0; 128];
        let read = self.memory.read_at(&mut text, 0).ok()?;
        let text = str::from_utf8(&text[..read]).ok()?;
        let mut bytes =
            text.split(' ').map(|pages| Some(pages.parse::<u64>().ok()? * page_size() as u64));
        Some((bytes.next()??, bytes.next()??))
    }
}

/// Linux 6.2 and later have the number as the directory's size; before that it must be read.
fn open_files() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // Less the one that reads them.
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64),
        open => Some(open),
    }
}

/// Connections that the kernel turned away since a listener's queue was full: proc(5), of the network
/// namespace.
pub(super) fn listen_overflows() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/net/netstat").ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let position = names.split(' ').position(|name| name == "ListenOverflows")?;
    values.split(' ').nth(position)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let process = Process::new().unwrap();
        let (virtual_bytes, resident) = process.memory().unwrap();
        assert!(resident >= 1 << 16 && virtual_bytes >= resident);
        assert!(listen_overflows().is_some());
        let before = open_files().unwrap();
        let files: Vec<_> = (0..10).map(|_| File::open("/dev/null").unwrap()).collect();
        assert!(open_files().unwrap() >= before.min(3) + files.len() as u64 - 3);
    }
}

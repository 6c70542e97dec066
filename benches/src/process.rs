//! What the benches ask of the system for their process: cores and descriptors.

use std::io;
use std::sync::LazyLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of server and client, or `None` on a machine with one. Asked for before anything is
/// pinned: a thread inherits its parent's core.
static CORES: LazyLock<Option<(usize, usize)>> = LazyLock::new(|| {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    Some((cores.next()?, cores.next_back()?))
});

/// Keeps the calling thread on the client's core.
pub fn pin_client() {
    CORES.map(|(_, client)| pin(client));
}

/// Keeps the calling thread, and those that it will start, on the server's core.
pub(crate) fn pin_server() {
    CORES.map(|(server, _)| pin(server));
}

/// Keeps the calling thread, and those that it will start, on that core.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // Only where it may not be: then the figures are noisier, and no less true.
    let _ = sched_setaffinity(None, &set);
}

/// Raises the soft limit of descriptors, 1,024 on most systems, to the hard one.
pub fn raise_file_limit() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

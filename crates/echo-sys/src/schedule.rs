//! How a thread is scheduled beside others.

use std::io;
use std::time::Duration;

/// Lets the calling thread give way to others: `nice` as in setpriority(2), and at most `slice` at once while
/// others wait (sched_setattr(2); before Linux 6.12 the slice is ignored). An unprivileged thread may only become
/// nicer than it is.
pub fn give_way(nice: i32, slice: Duration) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: slice.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as much of `attributes` as its size says, and keeps nothing. 0 is this thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! How a thread is scheduled beside others.

use std::io;
use std::time::Duration;

/// Lets the calling thread give way to others: `nice` as in setpriority(2), and at most `slice` at once while
/// others wait (sched_setattr(2); before Linux 6.12 the slice is ignored). Its policy stays; a
/// real-time one knows neither, which is an error. An unprivileged thread may
/// only become nicer than it is.
pub fn give_way(nice: i32, slice: Duration) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        // What was set for all threads of a service, as by CPUSchedulingPolicy=.
        sched_flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
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

#[cfg(test)]
mod tests {
    use std::fs::read_to_string;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_gives_way_and_keeps_its_policy() {
        // nice and policy: fields 19 and 41 of proc_pid_stat(5).
        let stands = || {
            let stat = read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            (fields[16].parse::<i32>().unwrap(), fields[38].parse::<i32>().unwrap())
        };
        thread::spawn(move || {
            let param = libc::sched_param { sched_priority: 0 };
            // SAFETY: `param` is read during the call; 0 is this thread.
            let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) };
            assert_eq!(set, 0);
            give_way(19, Duration::from_micros(100)).unwrap();
            assert_eq!(stands(), (19, libc::SCHED_BATCH));
        })
        .join()
        .unwrap();
    }
}

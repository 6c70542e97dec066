//! Descriptors that the service manager has passed.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// The first one: sd_listen_fds(3).
const FIRST: RawFd = 3;

/// Takes over the descriptors that a service manager has passed to this process: `count` of them,
/// from 3 on, as it says in `LISTEN_FDS`. Those of them that are not open end the list. A second
/// call has nothing to take.
///
/// To be called before anything else of the process opens descriptors, since one that was not passed
/// after all would be taken from its owner.
pub fn take_passed(count: usize) -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, SeqCst) {
        return Vec::new();
    }
    let last = RawFd::try_from(count).unwrap_or(RawFd::MAX - FIRST).saturating_add(FIRST);
    // SAFETY: fcntl only looks at a number, whatever it is.
    let is_open = |fd: &RawFd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0;
    // SAFETY: the descriptor is open, it was passed to this process for its own, and the swap above
    // lets nobody take it twice.
    (FIRST..last).take_while(is_open).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

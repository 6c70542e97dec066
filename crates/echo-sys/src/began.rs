//! Standard descriptors that this process was started without.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// A bit for each of the three.
static CLOSED: AtomicU8 = AtomicU8::new(0);

// SAFETY: the C library calls each function of this section once, before `main`, and hands it arguments that one without
// parameters need not take. `look` needs nothing of Rust's runtime, which is not there yet.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    for fd in 0..=2 {
        // SAFETY: fcntl only looks at a number, whatever it is.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << fd, Relaxed);
        }
    }
}

/// Whether this standard descriptor was closed when the process began. Rust's runtime opens `/dev/null` in its place, for
/// reading and writing, before `main`; others have their children begin with just that (daemon(3), Python's DEVNULL), and mean
/// it: only who looks before the runtime can tell.
pub fn began_closed(fd: BorrowedFd<'_>) -> bool {
    u32::try_from(fd.as_raw_fd()).is_ok_and(|fd| fd <= 2 && CLOSED.load(Relaxed) >> fd & 1 == 1)
}

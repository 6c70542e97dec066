//! Signals that are the kernel's again.

use std::io;

/// Has a signal do what it does to a process that never listened to it. Tokio's listeners of that signal hear no more of it,
/// later ones included.
///
/// # Errors
/// As of signal(2).
pub fn give_back(signal: i32) -> io::Result<()> {
    // SAFETY: no function of this process is to be called for it.
    match unsafe { libc::signal(signal, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

//! What the service manager is told: sd_notify(3). Without one, nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::env;
use std::io::pipe;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState::{self, *};
use tokio::task::spawn_blocking;

/// How far ahead, in microseconds, the end of a stop is put each time, as long as it makes progress: longer than a wait
/// in which nothing moves though all is well, as that for a peer's last byte.
const MORE_TIME: NotifyState<'static> = ExtendTimeoutUsec(30_000_000);

/// How many sockets the unit's `FileDescriptorStoreMax=` lets the manager keep.
const STORE: usize = 64;

/// Tells the manager, and remembers in which phase the service is.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    stopping: Cell<bool>,
    /// How many sockets it was given to keep, by their names.
    stored: RefCell<BTreeMap<String, usize>>,
}

impl Notify {
    /// Every socket is bound and served, at the start or after a reload.
    pub(crate) fn ready(&self, status: &str) {
        tell(&[Ready, Status(status)]);
    }

    /// The settings are being read anew.
    pub(crate) fn reloading(&self) {
        // What systemd 253 and later want of Type=notify-reload; others take it as a phase.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[Reloading, now]);
        }
    }

    /// The service ends, after a drain that takes its time.
    pub(crate) fn stopping(&self) {
        self.stopping.set(true);
        tell(&[Stopping, MORE_TIME]);
    }

    /// Whether it does.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// All loops turn.
    pub(crate) fn alive(&self, status: &str) {
        tell(&[Watchdog, Status(status)]);
    }

    /// The stop makes progress, and wants more time.
    pub(crate) fn progress(&self) {
        tell(&[MORE_TIME]);
    }

    /// How often the manager wants to hear that all is well, if it does.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|it| !it.is_zero())
    }

    /// Gives sockets to the manager, to be passed again under `name` after a crash. It takes them
    /// only where `FileDescriptorStoreMax=` says so.
    pub(crate) fn store(&self, name: &str, sockets: &[BorrowedFd<'_>]) {
        // Kept also while a socket reports an error.
        let state = [FdStore, FdName(name), Custom("FDPOLL=0")];
        log(sd_notify::notify_with_fds(&state, sockets));
        let managed = env::var_os("NOTIFY_SOCKET").is_some();
        let mut stored = self.stored.borrow_mut();
        let before: usize = stored.values().sum();
        *stored.entry(name.to_owned()).or_default() += sockets.len();
        if before <= STORE && before + sockets.len() > STORE && managed {
            tracing::warn!(
                "more than {STORE} sockets are given to the service manager: unless its \
                 FileDescriptorStoreMax= is raised, those beyond are lost in a crash"
            );
        }
    }

    /// Waits until the manager has done what it was told, so that sockets which it has forgotten are closed;
    /// for 5 s at most, as systemd's own sd_notify_barrier(3) is used.
    pub(crate) async fn settled(&self) {
        let Ok((reader, writer)) = pipe() else { return };
        // It closes what it is sent once it has read it.
        let sent = sd_notify::notify_with_fds(&[Custom("BARRIER=1")], &[writer.as_fd()]);
        drop(writer);
        log(sent);
        let closed = spawn_blocking(move || {
            let mut closed = [PollFd::new(&reader, PollFlags::empty())];
            let bound = Timespec { tv_sec: 5, tv_nsec: 0 };
            let _ = poll(&mut closed, Some(&bound));
        });
        let _ = closed.await;
    }

    /// Takes them back.
    pub(crate) fn forget(&self, name: &str) {
        tell(&[FdStoreRemove, FdName(name)]);
        self.stored.borrow_mut().remove(name);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    log(sd_notify::notify(state));
}

/// A manager that does not listen is no reason to stop.
fn log(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "cannot tell the service manager");
    }
}

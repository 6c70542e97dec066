//! What the service manager is told: sd_notify(3). Without one, nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;
use std::{env, thread};

use sd_notify::NotifyState::{self, *};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::pipe;
use tokio::time::{Instant, timeout_at};

/// How far ahead, in microseconds, the end of a start or a stop is put each time, as long as it makes progress: longer than a wait
/// in which nothing moves though all is well, as that for a peer's last byte.
const MORE_TIME: NotifyState<'static> = ExtendTimeoutUsec(30_000_000);

/// How many sockets the unit's `FileDescriptorStoreMax=` lets the manager keep.
const STORE: usize = 64;

/// How long the manager may take to close sockets: as systemd's own sd_notify_barrier(3) is used.
const BARRIER_TIME: Duration = Duration::from_secs(5);

/// How many messages may wait for a manager that does not read: those of an hour, or of hundreds of listeners.
/// Those beyond are dropped.
const WAITING: usize = 1024;

/// Tells the manager, and remembers in which phase the service is. It never waits: a thread does.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    /// None without a manager.
    telling: Option<Telling>,
    stopping: Cell<bool>,
    /// How many sockets it was given to keep, by their names.
    stored: RefCell<BTreeMap<String, usize>>,
}

/// The thread that tells, which a manager that does not read can block.
#[derive(Debug)]
struct Telling {
    messages: SyncSender<Message>,
    /// Closed when all is told.
    told: Receiver<()>,
}

#[derive(Debug)]
struct Message {
    text: String,
    sockets: Vec<OwnedFd>,
}

impl Notify {
    /// Starts the thread, if there is a manager.
    pub(crate) fn start() -> io::Result<Self> {
        if env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self::default());
        }
        let (messages, waiting) = sync_channel(WAITING);
        let (end, told) = channel();
        thread::Builder::new().name("notify".into()).spawn(move || tell_all(&waiting, &end))?;
        Ok(Self { telling: Some(Telling { messages, told }), ..Self::default() })
    }

    /// Every socket is bound and served, at the start or after a reload.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&[Ready, Status(status)]);
    }

    /// The settings are being read anew.
    pub(crate) fn reloading(&self) {
        // What systemd 253 and later want of Type=notify-reload; others take it as a phase.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(&[Reloading, now]);
        }
    }

    /// The service ends, after a drain that takes its time.
    pub(crate) fn stopping(&self) {
        self.stopping.set(true);
        self.tell(&[Stopping, MORE_TIME]);
    }

    /// Whether it does.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// All loops turn.
    pub(crate) fn alive(&self, status: &str) {
        self.tell(&[Watchdog, Status(status)]);
    }

    /// The start or the stop makes progress, and wants more time.
    pub(crate) fn progress(&self) {
        self.tell(&[MORE_TIME]);
    }

    /// How often the manager wants to hear that all is well, if it does.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|it| !it.is_zero())
    }

    /// Gives sockets to the manager, to be passed again under `name` after a crash. It takes them
    /// only where `FileDescriptorStoreMax=` says so.
    pub(crate) fn store(&self, name: &str, sockets: &[BorrowedFd<'_>]) {
        if self.telling.is_none() {
            return;
        }
        let duplicates = sockets.iter().map(|it| it.try_clone_to_owned()).collect();
        match duplicates {
            // Kept also while a socket reports an error.
            Ok(sockets) => self.tell_with(&[FdStore, FdName(name), Custom("FDPOLL=0")], sockets),
            Err(error) => tracing::warn!(%error, "{name} is lost in a crash"),
        }
        let mut stored = self.stored.borrow_mut();
        let before: usize = stored.values().sum();
        *stored.entry(name.to_owned()).or_default() += sockets.len();
        if before <= STORE && before + sockets.len() > STORE {
            tracing::warn!(
                "more than {STORE} sockets are given to the service manager: unless its \
                 FileDescriptorStoreMax= is raised, those beyond are lost in a crash"
            );
        }
    }

    /// Takes them back.
    pub(crate) fn forget(&self, name: &str) {
        self.tell(&[FdStoreRemove, FdName(name)]);
        self.stored.borrow_mut().remove(name);
    }

    /// Waits until the manager has done what it was told, so that sockets which it has forgotten are closed,
    /// but not for ever.
    pub(crate) async fn settled(&self) {
        let Ok((writer, mut reader)) = pipe() else { return };
        let Ok(writer) = writer.into_blocking_fd() else { return };
        // It closes what it is sent once it has read it.
        self.tell_with(&[Custom("BARRIER=1")], vec![writer]);
        let _ = timeout_at(Instant::now() + BARRIER_TIME, reader.read_u8()).await;
    }

    /// Waits until all is told, for so long at most.
    pub(crate) fn finish(self, patience: Duration) {
        if let Some(Telling { messages, told }) = self.telling {
            drop(messages);
            let _ = told.recv_timeout(patience);
        }
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        self.tell_with(state, Vec::new());
    }

    fn tell_with(&self, state: &[NotifyState<'_>], sockets: Vec<OwnedFd>) {
        let Some(telling) = &self.telling else { return };
        let lines: Vec<_> = state.iter().map(ToString::to_string).collect();
        if telling.messages.try_send(Message { text: lines.join("\n"), sockets }).is_err() {
            tracing::debug!("the service manager has not listened for long");
        }
    }
}

/// Tells what comes until nothing more can. `_end` is closed then.
fn tell_all(messages: &Receiver<Message>, _end: &Sender<()>) {
    for Message { text, sockets } in messages {
        let state = [Custom(&text)];
        let told = match &sockets[..] {
            [] => sd_notify::notify(&state),
            all => {
                let all: Vec<_> = all.iter().map(AsFd::as_fd).collect();
                sd_notify::notify_with_fds(&state, &all)
            }
        };
        // A manager that does not listen is no reason to stop.
        if let Err(error) = told {
            tracing::debug!(%error, "cannot tell the service manager");
        }
    }
}

//! An upload under way: its part, which one connection appends to, and which another one may take over.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Fault;
use super::jobs::{Jobs, run};
use super::part::Part;
use super::refusal::Refusal;

/// An upload whose peer has been silent for so long may be taken over by another connection of its owner:
/// the peer may be gone without a word, which TCP notices after minutes.
const SILENT: Duration = Duration::from_secs(1);

/// What an upload's connection shares with one that takes it over. Dropped, it parks the part.
#[derive(Debug)]
pub(super) struct Active {
    state: Mutex<State>,
    changed: Notify,
    /// How many wait for the part while a thread works on it.
    takers: AtomicUsize,
}

#[derive(Debug)]
struct State {
    place: Place,
    heard: Instant,
}

#[derive(Debug)]
enum Place {
    Here(Box<Part>),
    /// With a thread that works on it.
    There,
    /// With another connection, or broken.
    Gone,
}

impl Active {
    pub(super) fn new(part: Box<Part>) -> Arc<Self> {
        let state = State { place: Place::Here(part), heard: Instant::now() };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            takers: AtomicUsize::new(0),
        })
    }

    /// The peer has sent something.
    pub(super) fn hear(&self) {
        self.state().heard = Instant::now();
    }

    /// When the peer counts as gone, unless it is heard before.
    pub(super) fn silent_at(&self) -> Instant {
        self.state().heard + SILENT
    }

    /// Starts to work on the part on another thread, once none does.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it may have given the part up, which is then parked.
    pub(super) async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        jobs: &Jobs,
        job: impl FnOnce(&mut Part) -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, Fault> {
        let mut part = self.take(Place::There).await?;
        let back = Back(Arc::clone(self));
        run(jobs, move || {
            let done = job(&mut part);
            back.put(part);
            done
        })
        .await
    }

    /// Whether somebody waits for the part: a thread that could go on with it gives it back.
    pub(super) fn is_wanted(&self) -> bool {
        self.takers.load(Relaxed) > 0
    }

    /// Takes the part for good, once no thread works on it.
    ///
    /// # Cancel safety
    /// Cancel safe: the part stays where it is.
    pub(super) async fn keep(&self) -> Result<Box<Part>, Refusal> {
        self.take(Place::Gone).await
    }

    async fn take(&self, leaving: Place) -> Result<Box<Part>, Refusal> {
        let mut taker = None;
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                match mem::replace(&mut state.place, Place::Gone) {
                    Place::Here(part) => {
                        state.place = leaving;
                        drop(state);
                        self.changed.notify_waiters();
                        return Ok(part);
                    }
                    Place::There => state.place = Place::There,
                    Place::Gone => {
                        let text = "another connection goes on with this upload";
                        return Err(Refusal::out_of_place(text));
                    }
                }
            }
            taker.get_or_insert_with(|| Taker::of(self));
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits for the part.
struct Taker<'a>(&'a Active);

impl<'a> Taker<'a> {
    fn of(active: &'a Active) -> Self {
        active.takers.fetch_add(1, Relaxed);
        Self(active)
    }
}

impl Drop for Taker<'_> {
    fn drop(&mut self) {
        self.0.takers.fetch_sub(1, Relaxed);
    }
}

/// The way back for a part that is worked on. Dropped without one, it tells those who wait.
struct Back(Arc<Active>);

impl Back {
    fn put(self, part: Box<Part>) {
        self.0.state().place = Place::Here(part);
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if matches!(state.place, Place::There) {
            state.place = Place::Gone;
        }
        drop(state);
        self.0.changed.notify_waiters();
    }
}

//! What may block, on threads of its own, few at once.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{available_parallelism, yield_now};
use std::time::Duration;

use echo_core::Error;
use echo_sys::give_way;
use rustix::process::getpriority_process;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::{JoinHandle, spawn_blocking};

use super::Fault;

/// How many threads may be at the disk at once: enough for a batch of syncs that the disk can take
/// together, far fewer than Tokio has.
pub(super) const JOBS: usize = 32;

/// How many of them may list: a walk through a cold disk takes long, and others shall go on.
const LISTS: usize = 8;

/// How much a thread that works on files gives way (setpriority(2)): digesting a file takes a core for as long
/// as the file lasts, and an echo takes microseconds. So nice that one [`SLICE`] of it is more than one of a thread
/// that is not: 100 µs at a 28th of the weight, against 1.4 ms.
const NICE: i32 = 15;

/// What it may run at once while others wait, and so what it pays when it [gives way](give_way_now): the shortest
/// that the kernel knows.
const SLICE: Duration = Duration::from_micros(100);

thread_local! {
    /// Gives way, from the first job on: these threads do nothing that is in a hurry.
    static POLITE: () = {
        // Where it may not, transfers cost others more.
        let now = getpriority_process(None).unwrap_or_default();
        if let Err(error) = give_way(NICE.max(now), SLICE) {
            tracing::debug!("threads that work on files do not give way: {error}");
        }
    };
}

/// What a job writes and digests at once: some 60 µs.
pub(super) const PIECE: usize = 64 << 10;

/// Places for jobs.
#[derive(Debug)]
pub(super) struct Jobs {
    places: Arc<Semaphore>,
    waited: AtomicU64,
    /// For who digests what a client has already: as many as there are cores, since it is computing.
    digests: Semaphore,
    lists: Arc<Semaphore>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(JOBS)),
            waited: AtomicU64::new(0),
            digests: Semaphore::new(available_parallelism().map_or(1, NonZero::get)),
            lists: Arc::new(Semaphore::new(LISTS)),
        }
    }
}

impl Jobs {
    /// How many jobs had to wait for a place.
    pub(super) fn waited(&self) -> u64 {
        self.waited.load(Relaxed)
    }

    /// A turn to digest what a client has already.
    pub(super) async fn digest(&self) -> Result<SemaphorePermit<'_>, Fault> {
        self.digests.acquire().await.map_err(closed)
    }

    /// A turn to list, for a job.
    pub(super) async fn list(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.lists).acquire_owned().await.map_err(closed)
    }

    /// Tells a job that could go on for long whether others wait for its place, or soon will.
    pub(super) fn others_wait(&self) -> impl Fn() -> bool + Send + 'static {
        let places = Arc::clone(&self.places);
        move || places.available_permits() == 0
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        self.waited.fetch_add(1, Relaxed);
        Arc::clone(&self.places).acquire_owned().await.map_err(closed)
    }
}

fn closed(error: AcquireError) -> Fault {
    Fault::Ended(Error::Handler(Box::new(error)))
}

/// Runs what may block, on another thread: when there is room for it.
pub(super) async fn run<T: Send + 'static>(
    jobs: &Jobs,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Fault> {
    let place = jobs.place().await?;
    Ok(spawn_blocking(move || {
        POLITE.with(|()| {});
        let done = job();
        drop(place);
        done
    }))
}

/// Lets a thread run that has waited for this core: to be called after each [`PIECE`]. That it is less nice is no
/// reason for the kernel to let it run before this one's slice or the tick ends, milliseconds later.
pub(super) fn give_way_now() {
    yield_now();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn jobs_give_way() {
        let nice = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat.rsplit_once(')').unwrap().1.split(' ').nth(17).unwrap().parse::<i32>().unwrap()
        };
        let here = nice();
        assert_eq!(run(&Jobs::default(), nice).await.unwrap().await.unwrap(), NICE.max(here));
        assert_eq!(nice(), here);
    }

    #[tokio::test]
    async fn jobs_without_a_place_wait_and_are_counted() {
        let jobs = Jobs::default();
        let mut held = Vec::new();
        for _ in 0..JOBS {
            let (go, gone) = channel::<()>();
            drop(run(&jobs, move || gone.recv()).await.unwrap());
            held.push(go);
        }
        assert_eq!(jobs.waited(), 0);
        assert!(jobs.others_wait()());
        let release = async {
            assert_eq!(jobs.waited(), 1);
            held.clear();
        };
        let (next, ()) = tokio::join!(run(&jobs, || 7), release);
        assert_eq!(next.unwrap().await.unwrap(), 7);
        assert!(!jobs.others_wait()());
    }
}

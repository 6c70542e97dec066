//! Many files, over a few connections that may be lost at any time.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use echo_core::Endpoint;
use echo_core::client::{Dialogue, Error, Fault, Options};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::patience::Patience;
use super::progress::Meter;
use super::report::{Deed, Done, PACE, Report};
use super::{Trouble, connect};
use crate::failure::Failure;
use crate::notice;

/// How long to wait before a server that had no place is asked again: it waits itself, for uploads that are
/// being parked, and a word each time is enough.
const BUSY: Duration = Duration::from_secs(1);

/// So many small files are under way at once on a connection.
const SMALL_WINDOW: usize = 16;

/// A file that is to be transferred.
pub(super) trait Item: Clone + Send + Sync + 'static {
    /// What the server calls it.
    fn name(&self) -> &[u8];

    /// Its bytes, as far as one can tell.
    fn size(&self) -> u64;
}

/// What a search has come upon.
pub(super) enum Found<I> {
    File(I),
    /// Not a file that could be transferred, though it should be: where, and why.
    Refused(Vec<u8>, String),
    /// Nothing that anybody misses: where, and why.
    Skipped(Vec<u8>, &'static str),
}

/// Where the files come from, some at a time: there may be more than fit into memory.
pub(super) trait Source<I>: Send + 'static {
    /// The next ones; `None` at the end. It may wait for what becomes of those before.
    fn more(&mut self) -> impl Future<Output = Result<Option<Vec<Found<I>>>, Failure>> + Send;
}

/// What is done with a file on one connection.
pub(super) trait Transfer: Send + 'static {
    type Item: Item;
    type Source: Source<Self::Item>;
    /// What is to be known of a small file while its answers are due.
    type Small: Send;
    const DEED: Deed;

    /// Sends all that a small file takes, and does not wait. `None` if it is not small.
    fn begin(
        &mut self,
        item: &Self::Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
    ) -> impl Future<Output = Result<Option<Self::Small>, Trouble>> + Send;

    /// Receives the answers of a small file. `None` if it turns out not to be small.
    fn end(
        &mut self,
        item: &Self::Item,
        small: &Self::Small,
        dialogue: &mut Dialogue,
        meter: &Meter,
    ) -> impl Future<Output = Result<Option<Done>, Trouble>> + Send;

    /// The connection was lost before a small file's answers came.
    fn lost(&mut self, _: &Self::Item, _: &Self::Small) {}

    /// Transfers a file of any size. `None` if it is no file; what it is instead the source tells.
    /// `patience` is told how far it is.
    fn whole(
        &mut self,
        item: &Self::Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
        patience: &mut Patience,
    ) -> impl Future<Output = Result<Option<Done>, Trouble>> + Send;
}

/// What several connections work on together.
pub(super) struct Work<T: Transfer> {
    target: Endpoint,
    options: Options,
    pub(super) report: Arc<Report>,
    files: tokio::sync::Mutex<Files<T>>,
    failed: AtomicU64,
    of: AtomicU64,
}

/// Those that nobody has begun with.
struct Files<T: Transfer> {
    queue: VecDeque<(u64, T::Item)>,
    added: u64,
    source: Option<T::Source>,
}

impl<T: Transfer> Work<T> {
    pub(super) fn new(
        target: &Endpoint,
        options: Options,
        report: Arc<Report>,
        source: T::Source,
    ) -> Self {
        let files = Files { queue: VecDeque::new(), added: 0, source: Some(source) };
        Self {
            target: target.clone(),
            options,
            report,
            files: tokio::sync::Mutex::new(files),
            failed: AtomicU64::new(0),
            of: AtomicU64::new(0),
        }
    }

    /// Runs as many connections as are worth it, and brings all of their results together.
    pub(super) async fn run(
        self,
        connections: u8,
        transfer: impl Fn() -> T,
    ) -> Result<(), Failure> {
        let work = Arc::new(self);
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            // Each connects once there is a file for it.
            workers.spawn(Worker::new(transfer()).endure(Arc::clone(&work)));
        }
        let mut tick = interval(PACE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = Ok(());
        loop {
            let joined = tokio::select! {
                joined = workers.join_next() => joined,
                _ = tick.tick() => {
                    work.report.tick();
                    continue;
                }
            };
            let Some(worker) = joined else { break };
            let worker = worker.unwrap_or_else(|error| Err(Failure::Local(error.to_string())));
            // The first failure is the one that counts.
            ended = ended.and(worker);
            if ended.is_err() {
                workers.abort_all();
            }
        }
        work.report.finish().await;
        ended?;
        match (work.failed.load(Relaxed), work.of.load(Relaxed)) {
            (0, _) => Ok(()),
            (failed, of) => Err(Failure::Local(format!("{failed} of {of} files not transferred"))),
        }
    }

    async fn next(&self) -> Result<Option<(u64, T::Item)>, Failure> {
        let mut files = self.files.lock().await;
        while files.queue.is_empty()
            && let Some(source) = &mut files.source
        {
            match source.more().await? {
                Some(found) => self.add(&mut files, found).await,
                None => files.source = None,
            }
        }
        Ok(files.queue.pop_front())
    }

    /// The same, if it need not be waited for.
    fn ready(&self) -> Option<(u64, T::Item)> {
        self.files.try_lock().ok()?.queue.pop_front()
    }

    async fn add(&self, files: &mut Files<T>, found: Vec<Found<T::Item>>) {
        for found in found {
            match found {
                Found::File(item) => {
                    self.report.progress.expect(0, item.size());
                    self.of.fetch_add(1, Relaxed);
                    files.queue.push_back((files.added, item));
                    files.added += 1;
                }
                Found::Refused(path, why) => {
                    self.of.fetch_add(1, Relaxed);
                    self.fail(None, &path, &why).await;
                }
                Found::Skipped(path, why) => self.report.skipped(&path, why).await,
            }
        }
    }

    async fn fail(&self, index: Option<u64>, name: &[u8], why: &str) {
        self.failed.fetch_add(1, Relaxed);
        self.report.failed(index, name, why).await;
    }
}

/// A file that somebody has begun with.
struct Job<I> {
    index: u64,
    item: I,
    meter: Arc<Meter>,
    /// It has turned out not to be small.
    large: bool,
}

/// One connection after another, and what is done over them.
struct Worker<T: Transfer> {
    transfer: T,
    /// What is to be done now, or again.
    jobs: VecDeque<Job<T::Item>>,
    /// Small files that are under way.
    small: VecDeque<(Job<T::Item>, T::Small)>,
}

impl<T: Transfer> Worker<T> {
    fn new(transfer: T) -> Self {
        Self { transfer, jobs: VecDeque::new(), small: VecDeque::new() }
    }

    /// Works until no file is left, over as many connections as it takes.
    async fn endure(mut self, work: Arc<Work<T>>) -> Result<(), Failure> {
        let mut patience = Patience::new(work.options.retry);
        while self.take(&work, &mut patience).await? {
            let left = patience.left();
            let mut dialogue = connect(&work.target, &work.options, left, &work.report).await?;
            match self.work(&mut dialogue, &work, &mut patience).await {
                Ok(()) => return Ok(()),
                Err(Trouble::All(failure)) => return Err(failure),
                Err(Trouble::File(why)) => return Err(Failure::Local(why)),
                Err(Trouble::Lost(error)) => {
                    if patience.left().is_zero() || error.fault() != Fault::Path {
                        return Err(error.into());
                    }
                    work.report.lost(&notice::lost(&error, true)).await;
                    patience.pause().await;
                }
                Err(Trouble::Busy(why)) => {
                    let left = patience.left();
                    if left.is_zero() {
                        return Err(Error::Rejected(why).into());
                    }
                    work.report.busy(&why).await;
                    sleep(BUSY.min(left)).await;
                }
            }
            // What had no answer on this connection.
            for (job, small) in self.small.drain(..) {
                self.transfer.lost(&job.item, &small);
                self.jobs.push_back(job);
            }
        }
        Ok(())
    }

    /// Sees to it that there is something to do, and says whether there is. While answers are due, nothing
    /// else is waited for.
    async fn take(&mut self, work: &Work<T>, patience: &mut Patience) -> Result<bool, Failure> {
        if !self.jobs.is_empty() {
            return Ok(true);
        }
        let next = match self.small.is_empty() {
            true => {
                let waiting = Instant::now();
                let next = work.next().await?;
                // That is not the server's fault.
                patience.excuse(waiting);
                next
            }
            false => work.ready(),
        };
        self.jobs.extend(next.map(|(index, item)| {
            let meter = Arc::new(Meter::new(&work.report.progress, item.size()));
            Job { index, item, meter, large: false }
        }));
        Ok(!self.jobs.is_empty())
    }

    /// Works on files until none is left. What has no answer when the connection is lost is kept.
    async fn work(
        &mut self,
        dialogue: &mut Dialogue,
        work: &Work<T>,
        patience: &mut Patience,
    ) -> Result<(), Trouble> {
        loop {
            if !self.take(work, patience).await.map_err(Trouble::All)? {
                if self.small.is_empty() {
                    return Ok(());
                }
                self.receive(dialogue, work, patience).await?;
                continue;
            }
            let Some(job) = self.jobs.front() else { continue };
            let begun = match job.large {
                true => Ok(None),
                false => self.transfer.begin(&job.item, dialogue, &job.meter).await,
            };
            match begun {
                Ok(Some(small)) => {
                    self.small.extend(self.jobs.pop_front().map(|job| (job, small)));
                    while self.small.len() >= SMALL_WINDOW {
                        self.receive(dialogue, work, patience).await?;
                    }
                }
                Ok(None) => {
                    while !self.small.is_empty() {
                        self.receive(dialogue, work, patience).await?;
                    }
                    self.whole(dialogue, work, patience).await?;
                }
                // Nothing was sent of it.
                Err(trouble) => self.ended(Err(trouble), work).await?,
            }
        }
    }

    /// Transfers the file that is next.
    async fn whole(
        &mut self,
        dialogue: &mut Dialogue,
        work: &Work<T>,
        patience: &mut Patience,
    ) -> Result<(), Trouble> {
        let Some(job) = self.jobs.front() else { return Ok(()) };
        let running = work.report.running(job.item.name(), &job.meter);
        let done = self.transfer.whole(&job.item, dialogue, &job.meter, patience).await;
        drop(running);
        self.ended(done, work).await?;
        patience.finished();
        skip_answers(dialogue).await
    }

    /// Receives what became of the small file that was begun first.
    async fn receive(
        &mut self,
        dialogue: &mut Dialogue,
        work: &Work<T>,
        patience: &mut Patience,
    ) -> Result<(), Trouble> {
        let Some((job, small)) = self.small.front() else { return Ok(()) };
        let done = self.transfer.end(&job.item, small, dialogue, &job.meter).await;
        if !matches!(done, Err(Trouble::Lost(_) | Trouble::Busy(_))) {
            patience.finished();
            let Some((job, _)) = self.small.pop_front() else { return Ok(()) };
            match done.transpose() {
                Some(done) => {
                    self.jobs.push_front(job);
                    return self.ended(done.map(Some), work).await;
                }
                None => self.jobs.push_back(Job { large: true, ..job }),
            }
            return Ok(());
        }
        done.map(drop)
    }

    /// Says what became of the job that is first. One whose connection was lost stays.
    async fn ended(
        &mut self,
        done: Result<Option<Done>, Trouble>,
        work: &Work<T>,
    ) -> Result<(), Trouble> {
        let told = match done {
            Ok(done) => Ok(done),
            Err(Trouble::File(why)) => Err(why),
            Err(trouble) => return Err(trouble),
        };
        let Some(Job { index, item, meter, .. }) = self.jobs.pop_front() else { return Ok(()) };
        match told {
            Ok(Some(done)) => work.report.done(index, item.name(), T::DEED, done, &meter).await,
            Ok(None) => {
                meter.end();
                work.of.fetch_sub(1, Relaxed);
                work.report.none(index).await;
            }
            Err(why) => {
                meter.end();
                work.fail(Some(index), item.name(), &why).await;
            }
        }
        Ok(())
    }
}

/// Passes over the answers to what was sent for a file that cannot be transferred: each frame has one.
async fn skip_answers(dialogue: &mut Dialogue) -> Result<(), Trouble> {
    while dialogue.unanswered() > 0 {
        dialogue.recv().await?;
    }
    Ok(())
}

//! An upload, as its connection sees it: chunks in, while the ones before go to the disk.

use std::mem;
use std::sync::Arc;

use echo_core::{Attributes, Commit, Connection, ErrorCode, FileName, Put, PutReply};
use tokio::task::JoinHandle;

use super::Fault;
use super::active::Active;
use super::jobs::{Jobs, run};
use super::owner;
use super::part::Part;
use super::queue::Queue;
use super::quota::Owner;
use super::refusal::Refusal;
use super::shelf::{Entered, Key, Shelf};

/// What is handed to the disk at once. As much may wait while as much is written, and as much come. Half of it takes
/// a tenth longer, for the changes between threads; twice as much is no faster.
const BLOCK: usize = 512 << 10;

/// What a block begins with. It grows with what has come, not with what was announced.
const FIRST: usize = 16 << 10;

/// An upload under way. Dropped, it parks what has come, unless another connection goes on with it.
#[derive(Debug)]
pub(crate) struct Upload {
    active: Arc<Active>,
    /// What has come and is not with the disk yet: so many bytes of the block.
    block: Vec<u8>,
    filled: usize,
    /// The blocks before.
    queue: Arc<Queue>,
    /// The thread that writes them, or has.
    writing: Option<JoinHandle<()>>,
    received: u64,
    size: Option<u64>,
    keep: Option<Attributes>,
    name: Vec<u8>,
    reply: PutReply,
    outlasts_drain: bool,
}

/// Keeps places for what an upload will make, or refuses it before it is sent for nothing: its folders are counted when
/// they are made, once all of it has come. How many are missing may be known.
async fn keep_places(
    shelf: &Arc<Shelf>,
    part: &mut Part,
    name: FileName<'_>,
    missing: Option<u64>,
    jobs: &Jobs,
) -> Result<(), Fault> {
    // Mostly there are places for all: then nobody has to look which of them are there.
    let most = missing.unwrap_or_else(|| name.components().count() as u64 - 1);
    if part.keep_places(most, None).is_ok() {
        return Ok(());
    }
    let (shelf, name) = (Arc::clone(shelf), name.as_bytes().to_vec());
    let look = move || (shelf.store.missing(&name), owner::of_name(shelf.store.root(), &name));
    let (missing, replaced) = run(jobs, look).await?.await?;
    Ok(part.keep_places(missing, replaced)?)
}

impl Upload {
    pub(super) async fn open(
        shelf: &Arc<Shelf>,
        owner: Owner,
        put: &Put<'_>,
        draining: bool,
        jobs: &Jobs,
    ) -> Result<Self, Fault> {
        let key = Key { owner: owner.name.clone(), name: put.name.as_bytes().to_vec() };
        let (name, size) = (key.name.clone(), put.size);
        let anew = !put.resume && shelf.has_parked(&key);
        let (mut part, found) = match shelf.enter(&key, put.resume).await {
            Entered::Taken(part) => (part, true),
            Entered::New(parked) => {
                let found = parked.is_some();
                (Box::new(Part::new(shelf, owner.clone(), key.clone(), parked)?), found)
            }
        };
        let mut missing = None;
        if found || anew {
            let (all, name) = (Arc::clone(shelf), name.clone());
            let prepare = move || {
                part.resume();
                if anew || size.is_some_and(|size| size < part.len()) {
                    part.start_anew();
                }
                let missing = all.store.missing(&name);
                (part, Some(missing))
            };
            (part, missing) = run(jobs, prepare).await?.await?;
        }
        if let Some(size) = size {
            // Before it is sent for nothing. It is counted as it comes.
            shelf.quota.admit_bytes(&owner, size.saturating_sub(part.len()))?;
        }
        keep_places(shelf, &mut part, put.name, missing, jobs).await?;
        let reply = PutReply { offset: part.len(), prefix: part.prefix() };
        let active = Active::new(part);
        shelf.register(&key, &active);
        Ok(Self {
            active,
            block: Vec::new(),
            filled: 0,
            queue: Arc::default(),
            writing: None,
            received: reply.offset,
            size: put.size,
            keep: put.keep,
            name,
            reply,
            // What begins in a drain has to make do with the last pass.
            outlasts_drain: !draining,
        })
    }

    /// The answer to PUT.
    pub(super) fn reply(&self) -> PutReply {
        self.reply
    }

    /// Whether a drain waits for it.
    pub(super) fn outlasts_drain(&self) -> bool {
        self.outlasts_drain
    }

    /// Another upload takes its place: of the same file, and not to go on with this.
    pub(super) async fn give_way(mut self, put: &Put<'_>) -> Result<(), Fault> {
        if !put.resume && put.name.as_bytes() == self.name {
            self.spoil().await?;
        }
        Ok(())
    }

    /// Takes the payload of a DATA frame. Returns how many bytes have come in all.
    pub(super) async fn receive(
        &mut self,
        connection: &mut Connection,
        jobs: &Jobs,
    ) -> Result<u64, Fault> {
        loop {
            if self.filled == self.block.len() {
                self.block.resize((2 * self.filled).clamp(FIRST, BLOCK), 0);
            }
            let read = connection.read_payload(&mut self.block[self.filled..]).await?;
            if read == 0 {
                return Ok(self.received);
            }
            self.active.hear();
            self.filled += read;
            self.received += read as u64;
            if self.size.is_some_and(|size| self.received > size) {
                self.spoil().await?;
                return Err(
                    Refusal::new(ErrorCode::Mismatch, "more bytes came than announced").into()
                );
            }
            if self.filled == BLOCK {
                self.write(jobs).await?;
            }
        }
    }

    async fn spoil(&mut self) -> Result<(), Fault> {
        self.active.keep().await?.spoil();
        Ok(())
    }

    /// Hands the block over, once there is room for it.
    async fn write(&mut self, jobs: &Jobs) -> Result<(), Fault> {
        loop {
            let queue = Arc::clone(&self.queue);
            let changed = queue.changed();
            let put = queue.put(&mut self.block, &mut self.filled)?;
            self.start_writing(jobs).await?;
            if put {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Starts a thread that writes what waits, unless one does.
    async fn start_writing(&mut self, jobs: &Jobs) -> Result<(), Fault> {
        if !self.queue.claim() {
            return Ok(());
        }
        if let Some(before) = self.writing.take() {
            before.await?;
        }
        let (queue, active) = (Arc::clone(&self.queue), Arc::clone(&self.active));
        let jobs_wait = jobs.others_wait();
        let write = move |part: &mut Part| {
            let append = |bytes: &[u8]| part.append(bytes).and_then(|()| part.make_resumable());
            queue.write(append, || jobs_wait() || active.is_wanted());
        };
        self.writing = Some(self.active.work(jobs, write).await?);
        Ok(())
    }

    /// Waits until all that was handed over is written.
    async fn written(&mut self, jobs: &Jobs) -> Result<(), Fault> {
        loop {
            self.start_writing(jobs).await?;
            let Some(writing) = self.writing.take() else { return Ok(self.queue.check()?) };
            writing.await?;
            self.queue.check()?;
        }
    }

    /// Makes it a file.
    pub(super) async fn commit(mut self, commit: Commit, jobs: &Jobs) -> Result<(), Fault> {
        self.written(jobs).await?;
        let mut part = self.active.keep().await?;
        let (block, filled, keep) = (mem::take(&mut self.block), self.filled, self.keep);
        let finish = move || {
            part.append(&block[..filled])?;
            part.commit(&commit, keep)
        };
        Ok(run(jobs, finish).await?.await??)
    }
}

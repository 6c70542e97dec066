//! An upload, as its connection sees it: chunks in, while the ones before go to the disk.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use echo_core::{Attributes, Commit, Connection, ErrorCode, Put, PutReply};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Fault;
use super::jobs::{Jobs, run};
use super::part::Part;
use super::quota::Owner;
use super::refusal::Refusal;
use super::shelf::{Key, Shelf};

/// What is handed to the disk at once. As much may wait while as much is written.
const BLOCK: usize = 256 << 10;

/// In so many chunks at most: a peer that sends byte by byte shall not hold a list of them.
const CHUNKS: usize = 64;

/// How long a resumption waits for a connection that was lost just now to park its part.
const PARKING: Duration = Duration::from_secs(1);

/// An upload under way. Dropped, it parks what has come.
#[derive(Debug)]
pub(crate) struct Upload {
    work: Work,
    pending: Vec<Bytes>,
    pending_len: usize,
    received: u64,
    size: Option<u64>,
    keep: Option<Attributes>,
    name: Vec<u8>,
    reply: PutReply,
    outlasts_drain: bool,
}

/// Where the part is.
#[derive(Debug)]
enum Work {
    Here(Box<Part>),
    /// With a thread that writes.
    There(JoinHandle<(Box<Part>, Result<(), Refusal>)>),
    /// A job was given up; so is the upload.
    Nowhere,
}

impl Upload {
    pub(super) async fn open(
        shelf: &Arc<Shelf>,
        owner: Owner,
        put: &Put<'_>,
        draining: bool,
        jobs: &Jobs,
    ) -> Result<Self, Fault> {
        let open = shelf.quota.open(&owner)?;
        let key = Key { owner: owner.name.clone(), name: put.name.as_bytes().to_vec() };
        let parked = shelf.enter(&key, put.resume, Instant::now() + PARKING).await;
        let anew = !put.resume && shelf.has_parked(&key);
        let (resumes, name, size) = (parked.is_some(), key.name.clone(), put.size);
        let mut part = Box::new(Part::new(shelf, owner, key, parked, open));
        if resumes || anew {
            let prepare = move || {
                part.resume();
                if anew || size.is_some_and(|size| size < part.len()) {
                    part.start_anew();
                }
                part
            };
            part = run(jobs, prepare).await?.await?;
        }
        let reply = PutReply { offset: part.len(), prefix: part.prefix() };
        Ok(Self {
            work: Work::Here(part),
            pending: Vec::new(),
            pending_len: 0,
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
            let (mut part, _) = self.take().await?;
            part.spoil();
        }
        Ok(())
    }

    /// Takes the payload of a DATA frame. Returns how many bytes have come in all.
    pub(super) async fn receive(
        &mut self,
        connection: &mut Connection,
        jobs: &Jobs,
    ) -> Result<u64, Fault> {
        while let Some(chunk) = connection.chunk().await? {
            self.received += chunk.len() as u64;
            self.pending_len += chunk.len();
            self.pending.push(chunk);
            if self.size.is_some_and(|size| self.received > size) {
                self.spoil().await?;
                return Err(
                    Refusal::new(ErrorCode::Mismatch, "more bytes came than announced").into()
                );
            }
            if self.pending_len >= BLOCK || self.pending.len() >= CHUNKS {
                self.write(jobs).await?;
            }
        }
        Ok(self.received)
    }

    async fn spoil(&mut self) -> Result<(), Fault> {
        self.take().await?.0.spoil();
        Ok(())
    }

    /// Hands what is pending to a thread, once the one before is done.
    async fn write(&mut self, jobs: &Jobs) -> Result<(), Fault> {
        let (mut part, written) = self.take().await?;
        written?;
        let chunks = mem::take(&mut self.pending);
        self.pending_len = 0;
        self.work = Work::There(
            run(jobs, move || {
                let appended = part.append(&chunks);
                (part, appended)
            })
            .await?,
        );
        Ok(())
    }

    /// The part, once nobody writes it, and what the last write came to.
    async fn take(&mut self) -> Result<(Box<Part>, Result<(), Refusal>), Fault> {
        match mem::replace(&mut self.work, Work::Nowhere) {
            Work::Here(part) => Ok((part, Ok(()))),
            Work::There(job) => Ok(job.await?),
            Work::Nowhere => Err(Refusal::out_of_place("the upload was given up").into()),
        }
    }

    /// Makes it a file.
    pub(super) async fn commit(mut self, commit: Commit, jobs: &Jobs) -> Result<(), Fault> {
        let (mut part, written) = self.take().await?;
        written?;
        let (chunks, keep) = (mem::take(&mut self.pending), self.keep);
        let finish = move || {
            part.append(&chunks)?;
            part.commit(&commit, keep)
        };
        Ok(run(jobs, finish).await?.await??)
    }
}

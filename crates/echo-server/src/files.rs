//! File transfer: PUT, DATA, COMMIT; GET, READ, DONE; LIST and REMOVE (PROTOCOL.md, "Files").
//!
//! What may block runs on threads of its own, few at once; what waits for the peer does not.

mod active;
mod counts;
mod download;
mod folders;
mod jobs;
mod list;
mod owner;
mod part;
mod probe;
mod queue;
mod quota;
mod refusal;
mod shelf;
mod store;
mod trouble;
mod upload;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use echo_core::{
    Commit, Connection, DataReply, Digest, Error, ErrorCode, FileName, Get, Header, Kind, List,
    MAX_CONTROL_LEN, Put, Read, Remove,
};
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::visitor::{Allow, Visitor};
use counts::Counts;
pub(crate) use counts::{Fate, Limit};
use download::Download;
use jobs::{JOBS, Jobs, run};
pub(crate) use probe::{probe, unusable};
use quota::Owner;
pub(crate) use quota::{Bounds, Quota, Used};
use refusal::Refusal;
use shelf::Shelf;
use store::Store;
use upload::Upload;

/// What a job has open at most: the folders on the way to a name, and what it does there.
const DEPTH: usize = FileName::MAX_COMPONENTS + 2;

/// How many descriptors a store takes at most while so many transfers are open: one each, and what the jobs have open.
pub(crate) fn descriptors(transfers: u64) -> u64 {
    transfers.saturating_add((JOBS * DEPTH) as u64)
}

/// What a store is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) anonymous_put: bool,
    /// For all together, and for each user.
    pub(crate) total: Bounds,
    pub(crate) each: Bounds,
}

/// The files that clients may store and fetch.
#[derive(Debug)]
pub(crate) struct Files {
    shelf: Arc<Shelf>,
    anonymous_put: bool,
    jobs: Jobs,
}

/// What is under way on one connection. Boxed: most connections have nothing of the kind.
#[derive(Debug, Default)]
pub(crate) enum Transfer {
    #[default]
    Nothing,
    Upload(Box<Upload>),
    Download(Box<Download>),
    /// It was refused: so is what was sent before that was known.
    Refused(Box<Refusal>),
}

/// Why a frame gets no answer of its own kind.
#[derive(Debug)]
enum Fault {
    Refused(Refusal),
    Ended(Error),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Ended(error)
    }
}

impl From<JoinError> for Fault {
    fn from(error: JoinError) -> Self {
        Self::Ended(Error::Handler(error.into()))
    }
}

impl Files {
    /// Opens the store in an existing folder, counts what is there, and takes up what is parked.
    /// It blocks; `quota` grows meanwhile.
    pub(crate) fn open(path: &Path, rules: Rules, quota: Arc<Quota>) -> io::Result<Self> {
        let store = Store::open(path)?;
        list::count(&store, &quota)?;
        let shelf = Shelf::open(store, quota)?;
        Ok(Self { shelf, anonymous_put: rules.anonymous_put, jobs: Jobs::default() })
    }

    /// How much of it is used.
    pub(crate) fn used(&self) -> Used {
        self.shelf.quota.used()
    }

    /// How many unfinished uploads wait for somebody to go on with them.
    pub(crate) fn parked(&self) -> usize {
        self.shelf.parked()
    }

    /// What has happened.
    pub(crate) fn counts(&self) -> &Counts {
        &self.shelf.counts
    }

    /// How often a bound was hit.
    pub(crate) fn reached(&self, limit: Limit) -> u64 {
        match limit {
            Limit::Jobs => self.jobs.waited(),
            limit => self.shelf.counts.reached(limit),
        }
    }

    /// Waits until what stopped is parked, but not beyond `until`.
    pub(crate) async fn settled(&self, until: Instant) {
        self.shelf.settled(until).await;
    }

    /// Answers one frame.
    pub(crate) async fn frame(
        &self,
        transfer: &mut Transfer,
        visitor: &Visitor,
        header: Header,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        let answer = self.answer(transfer, visitor, header, connection).await;
        connection.hold(matches!(transfer, Transfer::Upload(upload) if upload.outlasts_drain()));
        match answer {
            // Sent already.
            Ok(_) if header.kind == Kind::READ => Ok(()),
            Ok(payload) => connection.send_frame(header.kind, &payload).await,
            Err(Fault::Refused(refusal)) => {
                self.count(&refusal);
                connection.send_frame(Kind::ERROR, &refusal.payload()).await
            }
            Err(Fault::Ended(error)) => Err(error),
        }
    }

    fn count(&self, refusal: &Refusal) {
        if !refusal.again {
            self.counts().refuse(refusal.code);
            refusal.limit.into_iter().for_each(|limit| self.counts().reach(limit));
        }
    }

    async fn answer(
        &self,
        transfer: &mut Transfer,
        visitor: &Visitor,
        header: Header,
        connection: &mut Connection,
    ) -> Result<Vec<u8>, Fault> {
        if header.kind == Kind::DATA {
            return self.data(transfer, header, connection).await;
        }
        if header.len > MAX_CONTROL_LEN {
            let text = Error::ControlTooLong { len: header.len }.to_string();
            return Err(Refusal::new(ErrorCode::TooLong, text).into());
        }
        let payload = collect(header.len, connection).await?;
        match header.kind {
            Kind::PUT => {
                let draining = connection.is_draining();
                let opened = self.put(transfer, visitor, &payload, draining).await;
                refuse_what_follows(transfer, opened)
            }
            Kind::GET => {
                let opened = self.get(transfer, visitor, &payload, connection).await;
                refuse_what_follows(transfer, opened)
            }
            Kind::COMMIT => self.commit(transfer, &payload).await,
            Kind::READ => self.read(transfer, &payload, connection).await,
            Kind::DONE => done(transfer),
            Kind::LIST => self.list(visitor, &payload).await,
            Kind::REMOVE => self.remove(visitor, &payload).await,
            _ => Err(Refusal::out_of_place("no file frame of this version").into()),
        }
    }

    async fn put(
        &self,
        transfer: &mut Transfer,
        visitor: &Visitor,
        payload: &[u8],
        draining: bool,
    ) -> Result<Vec<u8>, Fault> {
        self.allow(visitor, Allow::PUT)?;
        let put = &Put::parse(payload).map_err(|_| Refusal::malformed(Kind::PUT))?;
        admitted(put.name)?;
        let before = std::mem::take(transfer);
        if let Transfer::Upload(upload) = before {
            // Begun anew, or left for later.
            upload.give_way(put).await?;
        }
        let upload = Upload::open(&self.shelf, owner(visitor), put, draining, &self.jobs).await?;
        let reply = upload.reply();
        *transfer = Transfer::Upload(Box::new(upload));
        Ok(written(|out| reply.put(out)))
    }

    async fn get(
        &self,
        transfer: &mut Transfer,
        visitor: &Visitor,
        payload: &[u8],
        connection: &Connection,
    ) -> Result<Vec<u8>, Fault> {
        self.allow(visitor, Allow::GET)?;
        let get = &Get::parse(payload).map_err(|_| Refusal::malformed(Kind::GET))?;
        admitted(get.name)?;
        *transfer = Transfer::Nothing;
        let owner = owner(visitor);
        let opened = Download::open(&self.shelf, &owner, get, &self.jobs, connection);
        let (download, reply) = opened.await?;
        *transfer = Transfer::Download(Box::new(download));
        Ok(written(|out| reply.put(out)))
    }

    async fn data(
        &self,
        transfer: &mut Transfer,
        header: Header,
        connection: &mut Connection,
    ) -> Result<Vec<u8>, Fault> {
        let max = connection.max_frame();
        let received = match transfer {
            Transfer::Upload(_) if header.len > max => {
                let text = Error::FrameTooLong { len: header.len, max }.to_string();
                Err(Refusal::new(ErrorCode::TooLong, text).into())
            }
            Transfer::Upload(upload) => upload.receive(connection, &self.jobs).await,
            Transfer::Refused(refusal) => Err(refusal.as_ref().clone().into()),
            _ => return Err(Refusal::out_of_place("no upload is open").into()),
        };
        refuse_what_follows(transfer, received)
            .map(|received| written(|out| DataReply { received }.put(out)))
    }

    async fn commit(&self, transfer: &mut Transfer, payload: &[u8]) -> Result<Vec<u8>, Fault> {
        let upload = match std::mem::take(transfer) {
            Transfer::Upload(upload) => upload,
            other => return Err(out_of_place(transfer, other, "no upload is open")),
        };
        let commit = Commit::parse(payload).map_err(|_| Refusal::malformed(Kind::COMMIT))?;
        upload.commit(commit, &self.jobs).await?;
        Ok(written(|out| Digest(commit.digest).put(out)))
    }

    async fn read(
        &self,
        transfer: &mut Transfer,
        payload: &[u8],
        connection: &mut Connection,
    ) -> Result<Vec<u8>, Fault> {
        let read = Read::parse(payload).map_err(|_| Refusal::malformed(Kind::READ))?;
        let max = connection.max_frame();
        if read.len > max {
            let text = Error::FrameTooLong { len: read.len, max }.to_string();
            return Err(Refusal::new(ErrorCode::TooLong, text).into());
        }
        match transfer {
            Transfer::Download(download) => {
                download.read(read.len, connection, &self.jobs).await?;
                Ok(Vec::new())
            }
            Transfer::Refused(refusal) => Err(refusal.as_ref().clone().into()),
            _ => Err(Refusal::out_of_place("no download is open").into()),
        }
    }

    async fn list(&self, visitor: &Visitor, payload: &[u8]) -> Result<Vec<u8>, Fault> {
        self.allow(visitor, Allow::LIST)?;
        let list = List::parse(payload).map_err(|_| Refusal::malformed(Kind::LIST))?;
        let (cursor, prefix) = (list.cursor.to_vec(), list.prefix.to_vec());
        let shelf = Arc::clone(&self.shelf);
        // Counted as a transfer, so that not all connections can wait in front of the few.
        let open = self.shelf.quota.open(&owner(visitor))?;
        let turn = self.jobs.list().await?;
        let page = move || {
            let _until_then = (open, turn);
            list::page(&shelf.store, &shelf.counts, &cursor, &prefix)
        };
        Ok(run(&self.jobs, page).await?.await?.map_err(Refusal::reading)?)
    }

    async fn remove(&self, visitor: &Visitor, payload: &[u8]) -> Result<Vec<u8>, Fault> {
        self.allow(visitor, Allow::REMOVE)?;
        let name = Remove::parse(payload).map_err(|_| Refusal::malformed(Kind::REMOVE))?.name;
        admitted(name)?;
        let (shelf, name) = (Arc::clone(&self.shelf), name.as_bytes().to_vec());
        let remove = move || {
            let name = FileName::new(&name).map_err(io::Error::other);
            let removed = name.and_then(|name| shelf.store.remove(name, &shelf.quota));
            let removed = removed.map_err(Refusal::removing)?;
            shelf.counts.removed.add_one();
            shelf.counts.removed.add_bytes(removed.gone.size);
            shelf.quota.gone(removed.gone);
            removed.durable.map_err(|error| Refusal::not_durable("it is removed", &error))
        };
        run(&self.jobs, remove).await?.await??;
        Ok(Vec::new())
    }

    /// Whether `visitor` may do that.
    fn allow(&self, visitor: &Visitor, what: Allow) -> Result<(), Refusal> {
        let reads = Allow::LIST.with(Allow::GET);
        match &visitor.user {
            Some(user) if user.allow.contains(what) => Ok(()),
            Some(_) => Err(Refusal::new(ErrorCode::Forbidden, "you may not do that here")),
            None if reads.contains(what) || self.anonymous_put => Ok(()),
            None => Err(Refusal::new(ErrorCode::Denied, "that needs authentication here")),
        }
    }
}

fn done(transfer: &mut Transfer) -> Result<Vec<u8>, Fault> {
    match std::mem::take(transfer) {
        Transfer::Download(download) => {
            let digest = download.digest()?;
            Ok(written(|out| digest.put(out)))
        }
        other => Err(out_of_place(transfer, other, "no download is open")),
    }
}

/// The end of a transfer that is not open: what was refused ends here, another one stays as it is.
fn out_of_place(transfer: &mut Transfer, other: Transfer, text: &'static str) -> Fault {
    match other {
        Transfer::Refused(refusal) => (*refusal).into(),
        other => {
            *transfer = other;
            Refusal::out_of_place(text).into()
        }
    }
}

/// What was sent behind a frame that is refused is refused for the same reason.
fn refuse_what_follows<T>(transfer: &mut Transfer, answer: Result<T, Fault>) -> Result<T, Fault> {
    if let Err(Fault::Refused(refusal)) = &answer {
        *transfer = Transfer::Refused(Box::new(Refusal { again: true, ..refusal.clone() }));
    }
    answer
}

async fn collect(len: u32, connection: &mut Connection) -> Result<Vec<u8>, Error> {
    let mut payload = Vec::with_capacity(64.min(len as usize));
    while let Some(chunk) = connection.chunk().await? {
        let chunk: Bytes = chunk;
        payload.extend_from_slice(&chunk);
    }
    Ok(payload)
}

fn written(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = Vec::with_capacity(64);
    put(&mut payload);
    payload
}

fn admitted(name: FileName<'_>) -> Result<(), Refusal> {
    if Store::admits(name) { Ok(()) } else { Err(Refusal::no_place()) }
}

fn owner(visitor: &Visitor) -> Owner {
    match &visitor.user {
        Some(user) => Owner { name: Some(user.name.clone()), bytes: user.quota },
        None => Owner::default(),
    }
}

//! A file that is not whole yet, the state of its running digest, and how both outlive a crash.
//!
//! A part lies in the private folder as `ID.part`. Now and then, and when its upload stops before its
//! end, the part is synced, and then the state that covers it takes the place of the one before, as
//! `ID.state`, by a rename. So whatever is cut whenever, a state never covers what is not there; bytes
//! of the part behind what the state covers are read and digested again.

mod state;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use echo_core::{Attributes, Commit, ErrorCode, FileName};
use echo_folder::{is_hole, set_attributes};
use rustix::fs::{fdatasync, fsync};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::counts::Fate;
use super::jobs::{PIECE, give_way_now};
use super::owner;
use super::quota::{Open, Owner, Places};
use super::refusal::Refusal;
use super::shelf::{Key, Parked, Shelf, part_name};
use super::store::{Changed, Gone};
use super::trouble::{self, Doing};
pub(super) use state::{MAX_LEN as MAX_STATE_LEN, State};

/// A part is synced when it has grown by so much: what a crash costs at most, and what is left to
/// sync in the end.
const SYNC_BYTES: u64 = 64 << 20;

/// And a slow one after so long.
const SYNC_TIME: Duration = Duration::from_secs(10);

/// An upload's file. All but its drop may block.
#[derive(Debug)]
pub(super) struct Part {
    shelf: Arc<Shelf>,
    owner: Owner,
    key: Key,
    /// What it is to go on with, until that is done.
    parked: Option<Parked>,
    /// Its file and its name among parts, once there are bytes for it.
    file: Option<(Arc<File>, String)>,
    len: u64,
    /// How long the file is: less than `len` if that ends with zeros.
    written: u64,
    digest: Sha256,
    synced: u64,
    synced_at: Instant,
    /// The sync under way, which says how it ended.
    syncing: Option<Receiver<io::Result<()>>>,
    /// It is of no use any more.
    spoilt: bool,
    /// A state of it is saved.
    resumable: bool,
    open: Option<Open>,
    places: Places,
}

impl Part {
    /// A part of no bytes yet, or one that is to be [resumed](Self::resume). The shelf was
    /// [entered](Shelf::enter) for it.
    pub(super) fn new(
        shelf: &Arc<Shelf>,
        owner: Owner,
        key: Key,
        parked: Option<Parked>,
    ) -> Result<Self, Refusal> {
        let open = match shelf.quota.open(&owner) {
            Ok(open) => open,
            Err(refusal) => {
                shelf.left(&key, parked);
                return Err(refusal);
            }
        };
        Ok(Self {
            shelf: Arc::clone(shelf),
            places: Places::none(&shelf.quota, &owner),
            owner,
            key,
            parked,
            file: None,
            len: 0,
            written: 0,
            digest: Sha256::new(),
            synced: 0,
            synced_at: Instant::now(),
            syncing: None,
            spoilt: false,
            resumable: false,
            open: Some(open),
        })
    }

    /// Goes on with what was parked; from the beginning, if that is of no use any more.
    pub(super) fn resume(&mut self) {
        let Some(parked) = self.parked.take() else { return };
        match self.try_resume(&parked.id) {
            Ok(()) => {
                self.shelf.counts.part(Fate::Resumed);
                // What the file had lost, or had more.
                self.shelf.quota.give_bytes(&self.key.owner, parked.len.saturating_sub(self.len));
            }
            Err(error) => {
                tracing::warn!(
                    "an upload starts anew, as what was parked of it is broken: {error}"
                );
                self.shelf.counts.part(Fate::Lost);
                self.digest = Sha256::new();
                self.shelf.take_away(&self.key.owner, &parked);
            }
        }
    }

    fn try_resume(&mut self, id: &str) -> io::Result<()> {
        let (file, state) = self.shelf.load(id)?;
        self.digest = state.digest;
        let mut at = state.covered;
        let mut block = vec![0; PIECE];
        loop {
            let len = file.read_at(&mut block, at)?;
            if len == 0 {
                break;
            }
            self.digest.update(&block[..len]);
            at += len as u64;
            give_way_now();
        }
        (self.len, self.written, self.synced) = (at, at, state.covered);
        self.resumable = true;
        self.file = Some((Arc::new(file), id.to_owned()));
        Ok(())
    }

    /// Takes away what there is of it, here and parked.
    pub(super) fn start_anew(&mut self) {
        self.shelf.start_anew(&self.key);
        if let Some((_, id)) = self.file.take() {
            self.shelf.discard(&self.key.owner, &id, self.len);
        }
        self.digest = Sha256::new();
        (self.len, self.written, self.synced) = (0, 0, 0);
        self.resumable = false;
    }

    /// Sees to it that a crash of the server leaves something to go on with: a state that covers nothing
    /// yet, so that all of it is read and digested again.
    pub(super) fn make_resumable(&mut self) -> Result<(), Refusal> {
        let Some((_, id)) = self.file.as_ref().filter(|_| !self.resumable) else { return Ok(()) };
        let state = State { key: self.key.clone(), covered: 0, digest: Sha256::new() };
        self.shelf.note(id, &state).map_err(Refusal::writing)?;
        self.resumable = true;
        Ok(())
    }

    /// Bytes that have come.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// SHA-256 of them.
    pub(super) fn prefix(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    /// Whether nobody can go on with it.
    pub(super) fn is_spoilt(&self) -> bool {
        self.spoilt
    }

    /// Nobody will go on with it.
    pub(super) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// Appends bytes. What fails spoils it.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let appended = self.try_append(bytes);
        self.spoilt |= appended.is_err();
        appended
    }

    fn try_append(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let len = bytes.len() as u64;
        self.shelf.counts.put.add_bytes(len);
        self.shelf.quota.take_bytes(&self.owner, len)?;
        let file =
            self.file().inspect_err(|_| self.shelf.quota.give_bytes(&self.key.owner, len))?;
        let mut at = self.len;
        self.len += len;
        for piece in bytes.chunks(PIECE) {
            if !is_hole(piece) {
                file.write_all_at(piece, at).map_err(Refusal::writing)?;
                self.written = at + piece.len() as u64;
            }
            at += piece.len() as u64;
            // While it is in the cache.
            self.digest.update(piece);
            give_way_now();
        }
        self.sync_now_and_then(&file).map_err(Refusal::writing)
    }

    /// Keeps places for what it is to make: so many folders, and its file unless that is made, in place of one of
    /// `replaced`'s.
    pub(super) fn keep_places(
        &mut self,
        folders: u64,
        replaced: Option<Option<String>>,
    ) -> Result<(), Refusal> {
        self.places.keep(folders + u64::from(self.file.is_none()), replaced)
    }

    /// The file, which is made, and counted, for the first bytes.
    fn file(&mut self) -> Result<Arc<File>, Refusal> {
        match &self.file {
            Some((file, _)) => Ok(Arc::clone(file)),
            None => {
                // Looked up before all of it is sent for nothing.
                let name = FileName::new(&self.key.name).map_err(io::Error::other);
                let place = name.and_then(|name| self.shelf.store.place(name));
                let missing = place.map_err(Refusal::writing)?;
                let (file, id) = self.shelf.create().map_err(Refusal::writing)?;
                self.places.make_file();
                // How many folders are to come was not looked up, if there were places for all.
                self.places.keep_at_most(missing);
                let file = Arc::new(file);
                self.file = Some((Arc::clone(&file), id));
                Ok(file)
            }
        }
    }

    /// Makes what zeros end with as long as it is.
    fn extend(&mut self, file: &File) -> io::Result<()> {
        if self.written < self.len {
            file.set_len(self.len)?;
            self.written = self.len;
        }
        Ok(())
    }

    /// Starts a sync if one is due; the one before must have ended.
    fn sync_now_and_then(&mut self, file: &Arc<File>) -> io::Result<()> {
        let due = self.len - self.synced >= SYNC_BYTES || self.synced_at.elapsed() >= SYNC_TIME;
        if !due || self.len == self.synced {
            return Ok(());
        }
        await_sync(self.syncing.take())?;
        self.extend(file)?;
        (self.synced, self.synced_at) = (self.len, Instant::now());
        let Some((file, id)) = self.file.clone() else { return Ok(()) };
        let (shelf, state) = (Arc::clone(&self.shelf), self.state());
        let (ended, syncing) = sync_channel(1);
        (self.syncing, self.resumable) = (Some(syncing), true);
        // Beside what comes next, so that neither disk nor network waits for the other.
        drop(Handle::current().spawn_blocking(move || {
            let synced =
                fdatasync(&file).map_err(Into::into).and_then(|()| shelf.save(&id, &state));
            // Nobody waits for it if the upload was given up.
            let _ = ended.send(synced);
        }));
        Ok(())
    }

    fn state(&self) -> State {
        State { key: self.key.clone(), covered: self.len, digest: self.digest.clone() }
    }

    /// Makes the part the file that it is to be: whole and durable, or not at all.
    pub(super) fn commit(
        mut self,
        commit: &Commit,
        keep: Option<Attributes>,
    ) -> Result<(), Refusal> {
        let committed = self.try_commit(commit, keep);
        self.spoilt = true;
        committed
    }

    fn try_commit(&mut self, commit: &Commit, keep: Option<Attributes>) -> Result<(), Refusal> {
        if self.spoilt {
            return Err(Refusal::writing(io::Error::other("some of it could not be written")));
        }
        let (digest, len) = (self.prefix(), self.len);
        if len != commit.size {
            let text = format!("{len} bytes came, not {}", commit.size);
            return Err(Refusal::new(ErrorCode::Mismatch, text));
        }
        if digest != commit.digest {
            return Err(Refusal::new(ErrorCode::Mismatch, "what came has another SHA-256"));
        }
        let file = self.file()?;
        let published = self.publish(&file, keep).map_err(Refusal::writing)?;
        self.shelf.counts.put.add_one();
        if let Some(gone) = published.gone {
            self.shelf.quota.gone(gone);
        }
        // It is a part no longer; nor is another one of the same name of use to anybody.
        if let Some((_, id)) = self.file.take()
            && self.resumable
        {
            self.shelf.forget(&id);
        }
        self.shelf.start_anew(&self.key);
        published.durable.map_err(|error| Refusal::not_durable("it is stored", &error))
    }

    fn publish(
        &mut self,
        file: &File,
        keep: Option<Attributes>,
    ) -> io::Result<Changed<Option<Gone>>> {
        await_sync(self.syncing.take())?;
        self.extend(file)?;
        if let Some(name) = &self.key.owner {
            owner::note(file, name)?;
        }
        if let Some(attributes) = keep {
            // Whose it is must stay readable for this server, whoever may read it else.
            set_attributes(file, Attributes { mode: attributes.mode | 0o600, ..attributes })?;
        }
        fsync(file)?;
        let gone = || io::Error::other("the part is gone");
        let (_, id) = self.file.as_ref().ok_or_else(gone)?;
        let name = FileName::new(&self.key.name).map_err(io::Error::other)?;
        self.shelf.store.publish(&part_name(id), name, &mut self.places)
    }
}

/// How the sync under way ends.
fn await_sync(syncing: Option<Receiver<io::Result<()>>>) -> io::Result<()> {
    let gone = || io::Error::other("a sync was given up");
    syncing.map_or(Ok(()), |syncing| syncing.recv().map_err(|_| gone())?)
}

/// A part that is dropped is parked, unless it is spoilt: by a thread of its own, since a drop must not
/// wait for the disk.
impl Drop for Part {
    fn drop(&mut self) {
        // Before somebody who waits for its end needs them.
        self.places.keep_at_most(0);
        let leaving = Leaving {
            key: self.key.clone(),
            file: self.file.take(),
            len: self.len,
            // A job that has panicked may have digested what it has not written.
            parked: (!self.spoilt && !thread::panicking()).then(|| self.state()),
            syncing: self.syncing.take(),
            shelf: Arc::clone(&self.shelf),
            _open: self.open.take(),
        };
        match leaving.file {
            Some(_) => self.shelf.leave(leaving),
            None => self.shelf.left(&self.key, self.parked.take()),
        }
    }
}

/// What is left of an upload that has stopped.
#[derive(Debug)]
pub(super) struct Leaving {
    shelf: Arc<Shelf>,
    key: Key,
    file: Option<(Arc<File>, String)>,
    len: u64,
    parked: Option<State>,
    syncing: Option<Receiver<io::Result<()>>>,
    _open: Option<Open>,
}

impl Leaving {
    /// Parks it, or takes it away.
    pub(super) fn settle(mut self) {
        let Some((file, id)) = &self.file else { return };
        let synced = await_sync(self.syncing.take());
        let parked = self.parked.as_ref().is_some_and(|state| {
            let saved = synced
                .and_then(|()| file.set_len(self.len))
                .and_then(|()| Ok(fdatasync(file)?))
                .and_then(|()| self.shelf.save(id, state));
            saved.inspect_err(|error| trouble::tell(Doing::Park, error)).is_ok()
        });
        if parked {
            self.shelf.counts.part(Fate::Parked);
            tracing::debug!(bytes = self.len, "an upload is parked");
            let (id, since) = (id.clone(), SystemTime::now());
            self.shelf.left(&self.key, Some(Parked { id, len: self.len, since }));
        } else {
            if self.parked.is_some() {
                self.shelf.counts.part(Fate::Lost);
            }
            self.shelf.discard(&self.key.owner, id, self.len);
            self.shelf.left(&self.key, None);
        }
    }
}

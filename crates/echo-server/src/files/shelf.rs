//! What is not whole yet: the parts under way, those that are parked, and the thread that parks them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use echo_core::FileName;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::active::Active;
use super::counts::{Counts, Fate, Limit};
use super::part::{Leaving, Part, State};
use super::quota::Quota;
use super::store::{LOCK, Store};

/// How long a part that nobody goes on with stays.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often, at most, those that have stayed so long are looked for.
const SWEEP: Duration = Duration::from_secs(3600);

/// How long an upload that is to be resumed waits for the one before to be parked: a sync of what that had not
/// synced, on a slow disk, behind others.
const PARKING: Duration = Duration::from_secs(20);

/// How long it waits beside one whose peer is heard: what a peer that is gone has left in buffers.
const LOUD: Duration = Duration::from_secs(3);

/// Whose upload it is, and of what name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) owner: Option<String>,
    pub(super) name: Vec<u8>,
}

/// A part that waits for somebody to go on with it.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) id: String,
    pub(super) len: u64,
    pub(super) since: SystemTime,
}

/// What is found of an upload that begins.
#[derive(Debug)]
pub(super) enum Entered {
    /// Perhaps a part that is parked.
    New(Option<Parked>),
    /// A part that another connection has left, without a word.
    Taken(Box<Part>),
}

#[derive(Debug, Default)]
struct Parts {
    parked: HashMap<Key, Parked>,
    under_way: HashMap<Key, UnderWay>,
}

/// The uploads of a key that are under way, or being parked.
#[derive(Debug, Default)]
struct UnderWay {
    count: u32,
    latest: Weak<Active>,
}

impl Parts {
    fn enter(&mut self, key: &Key) {
        self.under_way.entry(key.clone()).or_default().count += 1;
    }
}

/// All parts of a store.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) store: Store,
    pub(super) quota: Arc<Quota>,
    pub(super) counts: Counts,
    parts: Mutex<Parts>,
    changed: Notify,
    leaving: Sender<Leaving>,
    /// Part of the names of parts.
    started: u64,
    count: AtomicU64,
}

impl Shelf {
    /// Takes up what lies there from before, and takes away what nobody can go on with.
    pub(super) fn open(store: Store, quota: Arc<Quota>) -> io::Result<Arc<Self>> {
        let (leaving, left) = channel();
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let shelf = Arc::new(Self {
            store,
            quota,
            counts: Counts::default(),
            parts: Mutex::default(),
            changed: Notify::new(),
            leaving,
            started: started.unwrap_or_default().as_nanos() as u64,
            count: AtomicU64::new(0),
        });
        shelf.take_up()?;
        // It ends with the shelf, whose sender goes with it.
        let all = Arc::downgrade(&shelf);
        let park = move || Self::park_all(&left, &all);
        thread::Builder::new().name("parts".to_owned()).spawn(park)?;
        Ok(shelf)
    }

    fn park_all(left: &Receiver<Leaving>, all: &Weak<Self>) {
        let mut swept = Instant::now();
        loop {
            match left.recv_timeout(SWEEP) {
                Ok(leaving) => leaving.settle(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                if let Some(shelf) = all.upgrade() {
                    shelf.sweep();
                }
            }
        }
    }

    fn take_up(&self) -> io::Result<()> {
        for entry in Dir::read_from(self.store.private())? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let Some(id) = name.strip_suffix(b".part") else {
                let state = name.strip_suffix(b".state").and_then(|id| str::from_utf8(id).ok());
                let orphan = state.is_none_or(|id| self.open_private(&part_name(id)).is_err());
                if orphan && !matches!(name, b"." | b"..") && name != LOCK.as_bytes() {
                    // A state may have gone with its part since the folder was read.
                    if self.unlink(OsStr::from_bytes(name)) {
                        self.counts.part(Fate::Swept);
                    }
                }
                continue;
            };
            let Ok(id) = str::from_utf8(id) else { continue };
            match self.load(id).and_then(|(file, state)| Ok((file.metadata()?, state))) {
                Ok((meta, state)) if meta.modified().is_ok_and(is_fresh) => {
                    let since = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    let len = meta.len();
                    self.quota.found(state.key.owner.clone(), 1, len);
                    self.put(state.key, Parked { id: id.to_owned(), len, since });
                }
                readable => {
                    match readable {
                        Ok(_) => self.expired(),
                        Err(_) => self.counts.part(Fate::Swept),
                    }
                    self.clear_away(id);
                }
            }
        }
        Ok(())
    }

    /// Counts an upload, and finds what there is of it if it is to be resumed: what is parked, what is being
    /// parked just now, or what a connection has left without a word. Beside a connection whose peer is heard,
    /// it begins anew.
    pub(super) async fn enter(&self, key: &Key, resume: bool) -> Entered {
        let began = Instant::now();
        loop {
            let changed = self.changed.notified();
            let beside = {
                let mut parts = self.parts();
                let parked = if resume { parts.parked.remove(key) } else { None };
                match parts.under_way.get(key) {
                    Some(under_way) if resume && parked.is_none() => under_way.latest.upgrade(),
                    _ => {
                        parts.enter(key);
                        return Entered::New(parked);
                    }
                }
            };
            let (until, patience) = match &beside {
                Some(active) => (active.silent_at(), began + LOUD),
                None => (began + PARKING, began + PARKING),
            };
            let now = Instant::now();
            if let Some(active) = &beside
                && now >= until
            {
                let kept = timeout_at(began + PARKING, active.keep()).await;
                if let Ok(Ok(part)) = kept
                    && !part.is_spoilt()
                {
                    return Entered::Taken(part);
                }
            } else if now < patience {
                // Held, it could not be parked.
                drop(beside);
                let _ = timeout_at(until.min(patience), changed).await;
                continue;
            }
            self.parts().enter(key);
            return Entered::New(None);
        }
    }

    /// Makes an upload that has [entered](Self::enter) known to those that come after it.
    pub(super) fn register(&self, key: &Key, active: &Arc<Active>) {
        if let Some(under_way) = self.parts().under_way.get_mut(key) {
            under_way.latest = Arc::downgrade(active);
        }
        self.changed.notify_waiters();
    }

    /// An upload has ended; with it comes what is parked of it.
    pub(super) fn left(&self, key: &Key, parked: Option<Parked>) {
        if let Some(parked) = parked {
            self.put(key.clone(), parked);
        }
        let mut parts = self.parts();
        if let Some(under_way) = parts.under_way.get_mut(key) {
            under_way.count -= 1;
            if under_way.count == 0 {
                parts.under_way.remove(key);
            }
        }
        drop(parts);
        self.changed.notify_waiters();
    }

    /// Parks a part, in place of another one of the same upload.
    fn put(&self, key: Key, parked: Parked) {
        let owner = key.owner.clone();
        let before = self.parts().parked.insert(key, parked);
        if let Some(before) = before {
            self.take_away(&owner, &before);
        }
    }

    /// Whether something is parked of an upload.
    pub(super) fn has_parked(&self, key: &Key) -> bool {
        self.parts().parked.contains_key(key)
    }

    /// Takes away what is parked of an upload, as it starts anew.
    pub(super) fn start_anew(&self, key: &Key) {
        let parked = self.parts().parked.remove(key);
        if let Some(parked) = parked {
            self.take_away(&key.owner, &parked);
        }
    }

    /// Takes away what was parked for too long.
    fn sweep(&self) {
        let mut parts = self.parts();
        let old: Vec<_> = parts.parked.extract_if(|_, parked| !is_fresh(parked.since)).collect();
        drop(parts);
        for (key, parked) in old {
            self.expired();
            self.take_away(&key.owner, &parked);
        }
    }

    fn expired(&self) {
        self.counts.part(Fate::Expired);
        self.counts.reach(Limit::Parked);
    }

    /// How many parts wait for somebody to go on with them.
    pub(super) fn parked(&self) -> usize {
        self.parts().parked.len()
    }

    /// Takes a parked part away, and what is counted for it.
    pub(super) fn take_away(&self, owner: &Option<String>, parked: &Parked) {
        self.discard(owner, &parked.id, parked.len);
    }

    /// Waits until no upload is under way, and all that stopped is parked.
    pub(super) async fn settled(&self, until: Instant) {
        loop {
            let changed = self.changed.notified();
            if self.parts().under_way.is_empty() || timeout_at(until, changed).await.is_err() {
                return;
            }
        }
    }

    /// Hands a part to the thread that parks.
    pub(super) fn leave(&self, leaving: Leaving) {
        // The thread is there as long as this is.
        let _ = self.leaving.send(leaving);
    }

    /// A new file for a part, and its id.
    pub(super) fn create(&self) -> io::Result<(File, String)> {
        loop {
            let id = format!("{:x}-{}", self.started, self.count.fetch_add(1, Relaxed));
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // As any program makes files: the umask decides, and the folder is private.
            let mode = Mode::from_raw_mode(0o666);
            match openat(self.store.private(), part_name(&id), flags, mode) {
                Err(Errno::EXIST) => {}
                created => return Ok((created?.into(), id)),
            }
        }
    }

    /// A part's file, and the state that covers it or the beginning of it.
    pub(super) fn load(&self, id: &str) -> io::Result<(File, State)> {
        let mut bytes = Vec::new();
        let state = self.open_private(&state_name(id))?;
        state.take(super::part::MAX_STATE_LEN).read_to_end(&mut bytes)?;
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let state = State::parse(&bytes).ok_or_else(broken)?;
        FileName::new(&state.key.name).map_err(|_| broken())?;
        let (file, _) = self.store.private().write(OsStr::new(&part_name(id)), false)?;
        if file.metadata()?.len() < state.covered {
            return Err(broken());
        }
        Ok((file, state))
    }

    /// Puts a state in the place of the one before, durably. What it covers is synced.
    pub(super) fn save(&self, id: &str, state: &State) -> io::Result<()> {
        self.write_state(id, state, |file| Ok(fsync(file)?))?;
        self.store.private().sync()
    }

    /// The same for as long as the system runs.
    pub(super) fn note(&self, id: &str, state: &State) -> io::Result<()> {
        self.write_state(id, state, |_| Ok(()))
    }

    fn write_state(
        &self,
        id: &str,
        state: &State,
        sync: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let new = format!("{id}.new");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = self.store.private();
        let mut file: File = openat(folder, &new, flags, Mode::RUSR | Mode::WUSR)?.into();
        let saved = file
            .write_all(&state.to_bytes())
            .and_then(|()| sync(&file))
            .and_then(|()| Ok(renameat(folder, &new, folder, state_name(id))?));
        if saved.is_err() {
            self.unlink(OsStr::new(&new));
        }
        saved
    }

    /// Takes a part away, and what is counted for it.
    pub(super) fn discard(&self, owner: &Option<String>, id: &str, len: u64) {
        self.clear_away(id);
        self.quota.give_file(owner);
        self.quota.give_bytes(owner, len);
    }

    fn clear_away(&self, id: &str) {
        self.forget(id);
        self.unlink(OsStr::new(&part_name(id)));
    }

    /// Takes a part's state away.
    pub(super) fn forget(&self, id: &str) {
        self.unlink(OsStr::new(&state_name(id)));
    }

    /// Takes a file away, and says whether it was there. What cannot be taken away now is found at the
    /// next start.
    fn unlink(&self, name: &OsStr) -> bool {
        let unlinked = unlinkat(self.store.private(), name, AtFlags::empty());
        if let Err(error) = unlinked
            && error != Errno::NOENT
        {
            tracing::debug!("a part stays: {error}");
        }
        unlinked.is_ok()
    }

    fn open_private(&self, name: &str) -> io::Result<File> {
        Ok(self.store.private().read(OsStr::new(name))?.0)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn part_name(id: &str) -> String {
    format!("{id}.part")
}

fn state_name(id: &str) -> String {
    format!("{id}.state")
}

fn is_fresh(since: SystemTime) -> bool {
    // A clock that was set back makes it no older.
    since.elapsed().map_or(true, |age| age < KEPT)
}

#[cfg(test)]
mod tests;

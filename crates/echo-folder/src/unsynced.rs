//! Folders that were made and may not be durable yet: a crash would take all that lies in them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::fstat;

use super::Folder;

/// Device and inode: no other folder has these while a handle of it is open.
type Id = (u64, u64);

/// The folders in which this process has made others that may not be durable yet. Each is noted before a folder in
/// it can be found, so whoever finds that knows.
///
/// One whose sync has failed stays, without a handle: whoever passes syncs it, as does who passes another one
/// that gets its inode, for nothing.
#[derive(Debug, Default)]
pub struct Unsynced(Mutex<HashMap<Id, Noted>>);

/// How many have noted it and not synced it, and their handle of it: one for all.
#[derive(Debug, Default)]
struct Noted {
    count: usize,
    folder: Weak<Folder>,
}

/// A folder with an entry that may not be durable yet.
#[derive(Debug)]
#[must_use = "what lies in a folder is durable once the entry of that is synced"]
pub struct Grown<'a> {
    folder: Arc<Folder>,
    id: Id,
    unsynced: &'a Unsynced,
    ended: bool,
}

impl Unsynced {
    /// Notes that a folder is about to be made in this one.
    pub(super) fn note(&self, folder: &Folder) -> io::Result<Grown<'_>> {
        self.note_as(folder, id(folder)?)
    }

    fn note_as(&self, folder: &Folder, id: Id) -> io::Result<Grown<'_>> {
        let mut folders = self.lock();
        let known = folders.get(&id).and_then(|noted| noted.folder.upgrade());
        let folder = known.map_or_else(|| folder.try_clone().map(Arc::new), Ok)?;
        let noted = folders.entry(id).or_default();
        noted.count += 1;
        noted.folder = Arc::downgrade(&folder);
        Ok(Grown { folder, id, unsynced: self, ended: false })
    }

    /// The same for who has found a folder in it, unless that is durable.
    pub(super) fn find(&self, folder: &Folder) -> io::Result<Option<Grown<'_>>> {
        // Mostly there is none at all.
        if self.lock().is_empty() {
            return Ok(None);
        }
        let id = id(folder)?;
        let noted = self.lock().contains_key(&id);
        if noted { self.note_as(folder, id).map(Some) } else { Ok(None) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grown<'_> {
    /// Makes the entries of the folder durable.
    ///
    /// # Errors
    /// As of fsync(2).
    pub fn sync(mut self) -> io::Result<()> {
        self.settle()
    }

    fn settle(&mut self) -> io::Result<()> {
        self.ended = true;
        self.folder.sync()?;
        self.forget();
        Ok(())
    }

    /// Nothing was made in it.
    pub(super) fn give_up(mut self) {
        self.ended = true;
        self.forget();
    }

    fn forget(&self) {
        let mut folders = self.unsynced.lock();
        if let Some(noted) = folders.get_mut(&self.id) {
            noted.count -= 1;
            if noted.count == 0 {
                folders.remove(&self.id);
            }
        }
    }
}

/// What was made is synced though the call that made it has failed: others may have put files into it.
impl Drop for Grown<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // If that fails it stays noted.
            let _ = self.settle();
        }
    }
}

fn id(folder: &Folder) -> io::Result<Id> {
    let stat = fstat(folder)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests;

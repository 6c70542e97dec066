//! The folder that holds the files, and every system call that names something in it: relative to its
//! handle, as [`echo_folder`] walks.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use echo_core::FileName;
use echo_folder::{Folder, Grown, Unsynced, size};
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, Stat, flock, mkdirat, renameat, statat, syncfs,
    unlinkat,
};
use rustix::io::Errno;

use super::quota::{Places, Quota};
use super::{folders, owner, probe};

/// The folder of what is not whole yet; no file's name begins with it.
pub(super) const PRIVATE: &str = ".echo-server";

/// Where file systems keep what their repair finds: it may belong to root alone.
const FOUND: &str = "lost+found";

/// Who holds it has the store for itself.
pub(super) const LOCK: &str = "lock";

/// How often a folder may vanish while a file is about to be put into it.
const ATTEMPTS: u32 = 16;

/// An open store.
#[derive(Debug)]
pub(super) struct Store {
    root: Folder,
    private: Folder,
    unsynced: Unsynced,
    /// Held while a name changes what it stands for, so that each file, and each folder, is counted once.
    names: Mutex<()>,
    _lock: File,
}

/// What a change took away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) size: u64,
    pub(super) owner: Option<String>,
}

/// A name stands for something else now. Whether that outlasts a crash is another matter.
#[derive(Debug)]
pub(super) struct Changed<T> {
    /// What it took away.
    pub(super) gone: T,
    pub(super) durable: io::Result<()>,
}

impl Store {
    /// Opens the store in an existing folder.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = Folder::open(path)?;
        probe::takes_files(&root)?;
        probe::own_place(&root)?;
        match mkdirat(&root, PRIVATE, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => {
                made?;
                root.sync()?;
            }
        }
        let private = root.enter(OsStr::new(PRIVATE))?;
        drop(private.write(OsStr::new(LOCK), true)?);
        // A file that is open for writing would keep the disk from being mounted read-only.
        let (lock, _) = private.read(OsStr::new(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::AddrInUse, "another server stores files there")
            }
            error => error.into(),
        })?;
        // A server that was killed may have made folders and not synced them: nobody knows which, and what is put
        // into them now would go with them in a crash of the host.
        syncfs(&root)?;
        Ok(Self {
            root,
            private,
            unsynced: Unsynced::default(),
            names: Mutex::new(()),
            _lock: lock,
        })
    }

    /// Whether clients may know of such a name.
    pub(super) fn admits(name: FileName<'_>) -> bool {
        !name.components().next().is_some_and(is_private)
    }

    /// The folder of what is not whole yet.
    pub(super) fn private(&self) -> &Folder {
        &self.private
    }

    /// The folder of all files, for who walks all of it.
    pub(super) fn root(&self) -> &Folder {
        &self.root
    }

    /// How many folders on the way to a name are not there.
    pub(super) fn missing(&self, name: &[u8]) -> u64 {
        let mut way = name;
        let mut missing = 0;
        while let Some(end) = way.iter().rposition(|byte| *byte == b'/') {
            way = &way[..end];
            let Ok(folder) = FileName::new(way) else { break };
            let found = self.root.walk(folder).and_then(|(parent, last)| parent.enter(last));
            match found {
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing += 1,
                // Or something else is there, which the upload will be told.
                _ => break,
            }
        }
        missing
    }

    /// Refuses a name that something else has than a file, and says how many folders on the way to it are not there.
    pub(super) fn place(&self, name: FileName<'_>) -> io::Result<u64> {
        match self.root.walk(name) {
            Ok((folder, last)) => there(&folder, last).map(|_| 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(self.missing(name.as_bytes()))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a file for reading.
    pub(super) fn read(&self, name: FileName<'_>) -> io::Result<(File, Stat)> {
        let (folder, last) = self.root.walk(name)?;
        folder.read(last)
    }

    /// Gives a part its name, in place of what had it. Folders on the way are made, and durable with it, whichever
    /// call made them.
    pub(super) fn publish(
        &self,
        part: &str,
        name: FileName<'_>,
        places: &mut Places,
    ) -> io::Result<Changed<Option<Gone>>> {
        for _ in 0..ATTEMPTS {
            match self.try_publish(part, name, places) {
                // Somebody removed the last file of a folder on the way, and it with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                published => return published,
            }
        }
        Err(Errno::NOENT.into())
    }

    fn try_publish(
        &self,
        part: &str,
        name: FileName<'_>,
        places: &mut Places,
    ) -> io::Result<Changed<Option<Gone>>> {
        let made = self.root.make_by(name, &self.unsynced, |parent, name| {
            let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            folders::make(parent, name, places)
        });
        // What was made for a file that does not come would stay, and count, for ever.
        let made = made.and_then(|(folder, last, changed)| {
            let gone = self.rename(part, &folder, last)?;
            Ok((folder, gone, changed))
        });
        let (folder, gone, changed) =
            made.inspect_err(|_| self.remove_empty(name, places.quota()))?;
        let durable = folder.sync().and_then(|()| changed.into_iter().try_for_each(Grown::sync));
        Ok(Changed { gone, durable })
    }

    fn rename(&self, part: &str, folder: &Folder, last: &OsStr) -> io::Result<Option<Gone>> {
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = gone(folder, last)?;
        renameat(&self.private, part, folder, last)?;
        Ok(replaced)
    }

    /// Removes a file. Folders that hold nothing any more go with it.
    pub(super) fn remove(&self, name: FileName<'_>, quota: &Quota) -> io::Result<Changed<Gone>> {
        let (folder, last) = self.root.walk(name)?;
        let gone = {
            let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let gone = gone(&folder, last)?.ok_or(Errno::NOENT)?;
            unlinkat(&folder, last, AtFlags::empty())?;
            gone
        };
        let durable = folder.sync();
        self.remove_empty(name, quota);
        Ok(Changed { gone, durable })
    }

    /// Removes the folders on the way to `name` that are empty. Others made them, or use them: whatever
    /// hinders it is right.
    fn remove_empty(&self, name: FileName<'_>, quota: &Quota) {
        let mut way = name.as_bytes();
        while let Some(end) = way.iter().rposition(|byte| *byte == b'/') {
            way = &way[..end];
            let Ok(folder) = FileName::new(way) else { return };
            let removed = self.root.walk(folder).and_then(|(parent, last)| {
                let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
                folders::remove(&parent, last, quota)
            });
            // One that is not there may have been the one that could not be made.
            if removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
                return;
            }
        }
    }
}

/// What in the store's folder is not for clients.
pub(super) fn is_private(name: &[u8]) -> bool {
    name == PRIVATE.as_bytes() || name == FOUND.as_bytes()
}

/// What would be gone with that name.
fn gone(folder: &Folder, name: &OsStr) -> io::Result<Option<Gone>> {
    let Some(stat) = there(folder, name)? else { return Ok(None) };
    Ok(Some(Gone { size: size(&stat), owner: owner::of_file(folder, name)? }))
}

/// What has that name: nothing, or a file. Anything else stays where it is.
fn there(folder: &Folder, name: &OsStr) -> io::Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            Ok(Some(stat))
        }
        Ok(_) => Err(Errno::EXIST.into()),
    }
}

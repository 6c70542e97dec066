//! The folder that holds the files, and every system call that names something in it.
//!
//! All goes through handles of folders. A name is walked component by component, each opened relative to
//! the one before and without following a symbolic link (O_NOFOLLOW), so no name and no race with
//! somebody who changes the tree leads out of it. (openat2(2) would do the same in one call, but is
//! denied to services under systemd's `RestrictSUIDSGID=`.)

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use echo_core::FileName;
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, fsync, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

/// The folder of what is not whole yet; no file's name begins with it.
pub(super) const PRIVATE: &str = ".echo-server";

/// Who holds it has the store for itself.
const LOCK: &str = "lock";

/// How often a folder may vanish while a file is about to be put into it.
const ATTEMPTS: u32 = 16;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open store.
#[derive(Debug)]
pub(super) struct Store {
    root: OwnedFd,
    private: OwnedFd,
    /// Held while a name changes what it stands for, so that each file is counted once.
    names: Mutex<()>,
    _lock: OwnedFd,
}

/// What a change took away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) size: u64,
    pub(super) owner: Option<String>,
}

impl Store {
    /// Opens the store in an existing folder.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        match mkdirat(&root, PRIVATE, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
        let private = openat(&root, PRIVATE, FOLDER, Mode::empty())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(&private, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::AddrInUse, "another server has this folder")
            }
            error => error.into(),
        })?;
        fsync(&root)?;
        Ok(Self { root, private, names: Mutex::new(()), _lock: lock })
    }

    /// Whether clients may know of such a name.
    pub(super) fn admits(name: FileName<'_>) -> bool {
        name.components().next() != Some(PRIVATE.as_bytes())
    }

    /// The folder of what is not whole yet.
    pub(super) fn private(&self) -> &OwnedFd {
        &self.private
    }

    /// A handle of the root for who walks all of it.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens a file for reading.
    pub(super) fn read(&self, name: FileName<'_>) -> io::Result<(File, Stat)> {
        let (folder, last) = self.folder_of(name)?;
        open_regular(&folder, last)
    }

    /// Gives a part its name, in place of what had it: durable when this returns. Folders on the way
    /// are made.
    pub(super) fn publish(&self, part: &str, name: FileName<'_>) -> io::Result<Option<Gone>> {
        for _ in 0..ATTEMPTS {
            let (folder, last, changed) = self.make_folder_of(name)?;
            let renamed = self.rename(part, &folder, last);
            // Somebody removed the last file of that folder, and it with it.
            if matches!(&renamed, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                continue;
            }
            let replaced = renamed?;
            fsync(&folder)?;
            changed.iter().try_for_each(fsync)?;
            return Ok(replaced);
        }
        Err(Errno::NOENT.into())
    }

    fn rename(&self, part: &str, folder: &OwnedFd, last: &OsStr) -> io::Result<Option<Gone>> {
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = gone(folder, last)?;
        renameat(&self.private, part, folder, last)?;
        Ok(replaced)
    }

    /// Removes a file: durable when this returns. Folders that hold nothing any more go with it.
    pub(super) fn remove(&self, name: FileName<'_>) -> io::Result<Gone> {
        let (folder, last) = self.folder_of(name)?;
        let removed = {
            let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let removed = gone(&folder, last)?.ok_or(Errno::NOENT)?;
            unlinkat(&folder, last, AtFlags::empty())?;
            removed
        };
        fsync(&folder)?;
        self.remove_empty(name);
        Ok(removed)
    }

    /// Removes the folders on the way to `name` that are empty. Others made them, or use them: whatever
    /// hinders it is right.
    fn remove_empty(&self, name: FileName<'_>) {
        let mut way = name.as_bytes();
        while let Some(end) = way.iter().rposition(|byte| *byte == b'/') {
            way = &way[..end];
            let Ok(folder) = FileName::new(way) else { return };
            let removed = self
                .folder_of(folder)
                .and_then(|(parent, last)| Ok(unlinkat(&parent, last, AtFlags::REMOVEDIR)?));
            if removed.is_err() {
                return;
            }
        }
    }

    /// The folder that holds `name`, and what it is called in there.
    fn folder_of<'a>(&self, name: FileName<'a>) -> io::Result<(OwnedFd, &'a OsStr)> {
        self.walk(name, |folder, component| Ok(openat(folder, component, FOLDER, Mode::empty())?))
    }

    /// The same; what is missing is made. With it come the folders whose entries are new, and which are
    /// to be synced.
    fn make_folder_of<'a>(
        &self,
        name: FileName<'a>,
    ) -> io::Result<(OwnedFd, &'a OsStr, Vec<OwnedFd>)> {
        let mut changed = Vec::new();
        let (folder, last) = self.walk(name, |folder, component| {
            match openat(folder, component, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) => {}
                opened => return Ok(opened?),
            }
            match mkdirat(folder, component, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
                Err(Errno::EXIST) => {}
                made => made?,
            }
            changed.push(folder.try_clone()?);
            Ok(openat(folder, component, FOLDER, Mode::empty())?)
        })?;
        Ok((folder, last, changed))
    }

    fn walk<'a>(
        &self,
        name: FileName<'a>,
        mut enter: impl FnMut(&OwnedFd, &OsStr) -> io::Result<OwnedFd>,
    ) -> io::Result<(OwnedFd, &'a OsStr)> {
        let mut components = name.components().map(OsStr::from_bytes);
        let last = components.next_back().unwrap_or_default();
        let mut folder = self.root.try_clone()?;
        for component in components {
            folder = enter(&folder, component)?;
        }
        Ok((folder, last))
    }
}

/// Opens a file of a folder for reading: a regular one, and nothing that would block or follow.
pub(super) fn open_regular(folder: impl AsFd, name: &OsStr) -> io::Result<(File, Stat)> {
    // First a look: opening a device can do things.
    is_regular(&statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?)?;
    let flags = OFlags::RDONLY
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file = openat(&folder, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    is_regular(&stat)?;
    Ok((file.into(), stat))
}

fn is_regular(stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(Errno::NOENT.into()),
    }
}

/// What would be gone with that name: nothing, or a file. Anything else stays where it is.
fn gone(folder: &OwnedFd, name: &OsStr) -> io::Result<Option<Gone>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            // What may not be read is nobody's.
            let owner = open_regular(folder, name).ok().and_then(|(file, _)| super::owner::of(file));
            Ok(Some(Gone { size: size(&stat), owner }))
        }
        Ok(_) => Err(Errno::EXIST.into()),
    }
}

/// The bytes of a file.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

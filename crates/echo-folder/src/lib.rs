//! Files under a folder's handle, for the server's store and for what a client fetches: names that come
//! from a peer, or from the other side of a network.
//!
//! A name is walked component by component, each opened relative to the folder before and without
//! following a symbolic link (O_NOFOLLOW). A checked [`FileName`] has no `..` and is not absolute, so
//! neither it nor a race with somebody who changes the tree leads out. (openat2(2) would do the same in
//! one call, but is denied to services under systemd's `RestrictSUIDSGID=`.)

#![forbid(unsafe_code)]

mod unsynced;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use echo_core::{Attributes, FileName};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, fchmod, fstat, fsync,
    futimens, mkdirat, openat, statat,
};
use rustix::io::Errno;

pub use unsynced::{Grown, Unsynced};

/// Bytes of zeros that are worth a hole: a block of most file systems.
const HOLE: usize = 4 << 10;

/// An open folder.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder by a path of this host's user, which may lead through symbolic links.
    ///
    /// # Errors
    /// As of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens a folder in this one. A symbolic link is none.
    ///
    /// # Errors
    /// As of open(2).
    pub fn enter(&self, component: &OsStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(&self.0, component, flags, Mode::empty())?))
    }

    /// The folder that holds `name`, and what it is called in there.
    ///
    /// # Errors
    /// As of open(2), for the first folder on the way that cannot be entered.
    pub fn walk<'a>(&self, name: FileName<'a>) -> io::Result<(Self, &'a OsStr)> {
        self.walk_by(name, Self::enter)
    }

    /// The same; what is missing is made, with all permissions that the umask leaves. With it come the folders
    /// that have new entries, by this call or by others that have not synced them yet: what lies in those is
    /// durable once all are [synced](Grown::sync).
    ///
    /// # Errors
    /// As of open(2) and mkdir(2).
    pub fn make<'a, 'u>(
        &self,
        name: FileName<'a>,
        unsynced: &'u Unsynced,
    ) -> io::Result<(Self, &'a OsStr, Vec<Grown<'u>>)> {
        self.make_by(name, unsynced, Self::make_one)
    }

    /// Makes a folder in this one, with all permissions that the umask leaves.
    ///
    /// # Errors
    /// As of mkdir(2).
    pub fn make_one(&self, component: &OsStr) -> io::Result<()> {
        Ok(mkdirat(&self.0, component, Mode::RWXU | Mode::RWXG | Mode::RWXO)?)
    }

    /// As [`make`](Self::make), where `make_one` makes each that is missing.
    ///
    /// # Errors
    /// As of open(2), and those of `make_one`.
    pub fn make_by<'a, 'u>(
        &self,
        name: FileName<'a>,
        unsynced: &'u Unsynced,
        mut make_one: impl FnMut(&Self, &OsStr) -> io::Result<()>,
    ) -> io::Result<(Self, &'a OsStr, Vec<Grown<'u>>)> {
        let mut changed = Vec::new();
        let (folder, last) = self.walk_by(name, |folder, component| {
            match folder.enter(component) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(entered) => {
                    changed.extend(unsynced.find(folder)?);
                    return Ok(entered);
                }
            }
            let grown = unsynced.note(folder)?;
            match make_one(folder, component) {
                Ok(()) => changed.push(grown),
                // Another one was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => changed.push(grown),
                Err(error) => {
                    grown.give_up();
                    return Err(error);
                }
            }
            folder.enter(component)
        })?;
        Ok((folder, last, changed))
    }

    /// The folders on the way to the one that holds `name`: this one, and those in it that are left again.
    /// The entry of each of its components but the last is in one of them.
    ///
    /// # Errors
    /// As of open(2), for the first folder on the way that cannot be entered.
    pub fn way(&self, name: FileName<'_>) -> io::Result<Vec<Self>> {
        let mut way = Vec::new();
        self.walk_by(name, |folder, component| {
            way.push(folder.try_clone()?);
            folder.enter(component)
        })?;
        Ok(way)
    }

    fn walk_by<'a>(
        &self,
        name: FileName<'a>,
        mut enter: impl FnMut(&Self, &OsStr) -> io::Result<Self>,
    ) -> io::Result<(Self, &'a OsStr)> {
        let mut components = name.components().map(OsStr::from_bytes);
        let last = components.next_back().unwrap_or_default();
        let mut folder = self.try_clone()?;
        for component in components {
            folder = enter(&folder, component)?;
        }
        Ok((folder, last))
    }

    /// What the system knows of a regular file.
    ///
    /// # Errors
    /// As of stat(2); of what is no regular file, that it is not there.
    pub fn look(&self, name: &OsStr) -> io::Result<Stat> {
        let stat = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        regular(&stat)?;
        Ok(stat)
    }

    /// Opens a regular file for reading. Nothing else is opened, nor waited for.
    ///
    /// # Errors
    /// As of open(2); of what is no regular file, that it is not there.
    pub fn read(&self, name: &OsStr) -> io::Result<(File, Stat)> {
        // First a look: opening a device can do things.
        self.look(name)?;
        self.open_regular(name, OFlags::RDONLY)
    }

    /// Opens a regular file for reading and writing; with `make`, one that is not there is made.
    ///
    /// # Errors
    /// As of open(2); of what is no regular file, that it is not there.
    pub fn write(&self, name: &OsStr, make: bool) -> io::Result<(File, Stat)> {
        let make = if make { OFlags::CREATE } else { OFlags::empty() };
        self.open_regular(name, OFlags::RDWR | make)
    }

    fn open_regular(&self, name: &OsStr, flags: OFlags) -> io::Result<(File, Stat)> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // As any program makes files: the umask decides.
        let file = openat(&self.0, name, flags, Mode::from_raw_mode(0o666))?;
        let stat = fstat(&file)?;
        regular(&stat)?;
        Ok((file.into(), stat))
    }

    /// Makes the entries of this folder durable.
    ///
    /// # Errors
    /// As of fsync(2).
    pub fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }

    /// Another handle of it.
    ///
    /// # Errors
    /// As of fcntl(2).
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn regular(stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(Errno::NOENT.into()),
    }
}

/// Bytes of a file.
pub fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// Attributes of a file, as frames tell them.
pub fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        mode: stat.st_mode & 0o7777,
        mtime_s: stat.st_mtime,
        mtime_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    }
}

/// Gives a file attributes that a frame told: permissions (never set-user-ID or its like, as it is a peer
/// who says so) and time.
///
/// # Errors
/// As of fchmod(2) and futimens(3).
pub fn set_attributes(file: &File, attributes: Attributes) -> io::Result<()> {
    fchmod(file, Mode::from_raw_mode(attributes.mode & 0o777))?;
    let time = Timespec { tv_sec: attributes.mtime_s, tv_nsec: attributes.mtime_ns.into() };
    Ok(futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}

/// Whether these bytes need not be written where a file has nothing yet.
pub fn is_hole(bytes: &[u8]) -> bool {
    let zeros = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    bytes.len() >= HOLE && bytes.chunks(256).all(zeros)
}

#[cfg(test)]
mod tests;

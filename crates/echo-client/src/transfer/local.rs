//! Where files of this host are written to that are fetched.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use echo_core::{Attributes, FileName};
use echo_folder::{Folder, Grown, Unsynced, is_hole, set_attributes};
use indicatif::BinaryBytes;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Stat, fchmod, fchown, flock, fstat,
    fstatvfs, fsync, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};

use crate::escape::escape_bytes;
use crate::failure::reason;
use crate::temporary::{is_temporary, temporary};

/// What is read and written at once.
pub(super) const BLOCK: usize = 256 << 10;

pub(super) fn unwritable(error: &io::Error) -> String {
    format!("cannot write it: {}", reason(error))
}

/// A folder of this host's user, where files are fetched to.
#[derive(Debug)]
pub(super) struct Root {
    folder: Folder,
    /// The folder in there that was made, or found, last: those on the way to it are on the disk.
    synced: Mutex<Vec<u8>>,
    unsynced: Unsynced,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let folder = Folder::open(path)?;
        Ok(Self { folder, synced: Mutex::default(), unsynced: Unsynced::default() })
    }

    /// A folder in this one.
    pub(super) fn enter(&self, component: &OsStr) -> io::Result<Folder> {
        self.folder.enter(component)
    }

    /// The folder that holds `name`, and what it is called in there. Those on the way are made, and are on
    /// the disk; also what is there already, which a call has made that was killed, or another connection
    /// makes right now.
    fn make<'a>(&self, name: FileName<'a>) -> io::Result<(Folder, &'a OsStr)> {
        let (folder, last, made) = self.folder.make(name, &self.unsynced)?;
        let path = &name.as_bytes()[..name.as_bytes().len() - last.len()];
        let before = self.synced().clone();
        if before != path {
            let [now, before] = [path, &before].map(|it| it.split_inclusive(|byte| *byte == b'/'));
            let known = now.zip(before).take_while(|(now, before)| now == before).count();
            self.folder.way(name)?.iter().skip(known).try_for_each(Folder::sync)?;
            *self.synced() = path.to_vec();
        }
        // Of a way that is known, what somebody took away meanwhile.
        made.into_iter().try_for_each(Grown::sync)?;
        Ok((folder, last))
    }

    fn synced(&self) -> MutexGuard<'_, Vec<u8>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is fetched, under a temporary name beside its own until it is whole.
#[derive(Debug)]
pub(super) struct Fetched {
    folder: Folder,
    last: OsString,
    temporary: OsString,
    /// It has that name, and nothing else can have it while this is locked.
    is_there: bool,
    file: File,
    pub(super) len: u64,
    written: u64,
    pub(super) digest: Sha256,
}

impl Fetched {
    /// Opens the temporary of `name` in `root`, with what an earlier call has left there.
    pub(super) fn open(root: &Root, name: &[u8]) -> io::Result<Self> {
        let name = FileName::new(name).map_err(io::Error::other)?;
        if name.components().any(|it| is_temporary(OsStr::from_bytes(it))) {
            // It might take the place of one.
            return Err(io::Error::other("files of that name are those not fetched to their end"));
        }
        let (folder, last) = root.make(name)?;
        let temporary = temporary(last);
        let (file, stat) = loop {
            let rights = on_the_way(&folder, last)?;
            let Some(file) = part(&folder, &temporary, rights)? else { continue };
            if let Some(stat) = lock(&file, &folder, &temporary)? {
                let found = Mode::from_raw_mode(stat.st_mode) & RIGHTS;
                if !rights.contains(found) {
                    // An earlier call had less to hide.
                    fchmod(&file, found & rights)?;
                }
                break (file, stat);
            }
        };
        let (mut digest, mut len) = (Sha256::new(), 0);
        let mut block = vec![0; BLOCK];
        while len < echo_folder::size(&stat) {
            match file.read_at(&mut block, len)? {
                0 => break,
                read => {
                    digest.update(&block[..read]);
                    len += read as u64;
                }
            }
        }
        let last = last.to_owned();
        Ok(Self { folder, last, temporary, is_there: true, file, len, written: len, digest })
    }

    /// Refuses to begin with what can never appear, as a folder has its name. Not before the server has a file of that name:
    /// a folder comes into a folder.
    pub(super) fn check(&mut self) -> io::Result<()> {
        match found(&self.folder, &self.last)? {
            Some((FileType::Directory, _)) => {
                // It is new, or was left by a call before the folder came.
                self.discard();
                let name = escape_bytes(self.last.as_bytes());
                Err(io::Error::other(format!(
                    "it is a file on the server, and {name} is a folder here: move that, or give another place with -o"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.len, self.written, self.digest) = (0, 0, Sha256::new());
        Ok(())
    }

    /// Goes on at `offset`, or anew, with what will have `size` bytes.
    pub(super) fn begin(&mut self, offset: u64, size: u64) -> io::Result<()> {
        self.check()?;
        let anew = offset != self.len;
        // It is free once it is truncated, but not every file system says so at once.
        let own =
            if anew { u64::try_from(fstat(&self.file)?.st_blocks).unwrap_or(0) * 512 } else { 0 };
        let room = self.room(own, size.saturating_sub(offset));
        match room {
            Ok(()) if anew => self.clear()?,
            // Nothing of it is of use.
            Err(_) if offset == 0 => self.discard(),
            _ => {}
        }
        room
    }

    /// Refuses what has no room, as far as one can tell; `own` bytes are about to be free. Zeros might become
    /// holes, but nobody knows before they have come.
    fn room(&self, own: u64, more: u64) -> io::Result<()> {
        let found = fstatvfs(&self.file)?;
        let free = found.f_bavail.saturating_mul(found.f_frsize).saturating_add(own);
        // Some file systems do not tell.
        if found.f_blocks == 0 || more <= free {
            return Ok(());
        }
        let [more, free] = [more, free].map(BinaryBytes);
        Err(io::Error::other(format!("{more} are to come, and {free} are free there")))
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !is_hole(bytes) {
            self.file.write_all_at(bytes, self.len)?;
            self.written = self.len + bytes.len() as u64;
        }
        self.len += bytes.len() as u64;
        self.digest.update(bytes);
        Ok(())
    }

    /// Gives it its name, durably: its digest is right.
    pub(super) fn appear(mut self, keep: Option<Attributes>) -> io::Result<()> {
        if self.written < self.len {
            self.file.set_len(self.len)?;
        }
        if let Some(attributes) = keep {
            set_attributes(&self.file, attributes)?;
        } else if let Some((FileType::RegularFile, old)) = found(&self.folder, &self.last)? {
            // Who may read and write it is its owner's to say, and not changed by new contents: as rsync(1) does.
            let rights = take_group(&self.file, &old)?;
            fchmod(&self.file, rights)?;
        }
        fsync(&self.file)?;
        renameat(&self.folder, &self.temporary, &self.folder, &self.last)?;
        self.is_there = false;
        self.folder.sync()
    }

    /// Takes the temporary away: what is in it is wrong.
    pub(super) fn discard(&mut self) {
        if mem::take(&mut self.is_there) {
            // It is overwritten by the next call if it stays.
            let _ = unlinkat(&self.folder, &self.temporary, AtFlags::empty());
        }
    }
}

/// What nothing has come of is of no use to the next call.
impl Drop for Fetched {
    fn drop(&mut self) {
        if self.len == 0 {
            self.discard();
        }
    }
}

/// Permissions that can be kept: no others are given to contents that come from elsewhere.
const RIGHTS: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// The rights that a file of another group can have: for its group and for all others what both had.
fn for_any_group(rights: Mode) -> Mode {
    let both = rights.bits() >> 3 & rights.bits() & 0o7;
    (rights & Mode::RWXU) | Mode::from_raw_mode(both << 3 | both)
}

/// Gives a file the group of the one that it replaces, if it can have that, and says what rights it is to have: those of
/// one group are not for another.
fn take_group(file: &File, old: &Stat) -> io::Result<Mode> {
    let rights = Mode::from_raw_mode(old.st_mode) & RIGHTS;
    let has_it = fstat(file)?.st_gid == old.st_gid
        || fchown(file, None, Some(Gid::from_raw(old.st_gid))).is_ok();
    Ok(if has_it { rights } else { for_any_group(rights) })
}

/// What is there under that name.
fn found(folder: &Folder, last: &OsStr) -> io::Result<Option<(FileType, Stat)>> {
    match statat(folder, last, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((FileType::from_raw_mode(stat.st_mode), stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The rights of a temporary at most. As any program makes files: the umask decides. But nobody reads there what is for
/// fewer in the file that it replaces, whose group it has only at the end.
fn on_the_way(folder: &Folder, last: &OsStr) -> io::Result<Mode> {
    let rights = match found(folder, last)? {
        Some((FileType::RegularFile, old)) => {
            for_any_group(Mode::from_raw_mode(old.st_mode)) | Mode::RUSR | Mode::WUSR
        }
        _ => RIGHTS,
    };
    Ok(rights & Mode::from_raw_mode(0o666))
}

/// A new temporary, or what an earlier call of this user has left; `None` if that went meanwhile. Nobody else's:
/// whoever owns it, or has another name of it, could change the file after its digest was right.
fn part(folder: &Folder, temporary: &OsStr, rights: Mode) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(folder, temporary, flags, rights) {
        Err(Errno::EXIST) => {}
        made => return Ok(Some(made?.into())),
    }
    let not_ours = |what: &str| {
        let name = escape_bytes(temporary.as_bytes());
        io::Error::other(format!("{name} beside it {what}: remove that"))
    };
    let stat = match statat(folder, temporary, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_ours("is no regular file"));
    }
    let (file, stat) = match folder.write(temporary, false) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if stat.st_uid != geteuid().as_raw() {
        return Err(not_ours("is another user's"));
    }
    if stat.st_nlink > 1 {
        return Err(not_ours("has another name"));
    }
    Ok(Some(file))
}

/// Has the temporary that was opened for itself, and says what it is like; `None` if whoever had it before
/// has given it its name meanwhile.
fn lock(file: &File, folder: &Folder, temporary: &OsStr) -> io::Result<Option<Stat>> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other("another program fetches it right now"))?;
    let stat = fstat(file)?;
    match statat(folder, temporary, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) if (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) => Ok(Some(stat)),
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// What another user has laid there, or has another name of, is not taken for a part.
    #[test]
    fn parts_of_others_are_refused() {
        let here = tempfile::tempdir().unwrap();
        let root = Root::open(here.path()).unwrap();
        let part = here.path().join(".a.echo-part");
        let refused = || {
            let told = Fetched::open(&root, b"a").unwrap_err().to_string();
            std::fs::remove_file(&part).unwrap();
            told
        };
        std::fs::write(here.path().join("other"), b"other").unwrap();
        std::fs::hard_link(here.path().join("other"), &part).unwrap();
        assert_eq!(refused(), ".a.echo-part beside it has another name: remove that");
        assert_eq!(std::fs::read(here.path().join("other")).unwrap(), b"other");
        std::os::unix::fs::symlink("other", &part).unwrap();
        assert_eq!(refused(), ".a.echo-part beside it is no regular file: remove that");
        std::os::unix::net::UnixListener::bind(&part).unwrap();
        assert_eq!(refused(), ".a.echo-part beside it is no regular file: remove that");
        // Only root can lay one there for somebody else.
        if geteuid().is_root() {
            std::fs::write(&part, b"x").unwrap();
            std::os::unix::fs::chown(&part, Some(65534), None).unwrap();
            assert_eq!(refused(), ".a.echo-part beside it is another user's: remove that");
        }
        Fetched::open(&root, b"a").unwrap().append(b"x").unwrap();
        assert_eq!(Fetched::open(&root, b"a").unwrap().len, 1);
    }

    /// Nobody reads on the way what will be for fewer: not what has a group of its own, nor behind a part that was there.
    #[test]
    fn parts_are_for_no_more_than_what_they_replace() {
        let here = tempfile::tempdir().unwrap();
        let root = Root::open(here.path()).unwrap();
        let (file, part) = (here.path().join("a"), here.path().join(".a.echo-part"));
        let set = |path: &Path, mode| {
            std::fs::write(path, b"x").unwrap();
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        for (mode, most) in [(0o640, 0o600), (0o600, 0o600), (0o400, 0o600), (0o755, 0o644)] {
            set(&file, mode);
            let is = || part.metadata().unwrap().mode() & 0o7777;
            let fetched = Fetched::open(&root, b"a").unwrap();
            assert_eq!(is() & !most, 0, "{mode:o} {:o}", is());
            drop(fetched);
            set(&part, 0o664);
            let fetched = Fetched::open(&root, b"a").unwrap();
            assert_eq!(is(), most, "{mode:o}");
            fetched.appear(None).unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, mode);
        }
    }

    /// What was opened as the temporary has become the file, before it was locked: it is not written to.
    #[test]
    fn a_file_that_appears_is_not_taken_for_its_temporary() {
        let here = tempfile::tempdir().unwrap();
        let root = Root::open(here.path()).unwrap();
        let mut fetched = Fetched::open(&root, b"a").unwrap();
        fetched.append(b"whole").unwrap();
        let temporary = temporary(OsStr::new("a"));
        let (late, _) = root.folder.write(&temporary, false).unwrap();
        assert!(lock(&late, &root.folder, &temporary).is_err(), "somebody has it");
        assert!(Fetched::open(&root, b"a").is_err());
        fetched.appear(None).unwrap();
        assert!(lock(&late, &root.folder, &temporary).unwrap().is_none(), "it is the file");
        drop(late);
        let mut next = Fetched::open(&root, b"a").unwrap();
        next.append(b"other").unwrap();
        assert_eq!(std::fs::read(here.path().join("a")).unwrap(), b"whole");
        let (file, _) = root.folder.read(OsStr::new("a")).unwrap();
        assert!(
            lock(&file, &root.folder, &temporary).unwrap().is_none(),
            "there is another temporary"
        );
    }
}

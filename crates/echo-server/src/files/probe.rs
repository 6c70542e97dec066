//! Whether a store could be opened and written to, found out without a trace, and beside a server that has it.

use std::io::{self, ErrorKind};
use std::path::Path;

use echo_folder::Folder;
use rustix::fs::{Access, AtFlags, FileType, FsWord, PROC_SUPER_MAGIC, accessat, fstatfs, statat};
use rustix::io::Errno;

use super::list;
use super::store::{LOCK, PRIVATE};
use crate::exit::{CONFIG, Failure, reason};

/// What sysfs calls itself, as `PROC_SUPER_MAGIC` is what procfs does.
const SYSFS_MAGIC: FsWord = 0x6265_6572;

/// Tries the folder of a store, the server's own in it if it is there, and what is to be counted at the start.
pub(crate) fn probe(path: &Path) -> io::Result<()> {
    let root = Folder::open(path)?;
    takes_files(&root)?;
    own_place(&root)?;
    let folder = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    may(&root, ".", folder).map_err(|error| hint(&error, "the folder"))?;
    let own = match may(&root, PRIVATE, folder) {
        Ok(()) => may(&root, &format!("{PRIVATE}/{LOCK}"), Access::READ_OK | Access::WRITE_OK),
        denied => denied,
    };
    match own {
        // It is made at the start.
        Err(Errno::NOENT) => {}
        own => own.map_err(|error| hint(&error, PRIVATE))?,
    }
    list::look_through(&root)
}

/// Refuses folders where root may do all, and nobody can make a file.
pub(super) fn takes_files(root: &Folder) -> io::Result<()> {
    if matches!(fstatfs(root)?.f_type, PROC_SUPER_MAGIC | SYSFS_MAGIC) {
        return Err(io::Error::other("it holds what the kernel shows, and no files of others"));
    }
    Ok(())
}

/// Refuses what is no folder, or no file, where the store's own are: whatever it leads to, it is not the server's.
pub(super) fn own_place(root: &Folder) -> io::Result<()> {
    let lock = format!("{PRIVATE}/{LOCK}");
    for (name, wanted) in [(PRIVATE, FileType::Directory), (&*lock, FileType::RegularFile)] {
        let found = match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It is made at the start.
            Err(Errno::NOENT) => return Ok(()),
            found => found.map_err(|error| hint(&error, PRIVATE))?,
        };
        let found = FileType::from_raw_mode(found.st_mode);
        if found != wanted {
            let (found, wanted) = (kind(found), kind(wanted));
            let text = format!("{name} is {found}, and the server needs {wanted} there: remove it");
            return Err(io::Error::new(ErrorKind::AlreadyExists, text));
        }
    }
    Ok(())
}

fn kind(file: FileType) -> &'static str {
    match file {
        FileType::RegularFile => "a file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe (FIFO)",
        FileType::Socket => "a socket",
        _ => "a device",
    }
}

/// As the service would, which may run with another user's rights than its real one's.
fn may(folder: &Folder, name: &str, access: Access) -> Result<(), Errno> {
    accessat(folder, name, access, AtFlags::EACCESS)
}

fn hint(error: &Errno, what: &str) -> io::Error {
    let reason = reason(&io::Error::from(*error));
    let text = format!("{reason}: the server must be able to read, write and enter {what}");
    io::Error::new(error.kind(), text)
}

/// Why there can be no store.
pub(crate) fn unusable(path: &Path, error: &io::Error) -> Failure {
    let reason = reason(error);
    Failure::new(CONFIG, format!("cannot store files in {}: {reason}", path.display()))
}

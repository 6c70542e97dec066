//! Whose a file is, noted in an extended attribute of it, which appears and goes with the file.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;

use echo_core::FileName;
use echo_folder::Folder;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

const ATTRIBUTE: &str = "user.echo-server.owner";

/// The longest name of a user that is read back.
const MAX_LEN: usize = 256;

/// Notes whose a file is.
pub(super) fn note(file: impl AsFd, owner: &str) -> io::Result<()> {
    Ok(fsetxattr(file, ATTRIBUTE, owner.as_bytes(), XattrFlags::empty())?)
}

/// Whose a file or a folder is: nobody's, if nothing is noted.
pub(super) fn of(file: impl AsFd) -> io::Result<Option<String>> {
    let mut name = vec![0; MAX_LEN];
    match fgetxattr(file, ATTRIBUTE, &mut name[..]) {
        Ok(len) => name.truncate(len),
        // Nothing noted, nowhere to note it, or not by this server.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    Ok(String::from_utf8(name).ok())
}

/// Whose the file of that name is.
pub(super) fn of_file(folder: &Folder, name: &OsStr) -> io::Result<Option<String>> {
    match folder.read(name) {
        // What the server may not read is another program's.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        read => of(read?.0),
    }
}

/// Whose the file of that name in the store is, if there is one.
pub(super) fn of_name(root: &Folder, name: &[u8]) -> Option<Option<String>> {
    let (folder, last) = root.walk(FileName::new(name).ok()?).ok()?;
    folder.look(last).and_then(|_| of_file(&folder, last)).ok()
}

//! Whose a file is, noted in an extended attribute of it, which appears and goes with the file.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

const ATTRIBUTE: &str = "user.echo-server.owner";

/// The longest name of a user that is read back.
const MAX_LEN: usize = 256;

/// Notes whose a file is.
pub(super) fn note(file: impl AsFd, owner: &str) -> io::Result<()> {
    Ok(fsetxattr(file, ATTRIBUTE, owner.as_bytes(), XattrFlags::empty())?)
}

/// Whose a file is: nobody's, if nothing is noted.
pub(super) fn of(file: impl AsFd) -> Option<String> {
    let mut name = vec![0; MAX_LEN];
    let len = fgetxattr(file, ATTRIBUTE, &mut name[..]).ok()?;
    name.truncate(len);
    String::from_utf8(name).ok()
}

//! Folders on the way to files: each counts as a file of who made it, until it goes with its last file. Or files of
//! no bytes would make as many folders as their names are deep, for nothing.

use std::ffi::OsStr;
use std::io;

use echo_folder::Folder;
use rustix::fs::{AtFlags, unlinkat};

use super::owner;
use super::quota::{Owner, Quota};

/// Makes a folder, and counts it. None goes meanwhile.
pub(super) fn make(parent: &Folder, name: &OsStr, owner: &Owner, quota: &Quota) -> io::Result<()> {
    quota.take_folder(owner).map_err(io::Error::other)?;
    let made = parent.make_one(name);
    if made.is_err() {
        quota.give_folder(&owner.name);
        return made;
    }
    let Some(user) = &owner.name else { return Ok(()) };
    let noted = parent.enter(name).and_then(|made| owner::note(&made, user));
    if noted.is_err() && unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok() {
        quota.give_folder(&owner.name);
    }
    noted
}

/// Removes a folder if it is empty. None is made meanwhile.
pub(super) fn remove(parent: &Folder, name: &OsStr, quota: &Quota) -> io::Result<()> {
    let owner = owner::of(parent.enter(name)?)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    quota.give_folder(&owner);
    Ok(())
}

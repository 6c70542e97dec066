//! Folders on the way to files: each counts as a file of who made it, until it goes with its last file. Or files of
//! no bytes would make as many folders as their names are deep, for nothing.

use std::ffi::OsStr;
use std::io;

use echo_folder::Folder;
use rustix::fs::{AtFlags, statat, unlinkat};
use rustix::io::Errno;

use super::owner;
use super::quota::{Owner, Quota};

/// Makes a folder, and counts it. None comes or goes meanwhile.
pub(super) fn make(parent: &Folder, name: &OsStr, owner: &Owner, quota: &Quota) -> io::Result<()> {
    // Another upload was faster: its folder is not refused to this one, whatever it may make.
    if statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Errno::EXIST.into());
    }
    quota.take_folder(owner).map_err(io::Error::other)?;
    let made = parent.make_one(name);
    if made.is_err() {
        quota.give_folder(&owner.name);
        return made;
    }
    let Some(user) = &owner.name else { return Ok(()) };
    let noted = parent.enter(name).and_then(|made| owner::note(&made, user));
    noted.inspect_err(|_| give_up(parent, name, owner, quota))
}

/// Removes a folder for which its owner could not be noted. One that cannot be removed is nobody's, as it will be
/// when it goes, or is counted again.
fn give_up(parent: &Folder, name: &OsStr, owner: &Owner, quota: &Quota) {
    quota.give_folder(&owner.name);
    if unlinkat(parent, name, AtFlags::REMOVEDIR).is_err() {
        quota.found_folder(&None);
    }
}

/// Removes a folder if it is empty. None is made meanwhile.
pub(super) fn remove(parent: &Folder, name: &OsStr, quota: &Quota) -> io::Result<()> {
    let owner = owner::of(parent.enter(name)?)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    quota.give_folder(&owner);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::quota::Bounds;
    use super::*;

    fn quota(files: u64) -> Quota {
        let bounds = Bounds { bytes: 0, files, transfers: 0 };
        Quota::new(bounds, bounds)
    }

    fn place() -> (tempfile::TempDir, Folder) {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(outside.path().join("there/inner")).unwrap();
        let folder = Folder::open(outside.path()).unwrap();
        (outside, folder)
    }

    /// Who finds no folder and waits, while another one makes the last that there may be, finds that.
    #[test]
    fn a_folder_that_is_there_is_not_refused() {
        let (_outside, folder) = place();
        let quota = quota(0);
        let made = make(&folder, OsStr::new("there"), &Owner::default(), &quota);
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(quota.used().folders, 0);
        let refused = make(&folder, OsStr::new("new"), &Owner::default(), &quota);
        assert!(refused.unwrap_err().to_string().contains("quota"));
    }

    /// It is given back as nobody's when it goes: so it has to be counted for nobody.
    #[test]
    fn a_folder_that_stays_without_a_note_is_nobodys() {
        let (_outside, folder) = place();
        let (quota, ann) = (quota(1), Owner { name: Some("ann".to_owned()), bytes: None });
        quota.take_folder(&ann).unwrap();
        give_up(&folder, OsStr::new("there"), &ann, &quota);
        assert_eq!(quota.used().folders, 1);
        remove(&folder.enter(OsStr::new("there")).unwrap(), OsStr::new("inner"), &quota).unwrap();
        assert_eq!(quota.used().folders, 0);
        quota.take_folder(&ann).unwrap();
    }
}

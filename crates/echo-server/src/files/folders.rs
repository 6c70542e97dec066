//! Folders on the way to files: each counts as a file of who made it, until it goes with its last file. Or files of
//! no bytes would make as many folders as their names are deep, for nothing.

use std::ffi::OsStr;
use std::io;

use echo_folder::Folder;
use rustix::fs::{AtFlags, statat, unlinkat};
use rustix::io::Errno;

use super::owner;
use super::quota::{Places, Quota};

/// Makes a folder, at one of the places that are kept. None comes or goes meanwhile.
pub(super) fn make(parent: &Folder, name: &OsStr, places: &mut Places) -> io::Result<()> {
    // Another upload was faster: its folder is not refused to this one, whatever it may make.
    if statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(Errno::EXIST.into());
    }
    places.make_folder().map_err(io::Error::other)?;
    let made = parent.make_one(name);
    if made.is_err() {
        places.unmake_folder();
        return made;
    }
    let Some(user) = &places.owner().name else { return Ok(()) };
    let noted = parent.enter(name).and_then(|made| owner::note(&made, user));
    noted.inspect_err(|_| give_up(parent, name, places))
}

/// Removes a folder for which its owner could not be noted. One that cannot be removed is nobody's, as it will be
/// when it goes, or is counted again.
fn give_up(parent: &Folder, name: &OsStr, places: &mut Places) {
    places.unmake_folder();
    if unlinkat(parent, name, AtFlags::REMOVEDIR).is_err() {
        places.quota().found_folder(&None);
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
    use std::sync::Arc;

    use super::super::quota::{Bounds, Owner};
    use super::*;

    fn places(files: u64, name: Option<&str>) -> Places {
        let bounds = Bounds { bytes: 0, files, transfers: 0 };
        let owner = Owner { name: name.map(str::to_owned), bytes: None };
        Places::none(&Arc::new(Quota::new(bounds, bounds)), &owner)
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
        let mut places = places(0, None);
        let made = make(&folder, OsStr::new("there"), &mut places);
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(places.quota().used().folders, 0);
        let refused = make(&folder, OsStr::new("new"), &mut places);
        assert!(refused.unwrap_err().to_string().contains("quota"));
    }

    /// It is given back as nobody's when it goes: so it has to be counted for nobody.
    #[test]
    fn a_folder_that_stays_without_a_note_is_nobodys() {
        let (_outside, folder) = place();
        let mut places = places(1, Some("ann"));
        places.make_folder().unwrap();
        give_up(&folder, OsStr::new("there"), &mut places);
        assert_eq!(places.quota().used().folders, 1);
        let there = folder.enter(OsStr::new("there")).unwrap();
        remove(&there, OsStr::new("inner"), places.quota()).unwrap();
        assert_eq!(places.quota().used().folders, 0);
        places.make_folder().unwrap();
    }
}

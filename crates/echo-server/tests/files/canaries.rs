//! What lies beside the store, and must be neither changed nor read.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::*;

/// What must be found nowhere but outside.
const CANARY: &[u8] = b"canary outside of the store";

const NAMES: [&str; 4] = ["secret", "plain", "a", "real/file"];

/// A folder with files beside the store, and all that lies there.
pub(super) struct Canaries<'a> {
    pub(super) folder: PathBuf,
    place: &'a Place,
    before: BTreeMap<PathBuf, String>,
}

impl<'a> Canaries<'a> {
    /// The files look as if they had never been read, so that the first read of one shows, however rarely
    /// the file system notes reads.
    pub(super) fn lay_out(place: &'a Place) -> Self {
        let folder = place.folder.path().join("outside");
        fs::create_dir_all(folder.join("real")).unwrap();
        for name in NAMES {
            let path = folder.join(name);
            fs::write(&path, CANARY).unwrap();
            let never = Timespec { tv_sec: 1, tv_nsec: 0 };
            let as_is = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let times = Timestamps { last_access: never, last_modification: as_is };
            utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
        }
        let before = seen(&folder);
        Self { folder, place, before }
    }

    /// Nothing has changed, nothing has been read, and nothing new is there.
    pub(super) fn check(self) {
        assert_eq!(seen(&self.folder), self.before);
        for name in NAMES {
            assert_eq!(fs::read(self.folder.join(name)).unwrap(), CANARY, "{name}");
        }
        let mut beside: Vec<_> = fs::read_dir(self.place.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        beside.sort();
        assert_eq!(beside, ["outside", "socket", "store"]);
    }
}

/// All of a folder, as far as the kernel tells without reading files.
fn seen(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = vec![folder.to_owned()];
    let mut at = 0;
    while at < found.len() {
        let path = found[at].clone();
        at += 1;
        if path.is_dir() && !path.is_symlink() {
            found.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let seen = |path: PathBuf| {
        let it = fs::symlink_metadata(&path).unwrap();
        let times = (it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec());
        // A folder is read by this very function.
        let read = it.is_file().then_some((it.atime(), it.atime_nsec()));
        let owner = (it.mode(), it.uid(), it.gid(), it.nlink());
        (path, format!("{} {times:?} {read:?} {owner:?} {}", it.ino(), it.size()))
    };
    found.into_iter().map(seen).collect()
}

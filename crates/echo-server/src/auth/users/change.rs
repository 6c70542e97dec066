//! Changes of the file, one after the other, each whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::Users;
use crate::exit::{Failure, reason};

/// A change of the file: its folder is locked, so that of two writers one waits for the other.
pub(in super::super) struct Change {
    path: PathBuf,
    folder: File,
    pub(in super::super) users: Users,
    /// What they were read from, if it was there.
    text: Option<Zeroizing<String>>,
    /// Whose the file is, if it was there.
    owner: Option<(u32, u32)>,
}

impl Change {
    /// Locks, and reads what there is; a file that is not there is empty.
    pub(in super::super) fn begin(path: &Path) -> Result<Self, Failure> {
        // A link is followed: what it leads to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let failed = |error: io::Error| write_failure(&path, &error);
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = File::open(folder).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let (users, text, owner) = match fs::symlink_metadata(&path) {
            Ok(found) => {
                let (users, text) = Users::read_with_text(&path)?;
                (users, Some(text), Some((found.uid(), found.gid())))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (Users::new()?, None, None),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path, folder, users, text, owner })
    }

    /// Replaces the file: there is the old one or the new one at every moment, and the new one is on
    /// the disk before it is there.
    pub(in super::super) fn commit(self) -> Result<(), Failure> {
        self.write().map_err(|error| write_failure(&self.path, &error))
    }

    fn write(&self) -> io::Result<()> {
        let name = self.path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let mut new = std::ffi::OsString::from(".");
        new.push(name);
        new.push(".new");
        let new = self.path.with_file_name(new);
        // What a writer that was killed has left: under the lock nobody else's.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = self.fill(&mut file).and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            // It says more than a second error would.
            let _ = fs::remove_file(&new);
        }
        written?;
        self.folder.sync_all()
    }

    fn fill(&self, file: &mut File) -> io::Result<()> {
        let metadata = file.metadata()?;
        if let Some((uid, gid)) = self.owner
            && (uid, gid) != (metadata.uid(), metadata.gid())
        {
            // The server that reads it may be another user than who writes it.
            std::os::unix::fs::fchown(&*file, Some(uid), Some(gid))?;
        }
        let text = self.text.as_ref();
        let text = text.map_or_else(|| self.users.to_text(), |old| self.users.change_text(old));
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

fn write_failure(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot write users {}: {}", path.display(), reason(error));
    Failure::not_written(error, message)
}

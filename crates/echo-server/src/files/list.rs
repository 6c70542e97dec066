//! What files there are: a walk through the store, in the order of their names' bytes.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

use echo_core::{Entry, FileName, ListReply};
use echo_folder::{Folder, attributes, size};
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::owner;
use super::quota::Quota;
use super::store::{Store, is_private};
use crate::exit::reason;

/// How many entries of a folder are looked at in one go: memory for a page, whatever the folder holds.
const BATCH: usize = 2048;

/// The payload of an answer to LIST.
pub(super) fn page(store: &Store, cursor: &[u8], prefix: &[u8]) -> io::Result<Vec<u8>> {
    let mut page = Page { cursor, prefix, payload: vec![0] };
    if let Walked::Full = page.walk(store.root(), &mut Vec::new())? {
        page.payload[0] = 1;
    }
    Ok(page.payload)
}

struct Page<'a> {
    cursor: &'a [u8],
    prefix: &'a [u8],
    payload: Vec<u8>,
}

enum Walked {
    All,
    Full,
}

impl Page<'_> {
    /// Walks a folder, whose name with a `/` behind it is `path`.
    fn walk(&mut self, folder: &Folder, path: &mut Vec<u8>) -> io::Result<Walked> {
        let base = path.len();
        if base > FileName::MAX_LEN {
            return Ok(Walked::All);
        }
        let mut last: Option<Vec<u8>> = None;
        loop {
            let batch = self.batch(folder, path, last.as_deref())?;
            let whole = batch.len() < BATCH;
            for (key, stat) in batch {
                path.truncate(base);
                path.extend_from_slice(&key);
                let walked = match key.strip_suffix(b"/") {
                    Some(name) => {
                        let inner = folder.enter(OsStr::from_bytes(name));
                        let walked = inner.and_then(|inner| self.walk(&inner, path));
                        unless_gone(walked)?.unwrap_or(Walked::All)
                    }
                    None => self.add(path, &stat),
                };
                if let Walked::Full = walked {
                    return Ok(Walked::Full);
                }
                last = Some(key);
            }
            path.truncate(base);
            if whole {
                return Ok(Walked::All);
            }
        }
    }

    /// The first entries of a folder behind `last`, by the order of the names of all files in them: a
    /// folder's is followed by `/`.
    fn batch(
        &self,
        folder: &Folder,
        path: &[u8],
        last: Option<&[u8]>,
    ) -> io::Result<BTreeMap<Vec<u8>, Stat>> {
        let mut batch = BTreeMap::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if is_other(name, path.is_empty()) {
                continue;
            }
            let Some(stat) = look(folder, entry.file_name())? else { continue };
            let mut key = name.to_vec();
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {}
                FileType::Directory => key.push(b'/'),
                _ => continue,
            }
            if last.is_some_and(|last| key[..] <= *last) || !self.wants(path, &key) {
                continue;
            }
            batch.insert(key, stat);
            if batch.len() > BATCH {
                batch.pop_last();
            }
        }
        Ok(batch)
    }

    /// Whether a file of that name, or one in the folder of that name, can be on the page.
    fn wants(&self, path: &[u8], key: &[u8]) -> bool {
        let name = [path, key].concat();
        let common = name.len().min(self.prefix.len());
        let is_folder = key.ends_with(b"/");
        if name[..common] != self.prefix[..common] || !is_folder && name.len() < self.prefix.len() {
            return false;
        }
        // All in a folder begin with its name.
        name[..] > *self.cursor || is_folder && self.cursor.starts_with(&name)
    }

    fn add(&mut self, name: &[u8], stat: &Stat) -> Walked {
        // Another program's file may be called as no client can ask for.
        let Ok(name) = FileName::new(name) else { return Walked::All };
        let entry = Entry { size: size(stat), attributes: attributes(stat), name };
        if self.payload.len() + entry.encoded_len() > ListReply::MAX_LEN as usize {
            return Walked::Full;
        }
        entry.put(&mut self.payload);
        Walked::All
    }
}

/// Counts the files that are there.
pub(super) fn count(store: &Store, quota: &Quota) -> io::Result<()> {
    count_folder(store.root(), true, quota)
}

fn count_folder(folder: &Folder, is_root: bool, quota: &Quota) -> io::Result<()> {
    // Names, and not handles: a folder may hold more folders than files may be open.
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_other(name.to_bytes(), is_root) {
            continue;
        }
        let Some(stat) = look(folder, name)? else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let name = OsStr::from_bytes(name.to_bytes());
                if let Some(owner) = unless_gone(owner::of_file(folder, name))? {
                    quota.found(owner, 1, size(&stat));
                }
            }
            FileType::Directory => folders.push(name.to_owned()),
            _ => {}
        }
    }
    for name in folders {
        let inner = folder.enter(OsStr::from_bytes(name.to_bytes()));
        let counted = inner.and_then(|inner| count_folder(&inner, false, quota));
        unless_gone(counted).map_err(|error| within(&name, error))?;
    }
    Ok(())
}

/// What is there of that name.
fn look(folder: &Folder, name: &CStr) -> io::Result<Option<Stat>> {
    unless_gone(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into))
}

/// What was in a folder a moment ago may be gone since, or another thing: that is no failure. All else
/// is one, as what is left out of a list would look as if it were not there.
fn unless_gone<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Says in which folder it went wrong.
fn within(folder: &CStr, error: io::Error) -> io::Error {
    let folder = folder.to_bytes().escape_ascii();
    io::Error::new(error.kind(), format!("{folder}/: {}", reason(&error)))
}

/// What is not for clients.
fn is_other(name: &[u8], is_root: bool) -> bool {
    matches!(name, b"." | b"..") || is_root && is_private(name)
}

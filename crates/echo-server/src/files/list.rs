//! What files there are: a walk through the store, in the order of their names' bytes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::error;
use std::ffi::{CStr, OsStr};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::slice::EscapeAscii;
use std::time::Duration;

use echo_core::{Entry, FileName, ListReply};
use echo_folder::{Folder, attributes, size};
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat, unlinkat};
use rustix::io::Errno;
use tokio::time::Instant;

use super::counts::Counts;
use super::owner;
use super::quota::{Bounds, Quota};
use super::store::{Store, is_private};
use crate::exit::reason;

/// What a walk may take: far less than the 30 s for which clients wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of a name is told: its end.
const TOLD: usize = 200;

/// The payload of an answer to LIST.
pub(super) fn page(
    store: &Store,
    counts: &Counts,
    cursor: &[u8],
    prefix: &[u8],
) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut page = Page { counts, cursor, prefix, until, payload: vec![0] };
    let way = prefix.iter().rposition(|byte| *byte == b'/').map_or(0, |end| end + 1);
    let walked = unless_gone(page.begin(store.root())).map_err(|it| within(&prefix[..way], it))?;
    if let Some(Walked::Full) = walked {
        page.payload[0] = 1;
    }
    Ok(page.payload)
}

struct Page<'a> {
    counts: &'a Counts,
    cursor: &'a [u8],
    prefix: &'a [u8],
    until: Instant,
    payload: Vec<u8>,
}

enum Walked {
    All,
    Full,
}

impl Page<'_> {
    /// Goes straight to the folder in which all lies that has the prefix.
    fn begin(&mut self, root: &Folder) -> io::Result<Walked> {
        let Some(end) = self.prefix.iter().rposition(|byte| *byte == b'/') else {
            return self.walk(root, &mut Vec::new(), 0);
        };
        let (way, mut path) = (&self.prefix[..end], self.prefix[..=end].to_vec());
        // Nothing has a name that begins with no name.
        let Ok(name) = FileName::new(way) else { return Ok(Walked::All) };
        if !Store::admits(name) {
            return Ok(Walked::All);
        }
        let (folder, last) = root.walk(name)?;
        self.walk(&folder.enter(last)?, &mut path, name.components().count())
    }

    /// Walks a folder, whose name with a `/` behind it is `path`, `depth` folders below the store's.
    fn walk(&mut self, folder: &Folder, path: &mut Vec<u8>, depth: usize) -> io::Result<Walked> {
        let base = path.len();
        if depth >= FileName::MAX_COMPONENTS || base >= FileName::MAX_LEN {
            self.leave_out(path);
            return Ok(Walked::All);
        }
        let mut last: Option<Box<[u8]>> = None;
        loop {
            let Some(next) = self.next(folder, path, last.as_deref())? else {
                return Ok(Walked::Full);
            };
            let is_all = next.is_all;
            for key in next.keys.into_sorted_vec() {
                path.truncate(base);
                path.extend_from_slice(&key);
                let walked = match key.strip_suffix(b"/") {
                    Some(name) => {
                        let inner = folder.enter(OsStr::from_bytes(name));
                        let walked = inner.and_then(|inner| self.walk(&inner, path, depth + 1));
                        let here = &path[..base + key.len()];
                        let walked = unless_gone(walked).map_err(|error| within(here, error))?;
                        walked.unwrap_or(Walked::All)
                    }
                    None => self.add(folder, &key, path)?,
                };
                if let Walked::Full = walked {
                    return Ok(Walked::Full);
                }
                last = Some(key);
            }
            path.truncate(base);
            if is_all {
                return Ok(Walked::All);
            }
        }
    }

    /// What comes first in a folder behind `last`. None if the page has to do with what it has.
    ///
    /// Only names are looked at here, as a folder may hold a million files of which a page has a few.
    fn next(&self, folder: &Folder, path: &[u8], last: Option<&[u8]>) -> io::Result<Option<Next>> {
        let mut next = Next { keys: BinaryHeap::new(), cost: 0, is_all: true };
        for entry in Dir::read_from(folder)? {
            if self.is_late()? {
                return Ok(None);
            }
            let entry = entry?;
            let name = entry.file_name();
            if is_other(name.to_bytes(), path.is_empty()) {
                continue;
            }
            let mut file_type = entry.file_type();
            if file_type == FileType::Unknown {
                let Some(stat) = look(folder, name)? else { continue };
                file_type = FileType::from_raw_mode(stat.st_mode);
            }
            let mut key = Vec::with_capacity(name.to_bytes().len() + 1);
            key.extend_from_slice(name.to_bytes());
            match file_type {
                FileType::RegularFile => {}
                FileType::Directory => key.push(b'/'),
                _ => continue,
            }
            if last.is_none_or(|last| key[..] > *last) && self.wants(path, &key) {
                next.push(key, path.len());
            }
        }
        Ok(Some(next))
    }

    /// Whether a file of that name, or one in the folder of that name, can be on the page.
    fn wants(&self, path: &[u8], key: &[u8]) -> bool {
        let is_folder = key.ends_with(b"/");
        // All in a folder begin with its name.
        let is_next = match rest(self.cursor, path) {
            Ok(cursor) => key > cursor || is_folder && cursor.starts_with(key),
            Err(order) => order.is_gt(),
        };
        let begins = match rest(self.prefix, path) {
            Ok(prefix) => key.starts_with(prefix) || is_folder && prefix.starts_with(key),
            // The whole folder does, or nothing in it.
            Err(_) => path.starts_with(self.prefix),
        };
        is_next && begins
    }

    /// Whether what is there has to do: a page may be short, but not empty when there are more.
    fn is_late(&self) -> io::Result<bool> {
        match (Instant::now() >= self.until, self.payload.len() > 1) {
            (false, _) => Ok(false),
            (true, true) => Ok(true),
            (true, false) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "a folder takes too long to read"))
            }
        }
    }

    fn add(&mut self, folder: &Folder, key: &[u8], name: &[u8]) -> io::Result<Walked> {
        if self.is_late()? {
            return Ok(Walked::Full);
        }
        // Another program's file may be called as no client can ask for.
        let Ok(name) = FileName::new(name) else {
            self.leave_out(name);
            return Ok(Walked::All);
        };
        let Some(stat) = unless_gone(folder.look(OsStr::from_bytes(key)))? else {
            return Ok(Walked::All);
        };
        let entry = Entry { size: size(&stat), attributes: attributes(&stat), name };
        if self.payload.len() + entry.encoded_len() > ListReply::MAX_LEN as usize {
            return Ok(Walked::Full);
        }
        entry.put(&mut self.payload);
        Ok(Walked::All)
    }

    /// Says that no client can ask for that file, or for what is in that folder: another program has put it there.
    fn leave_out(&self, name: &[u8]) {
        if let Some(muted) = self.counts.leave_out() {
            let name = told(name);
            tracing::warn!(muted, "left out of lists, as its name is too long or deep: {name}");
        }
    }
}

/// What is left of `whole` behind `path`; how `path` compares if that is not its beginning.
fn rest<'a>(whole: &'a [u8], path: &[u8]) -> Result<&'a [u8], Ordering> {
    whole.strip_prefix(path).ok_or_else(|| path.cmp(whole))
}

/// The first keys of a folder, by the order of the names of all files in them: a folder's is followed
/// by `/`. As many as fill a page, whatever the folder holds.
struct Next {
    keys: BinaryHeap<Box<[u8]>>,
    /// Bytes that they take on a page, if they are files.
    cost: usize,
    is_all: bool,
}

impl Next {
    /// Takes a key of a folder whose own name takes `base` bytes.
    fn push(&mut self, key: Vec<u8>, base: usize) {
        const PAGE: usize = ListReply::MAX_LEN as usize;
        let cost = |key: &[u8]| Entry::MIN_LEN + base + key.len();
        // Once it was full it stays so, and what is greater than what was dropped does not come in.
        if self.cost >= PAGE && self.keys.peek().is_some_and(|greatest| key[..] > **greatest) {
            self.is_all = false;
            return;
        }
        self.cost += cost(&key);
        self.keys.push(key.into());
        while let Some(greatest) = self.keys.peek()
            && self.cost - cost(greatest) >= PAGE
        {
            self.cost -= cost(greatest);
            self.keys.pop();
            self.is_all = false;
        }
    }
}

/// Counts the files that are there, and the folders. What an upload that was killed has made of those goes.
pub(super) fn count(store: &Store, quota: &Quota) -> io::Result<()> {
    count_folder(store.root(), b"", quota, true)
}

/// Finds out whether they could be counted, and changes nothing.
pub(super) fn look_through(root: &Folder) -> io::Result<()> {
    let none = Bounds { bytes: 0, files: 0, transfers: 0 };
    count_folder(root, b"", &Quota::new(none, none), false)
}

/// Counts a folder whose name, with a `/` behind it, is `path`, and tidies it up.
fn count_folder(folder: &Folder, path: &[u8], quota: &Quota, tidies: bool) -> io::Result<()> {
    // Names, and not handles: a folder may hold more folders than files may be open.
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_other(name.to_bytes(), path.is_empty()) {
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
        let here = [path, name.to_bytes(), b"/"].concat();
        let inner = folder.enter(OsStr::from_bytes(name.to_bytes()));
        let counted = inner.and_then(|inner| {
            let owner = owner::of(&inner)?;
            quota.found_folder(&owner);
            count_folder(&inner, &here, quota, tidies)?;
            // One that is empty was made for a file that did not come: its server was killed before. Where nobody is
            // noted, it may be another program's.
            let tidies = tidies && owner.is_some();
            if tidies && unlinkat(folder, &*name, AtFlags::REMOVEDIR).is_ok() {
                quota.give_folder(&owner);
            }
            Ok(())
        });
        unless_gone(counted).map_err(|error| within(&here, error))?;
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

/// Says in which folder it went wrong, whose name has a `/` behind it: the store's own has none.
fn within(folder: &[u8], error: io::Error) -> io::Error {
    // In one that is further in, if that was said.
    if folder.is_empty() || error.raw_os_error().is_none() {
        return error;
    }
    let folder = told(folder).to_string();
    io::Error::new(error.kind(), Within { folder, error })
}

/// An error with the folder that it is of.
#[derive(Debug)]
struct Within {
    folder: String,
    error: io::Error,
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.folder, reason(&self.error))
    }
}

impl error::Error for Within {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The end of a name, harmless wherever it is shown.
fn told(name: &[u8]) -> EscapeAscii<'_> {
    name[name.len().saturating_sub(TOLD)..].escape_ascii()
}

/// What is not for clients.
fn is_other(name: &[u8], is_root: bool) -> bool {
    matches!(name, b"." | b"..") || is_root && is_private(name)
}

//! Which files a command line means, and what they are to be called.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, ReadDir};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::vec;

use echo_core::FileName;
use tokio::task::spawn_blocking;

use super::Item;
use crate::failure::Failure;
use crate::temporary::is_temporary;
use crate::transfer::source::{not_regular, unreadable};
use crate::transfer::work::{Found, Source};

/// So many files are looked for at once.
const BATCH: usize = 1000;

/// So many entries of a folder are read at once, and come in the order of their names: with those of the
/// folders around it they are all the memory that it takes, whatever is in it.
const SORTED: usize = 1000;

/// Finds what lies at paths, and in folders there, while it is transferred.
pub(super) struct Gatherer(Walk);

impl Gatherer {
    /// Of paths, each with what it is to be called.
    pub(super) fn new(paths: Vec<(PathBuf, Vec<u8>)>) -> Self {
        Self(Walk { paths: paths.into_iter(), folders: Vec::new() })
    }
}

impl Source<Item> for Gatherer {
    async fn more(&mut self) -> Result<Option<Vec<Found<Item>>>, Failure> {
        let mut walk = std::mem::take(&mut self.0);
        let look = move || {
            let found: Vec<_> = walk.by_ref().take(BATCH).collect();
            (walk, found)
        };
        let looked = spawn_blocking(look).await;
        let (walk, found) = looked.map_err(|error| Failure::Local(error.to_string()))?;
        self.0 = walk;
        Ok(Some(found).filter(|found| !found.is_empty()))
    }
}

/// One after the other.
#[derive(Default)]
struct Walk {
    paths: vec::IntoIter<(PathBuf, Vec<u8>)>,
    /// Those that are open, each in the one before.
    folders: Vec<Inside>,
}

struct Inside {
    path: PathBuf,
    name: Vec<u8>,
    entries: ReadDir,
    /// Those that were read, the last one first.
    sorted: Vec<DirEntry>,
}

impl Inside {
    fn next(&mut self) -> io::Result<Option<DirEntry>> {
        if self.sorted.is_empty() {
            let entries = self.entries.by_ref().take(SORTED);
            self.sorted = entries.collect::<io::Result<_>>()?;
            self.sorted.sort_by_cached_key(|entry| Reverse(entry.file_name()));
        }
        Ok(self.sorted.pop())
    }
}

impl Iterator for Walk {
    type Item = Found<Item>;

    fn next(&mut self) -> Option<Found<Item>> {
        loop {
            let found = match self.folders.last_mut() {
                None => {
                    let (path, name) = self.paths.next()?;
                    self.named(path, name)
                }
                Some(folder) => match folder.next() {
                    Ok(Some(entry)) => self.entry(&entry),
                    end => {
                        let folder = self.folders.pop()?;
                        end.err().map(|error| refused(&folder.path, unreadable(&error)))
                    }
                },
            };
            if found.is_some() {
                return found;
            }
        }
    }
}

impl Walk {
    /// What the command line names: a link there is followed.
    fn named(&mut self, path: PathBuf, name: Vec<u8>) -> Option<Found<Item>> {
        if is_temporary(OsStr::from_bytes(&name)) {
            let text =
                "files of that name are those not fetched to their end: give another with --as";
            return Some(refused(&path, text.to_owned()));
        }
        if path.as_os_str() == "-" {
            return Some(file(None, name, 0));
        }
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => self.enter(path, name),
            Ok(meta) if meta.is_file() => Some(file(Some(path), name, meta.len())),
            // Not even opened: that can do things with a device.
            Ok(_) => Some(refused(&path, unreadable(&not_regular()))),
            Err(error) => Some(refused(&path, unreadable(&error))),
        }
    }

    fn entry(&mut self, entry: &DirEntry) -> Option<Found<Item>> {
        let (path, last) = (entry.path(), entry.file_name());
        if is_temporary(&last) {
            return Some(skipped(path, "not fetched to its end"));
        }
        let name = [&self.folders.last()?.name[..], b"/", last.as_bytes()].concat();
        // Links are not followed: a folder of links may have no end.
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => self.enter(path, name),
            Ok(meta) if meta.is_file() => Some(file(Some(path), name, meta.len())),
            Ok(_) => Some(skipped(path, "not a regular file")),
            Err(error) => Some(refused(&path, unreadable(&error))),
        }
    }

    fn enter(&mut self, path: PathBuf, name: Vec<u8>) -> Option<Found<Item>> {
        match fs::read_dir(&path) {
            Ok(entries) => {
                self.folders.push(Inside { path, name, entries, sorted: Vec::new() });
                None
            }
            Err(error) => Some(refused(&path, unreadable(&error))),
        }
    }
}

fn file(path: Option<PathBuf>, name: Vec<u8>, size: u64) -> Found<Item> {
    match FileName::new(&name) {
        Ok(_) => Found::File(Item { path, name, size }),
        Err(why) => {
            let path = path.unwrap_or_else(|| PathBuf::from("-"));
            refused(&path, format!("no name for a file: {why}"))
        }
    }
}

fn skipped(path: PathBuf, why: &'static str) -> Found<Item> {
    Found::Skipped(path.into_os_string().into_vec(), why)
}

fn refused(path: &Path, why: String) -> Found<Item> {
    Found::Refused(path.as_os_str().as_bytes().to_vec(), why)
}

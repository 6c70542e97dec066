//! What a name means on the server, and where that goes on this host.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use echo_core::client::Options;
use echo_core::{Endpoint, Entry};
use echo_folder::Folder;

use super::Item;
use crate::failure::Failure;
use crate::transfer::list::Pages;
use crate::transfer::work::Source;

/// Where a file goes: a folder of this host, and a name in there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: Arc<Folder>,
    pub(super) name: Vec<u8>,
}

impl Place {
    /// Where `name` of the server goes, if the user wants it at `output`.
    pub(super) fn of(name: &[u8], output: Option<&Path>) -> Result<Self, Failure> {
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
        let (folder, name) = match output {
            Some(path) if path.is_dir() => (path.to_owned(), last),
            Some(path) => {
                let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
                let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
                (parent, path.file_name().map(OsStr::as_bytes).unwrap_or_default())
            }
            None => (PathBuf::from("."), last),
        };
        let root = Folder::open(&folder).map_err(|error| {
            Failure::local(&format!("cannot write to {}", folder.display()), &error)
        })?;
        Ok(Self { root: Arc::new(root), name: name.to_vec() })
    }
}

/// Finds out, page by page, whether names are files or folders, and what is to be fetched of them.
pub(super) struct Finder {
    wanted: VecDeque<(Vec<u8>, Place)>,
    pages: Pages,
    /// How many files the first folder has shown so far, once it was asked for.
    found: Option<u64>,
}

impl Finder {
    pub(super) fn new(
        target: &Endpoint,
        options: Options,
        wanted: VecDeque<(Vec<u8>, Place)>,
    ) -> Self {
        Self { wanted, pages: Pages::new(target, options, Vec::new()), found: None }
    }
}

impl Source<Item> for Finder {
    async fn more(&mut self) -> Result<Option<Vec<Item>>, Failure> {
        let Some((name, place)) = self.wanted.front() else { return Ok(None) };
        let inside = [&name[..], b"/"].concat();
        let found = self.found.get_or_insert_with(|| {
            self.pages.begin(inside.clone());
            0
        });
        let mut items = Vec::new();
        let mut take = |entry: Entry<'_>| {
            // Checked: it begins with the name that was asked for, and leads nowhere else.
            let rest = &entry.name.as_bytes()[inside.len()..];
            let name = [&place.name[..], b"/", rest].concat();
            items.push(Item {
                name: entry.name.as_bytes().to_vec(),
                place: Some(Place { root: Arc::clone(&place.root), name }),
                size: Some(entry.size),
            });
        };
        let more = match self.pages.next(&mut take).await {
            Ok(more) => more,
            // Who may get but not list knows the names of files.
            Err(_) if self.pages.forbidden => false,
            Err(failure) => return Err(failure),
        };
        *found += items.len() as u64;
        if !more {
            if *found == 0 {
                items.push(Item { name: name.clone(), place: Some(place.clone()), size: None });
            }
            self.wanted.pop_front();
            self.found = None;
        }
        Ok(Some(items))
    }
}

//! What a name means on the server, and where that goes on this host.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use echo_core::client::Options;
use echo_core::{Endpoint, Entry};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Item;
use crate::failure::Failure;
use crate::transfer::Trouble;
use crate::transfer::list::Pages;
use crate::transfer::local::{Root, unwritable};
use crate::transfer::report::Report;
use crate::transfer::work::{Found, Source};

/// Where a file goes: a folder of this host, and a name in there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: Arc<Root>,
    pub(super) name: Vec<u8>,
}

impl Place {
    /// Where `name` of the server goes, if the user wants it at `output`.
    pub(super) fn of(name: &[u8], output: Option<&Path>) -> Result<Self, Failure> {
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
        let (folder, name) = match output {
            Some(path) if path.is_dir() => (path.to_owned(), last),
            Some(path) => {
                refuse_no_folder(path)?;
                refuse_special(path)?;
                let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
                let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
                (parent, path.file_name().map(OsStr::as_bytes).unwrap_or_default())
            }
            None => (PathBuf::from("."), last),
        };
        let root = Root::open(&folder).map_err(|error| {
            Failure::local(&format!("cannot write to {}", folder.display()), &error)
        })?;
        Ok(Self { root: Arc::new(root), name: name.to_vec() })
    }
}

/// What ends as the path of a folder is none of a file to be made.
fn refuse_no_folder(path: &Path) -> Result<(), Failure> {
    match path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next() {
        Some(b"" | b".") => {
            Err(Failure::Local(format!("cannot write to {}: no such folder", path.display())))
        }
        _ => Ok(()),
    }
}

/// A file takes the place of what is there: that must not be a device, a pipe, or a link to one as /dev/stdout is.
fn refuse_special(path: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let path = path.display();
            let text = format!("cannot write to {path}: it is no regular file (stdout is -o -)");
            Err(Failure::Local(text))
        }
        // What hinders is told when it is written.
        _ => Ok(()),
    }
}

/// What was asked for, and is no file: perhaps a folder.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) name: Vec<u8>,
    pub(super) place: Place,
    /// What the server says of it as a file.
    pub(super) why: String,
}

impl Missing {
    /// Whether a folder can be where this is to go; if not, why.
    fn fits(&self) -> Result<(), String> {
        let Place { root, name } = &self.place;
        match root.enter(OsStr::from_bytes(name)) {
            // A link is none either: nobody follows it.
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                let here = String::from_utf8_lossy(name);
                Err(format!("it is a folder on the server, and {here} is none here"))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(unwritable(&error)),
            _ => Ok(()),
        }
    }
}

/// Takes each name for a file's, and those that turn out to be none for a folder's, which is listed page
/// by page.
pub(super) struct Finder {
    wanted: Vec<(Vec<u8>, Option<Place>)>,
    missing: UnboundedReceiver<Missing>,
    /// Given to those that are wanted.
    otherwise: Option<UnboundedSender<Missing>>,
    pages: Pages,
    /// What is being listed, and whether anything was in there.
    folder: Option<(Missing, bool)>,
}

impl Finder {
    /// Of names, each with where it goes, if that is no stream.
    pub(super) fn new(
        target: &Endpoint,
        options: Options,
        report: Arc<Report>,
        wanted: Vec<(Vec<u8>, Option<Place>)>,
    ) -> Self {
        let (otherwise, missing) = unbounded_channel();
        let pages = Pages::new(target, options, report, Vec::new());
        Self { wanted, missing, otherwise: Some(otherwise), pages, folder: None }
    }

    fn wanted(&mut self, otherwise: &UnboundedSender<Missing>) -> Vec<Found<Item>> {
        let item = |(name, place): (Vec<u8>, Option<Place>)| {
            let otherwise = place.is_some().then(|| otherwise.clone());
            Found::File(Item { name, place, size: None, otherwise })
        };
        self.wanted.drain(..).map(item).collect()
    }
}

impl Source<Item> for Finder {
    async fn more(&mut self) -> Result<Option<Vec<Found<Item>>>, Failure> {
        if let Some(otherwise) = self.otherwise.take() {
            return Ok(Some(self.wanted(&otherwise)));
        }
        let (folder, any) = match &mut self.folder {
            Some(folder) => folder,
            none => {
                // It ends once all are known to be files, or to be none.
                let Some(missing) = self.missing.recv().await else { return Ok(None) };
                self.pages.begin([&missing.name[..], b"/"].concat());
                none.insert((missing, false))
            }
        };
        let inside = folder.name.len() + 1;
        let mut found = Vec::new();
        let mut take = |entry: Entry<'_>| {
            // Checked: it begins with the name that was asked for, and leads nowhere else.
            let name = entry.name.as_bytes();
            let here = [&folder.place.name[..], b"/", &name[inside..]].concat();
            let place = Some(Place { root: Arc::clone(&folder.place.root), name: here });
            let size = Some(entry.size);
            found.push(Found::File(Item { name: name.to_vec(), place, size, otherwise: None }));
        };
        let more = match self.pages.next(&mut take).await {
            Ok(more) => more,
            Err(Trouble::File(why)) => {
                // Who may get but not list knows the names of files.
                let why = if self.pages.forbidden { folder.why.clone() } else { why };
                found.push(Found::Refused(folder.name.clone(), why));
                false
            }
            Err(trouble) => return Err(trouble.into()),
        };
        if !*any
            && !found.is_empty()
            && let Err(why) = folder.fits()
        {
            // One word for all of them.
            let refused = Found::Refused(folder.name.clone(), why);
            self.folder = None;
            return Ok(Some(vec![refused]));
        }
        *any |= !found.is_empty();
        if !more {
            if !*any {
                found.push(Found::Refused(folder.name.clone(), folder.why.clone()));
            }
            self.folder = None;
        }
        Ok(Some(found))
    }
}

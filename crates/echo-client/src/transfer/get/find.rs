//! What a name means on the server, and where that goes on this host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use echo_folder::Folder;

use super::Item;
use crate::args::Getting;
use crate::failure::Failure;
use crate::transfer::Work;
use crate::transfer::list::Pages;

/// Where a file goes: a folder of this host, and a name in there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: Arc<Folder>,
    pub(super) name: Vec<u8>,
}

/// Finds out whether `name` is a file or a folder, and what is to be fetched of it.
pub(super) async fn find(args: &Getting, name: &[u8], work: &Work<Item>) -> Result<(), Failure> {
    let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    let (folder, as_name) = match &args.output {
        Some(path) if path.is_dir() => (path.clone(), last.to_vec()),
        Some(path) => {
            let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
            let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
            let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default().to_vec();
            (parent, name)
        }
        None => (PathBuf::from("."), last.to_vec()),
    };
    let root = Folder::open(&folder).map_err(|error| {
        Failure::local(&format!("cannot write to {}", folder.display()), &error)
    })?;
    let root = Arc::new(root);
    let place = |name: Vec<u8>| Some(Place { root: Arc::clone(&root), name });
    let inside = [name, b"/"].concat();
    let mut found = 0;
    let mut add = |entry: echo_core::Entry<'_>| {
        // Checked: it begins with the name that was asked for, and leads nowhere else.
        let rest = &entry.name.as_bytes()[inside.len()..];
        let target = [&as_name, &b"/"[..], rest].concat();
        work.progress.expect(entry.size);
        work.add([Item {
            name: entry.name.as_bytes().to_vec(),
            place: place(target),
            size: Some(entry.size),
        }]);
        found += 1;
    };
    let mut pages = Pages::new(&args.target, &args.transferring.asking, inside.clone());
    loop {
        match pages.next(&mut add).await {
            Ok(true) => {}
            Ok(false) => break,
            // Who may get but not list knows the names of files.
            Err(_) if pages.forbidden => break,
            Err(failure) => return Err(failure),
        }
    }
    if found == 0 {
        work.add([Item { name: name.to_vec(), place: place(as_name.clone()), size: None }]);
    }
    Ok(())
}

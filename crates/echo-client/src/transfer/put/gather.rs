//! Which files a command line means, and what they are to be called.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::Ordering::Relaxed;

use echo_core::FileName;

use super::Item;
use crate::failure::Failure;
use crate::transfer::{Work, local};

/// What a path is called by itself.
pub(super) fn own_name(path: &Path) -> Result<Vec<u8>, Failure> {
    match path.components().next_back() {
        Some(Component::Normal(name)) => Ok(name.as_bytes().to_vec()),
        _ => {
            let text = format!("{} has no name of its own: give one with --as", path.display());
            Err(Failure::Local(text))
        }
    }
}

/// Adds what lies at `path`, to be called `name`: a file, or all files of a folder.
pub(super) fn add(work: &Work<Item>, path: &Path, name: &[u8]) {
    if path.as_os_str() == "-" {
        return work.add([Item { path: None, name: name.to_vec(), size: 0 }]);
    }
    for (path, name, size) in local::files(path, name) {
        let checked =
            FileName::new(&name).map(drop).map_err(|why| format!("no name for a file: {why}"));
        match size.and_then(|size| checked.map(|()| size)) {
            Ok(size) => {
                work.progress.expect(size);
                work.add([Item { path: Some(path), name, size }]);
            }
            Err(why) if why.starts_with("skipped") => {
                work.notice(&format!("{}: {why}", path.display()));
            }
            Err(why) => {
                work.of.fetch_add(1, Relaxed);
                work.fail(path.as_os_str().as_bytes(), &why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_called_by_its_last_part() {
        let name = |path: &str| own_name(Path::new(path)).ok();
        assert_eq!(name("a/b"), Some(b"b".to_vec()));
        assert_eq!(name("/a/b/"), Some(b"b".to_vec()));
        for path in ["/", "..", "."] {
            assert_eq!(name(path), None, "{path}");
        }
    }
}

//! Which files a command line means, and what they are to be called.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use echo_core::FileName;

use super::{Item, Sender};
use crate::failure::Failure;
use crate::transfer::local::{self, Found};
use crate::transfer::work::Work;

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
pub(super) async fn add(work: &Work<Sender>, path: &Path, name: &[u8]) {
    if path.as_os_str() == "-" {
        return work.add(Item { path: None, name: name.to_vec(), size: 0 }).await;
    }
    for (path, name, found) in local::files(path, name) {
        let told = path.as_os_str().as_bytes();
        match (found, FileName::new(&name)) {
            (Found::File(size), Ok(_)) => work.add(Item { path: Some(path), name, size }).await,
            (Found::File(_), Err(why)) => {
                work.refuse(told, &format!("no name for a file: {why}")).await;
            }
            (Found::Special, _) => work.report.skipped(told, "not a regular file").await,
            (Found::Unreadable(why), _) => work.refuse(told, &why).await,
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

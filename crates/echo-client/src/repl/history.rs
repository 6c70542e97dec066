//! Where the lines of former sessions are kept.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// `$XDG_STATE_HOME/echo-client/history`, in `~/.local/state` by default. The XDG specification has
/// a relative path ignored. `None` where there is no home.
pub(super) fn path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("echo-client/history"))
}

/// Makes the folder of the file, for its owner only: what was typed may be secret.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

/// Whether lines can be kept there: in a file, or in one that is still to be made. Reading anything else
/// may never end; and what a link leads to is not ours to make private.
pub(super) fn check(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(it) if it.is_file() => Ok(()),
        Ok(it) if it.is_symlink() => Err(io::Error::other("it is a link: put a file there")),
        Ok(_) => Err(io::Error::other("it is no file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes the lines that are no text out of the file: one is enough for the editor to read none of those
/// behind it.
pub(super) fn mend(path: &Path) -> io::Result<()> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes?,
    };
    if str::from_utf8(&bytes).is_ok() {
        return Ok(());
    }
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let text: Vec<_> = lines.filter(|line| str::from_utf8(line).is_ok()).collect();
    fs::write(path, text.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_that_of_the_xdg_specification() {
        let found = |state: Option<&str>, home: Option<&str>| {
            path(|name| if name == "HOME" { home } else { state }.map(OsString::from))
                .map(|path| path.into_os_string().into_string().unwrap())
        };
        let default = Some("/home/me/.local/state/echo-client/history".to_owned());
        assert_eq!(found(None, Some("/home/me")), default);
        assert_eq!(found(Some(""), Some("/home/me")), default);
        assert_eq!(found(Some("state"), Some("/home/me")), default);
        assert_eq!(found(Some("/s"), Some("/home/me")), Some("/s/echo-client/history".to_owned()));
        assert_eq!(found(Some("/s"), None), Some("/s/echo-client/history".to_owned()));
        assert_eq!(found(None, None), None);
        assert_eq!(found(None, Some("")), None);
    }
}

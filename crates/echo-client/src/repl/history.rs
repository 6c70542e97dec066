//! Where the lines of former sessions are kept.

use std::ffi::OsString;
use std::fs::DirBuilder;
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

//! The command lines of `put`, `get`, `ls` and `rm`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use echo_core::{Endpoint, FileName};

use super::{Connecting, target};
use crate::escape::escape_bytes;
use crate::temporary::is_temporary;

/// Connections at once at most: more gain nothing, and a server has places for other peers too.
const MAX_CONNECTIONS: u8 = u8::MAX;

/// What all that transfers has in common.
#[derive(Debug, clap::Args)]
pub(crate) struct Transferring {
    /// Keep permissions and times
    #[arg(short, long)]
    pub(crate) preserve: bool,

    /// Connections at once, if there are several files: 1 to 255
    #[arg(long, value_name = "N", default_value = "4", value_parser = connections)]
    pub(crate) connections: u8,

    #[command(flatten)]
    pub(crate) asking: Asking,
}

/// What all that asks for files has in common.
#[derive(Debug, clap::Args)]
pub(crate) struct Asking {
    /// Print a JSON object on a line of its own for each event, instead of other lines
    ///
    ///   event        fields
    ///   stored, got  name, bytes, sha256, resumed_from, transferred, seconds
    ///   progress     name, bytes, size, resumed_from, transferred, seconds, rate, seconds_left:
    ///                once a second for each file that takes longer than that
    ///   failed       name, error: a file that is not transferred
    ///   skipped      name, error: what put leaves out of a folder
    ///   file         name, bytes, mode, mtime, mtime_ns: what ls lists
    ///   removed      name
    ///   lost         error: a connection, which is made again
    ///   error        error: at the end, if the exit code is not 0; also on stderr
    ///
    /// "bytes" is a file's size; of "progress" it is how much is there, and "size" the size, null
    /// if not known. "resumed_from" was there before this command, "transferred" is what it has
    /// moved, again after losses included, "rate" that per second, "seconds_left" at that rate,
    /// or null. "mode" is octal, "mtime" and "mtime_ns" are seconds since 1970 (UTC) and
    /// nanoseconds. A name that is no UTF-8 comes as "name_hex". With -q come no "progress"
    /// and "lost".
    #[arg(long, verbatim_doc_comment)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) connecting: Connecting,
}

/// Store files on a server that has a place for them.
///
/// Each appears whole or not at all, in place of one that has its name, and is then on the server's disk.
/// Its SHA-256 and its name are printed, as sha256sum prints them and reads them with -c. What is
/// interrupted goes on where it was, as long as --retry allows, or when it is called again.
#[derive(Debug, clap::Args)]
pub(crate) struct Putting {
    /// The server, as for echo-client itself
    #[arg(value_parser = target)]
    pub(crate) target: Endpoint,

    /// Files and folders, stored under their own names; `-` is stdin, which needs --as. Links in folders
    /// are left out
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    /// Store it under this name
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<OsString>,

    #[command(flatten)]
    pub(crate) transferring: Transferring,
}

/// Fetch files.
///
/// Each appears whole or not at all, once its SHA-256 is that of the server's. What is interrupted goes on
/// where it was, as long as --retry allows, or when it is called again. With `-o -` it goes to stdout as
/// it comes, and only the exit status tells whether it was right.
#[derive(Debug, clap::Args)]
pub(crate) struct Getting {
    /// The server, as for echo-client itself
    #[arg(value_parser = target)]
    pub(crate) target: Endpoint,

    /// Files, and folders with all that is in them
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<OsString>,

    /// Where to write it: a file, or a folder that is there; `-` is stdout [default: here, under the last
    /// part of its name]
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) transferring: Transferring,
}

/// List files: bytes, time of change (UTC), name.
#[derive(Debug, clap::Args)]
pub(crate) struct Listing {
    /// The server, as for echo-client itself
    #[arg(value_parser = target)]
    pub(crate) target: Endpoint,

    /// Only those whose names begin so
    pub(crate) prefix: Option<OsString>,

    #[command(flatten)]
    pub(crate) asking: Asking,
}

/// Remove files.
#[derive(Debug, clap::Args)]
pub(crate) struct Removing {
    /// The server, as for echo-client itself
    #[arg(value_parser = target)]
    pub(crate) target: Endpoint,

    /// Files
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<OsString>,

    #[command(flatten)]
    pub(crate) asking: Asking,
}

impl Asking {
    /// Takes over what stands before the command, and judges whether all of it fits.
    pub(super) fn settle(&mut self, before: &Connecting, target: &Endpoint) -> Result<(), String> {
        self.connecting.add(before);
        if target.address.is_datagram() {
            return Err("files are for connections: tcp: or unix:".to_owned());
        }
        self.connecting.fits(target)
    }
}

impl Putting {
    /// What is wrong with these words, each and together.
    pub(super) fn check(&self) -> Result<(), String> {
        let stdin = self.paths.iter().filter(|path| path.as_os_str() == "-").count();
        if let Some([one, other]) = alike(self.paths.iter().map(|path| path.as_os_str())) {
            return Err(format!(
                "{one} and {other} would be stored under one name: call once for each"
            ));
        }
        match &self.name {
            None if stdin > 0 => Err("stdin has no name: give one with --as".to_owned()),
            Some(_) if self.paths.len() > 1 => Err("--as is for a single path".to_owned()),
            Some(name) => given_name(name),
            None => self.paths.iter().try_for_each(|path| own_name(path).map(drop)),
        }
    }
}

/// What a path is called by itself.
pub(crate) fn own_name(path: &Path) -> Result<&OsStr, String> {
    match path.components().next_back() {
        Some(Component::Normal(name)) => Ok(name),
        _ => {
            let path = escape_bytes(path.as_os_str().as_bytes());
            Err(format!("{path} has no name of its own: give one with --as"))
        }
    }
}

/// What is wrong with what the user wants a path to be called.
fn given_name(name: &OsStr) -> Result<(), String> {
    match file_name(name.as_bytes())? {
        checked if checked.components().any(|it| is_temporary(OsStr::from_bytes(it))) => {
            let name = escape_bytes(name.as_bytes());
            Err(format!(
                "{name}: files of that name are those not fetched to their end: give another"
            ))
        }
        _ => Ok(()),
    }
}

/// A name, or what is wrong with it.
fn file_name(name: &[u8]) -> Result<FileName<'_>, String> {
    FileName::new(name).map_err(|why| format!("{}: no file's name: {why}", quoted(name)))
}

/// Something to be seen, though there be nothing.
fn quoted(name: &[u8]) -> String {
    if name.is_empty() { "\"\"".to_owned() } else { escape_bytes(name) }
}

impl Getting {
    /// Whether what is fetched goes to stdout.
    pub(crate) fn to_stdout(&self) -> bool {
        self.output.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }

    /// What is asked for: a folder may be told by a slash behind it.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = self.names.iter().map(|name| name.as_bytes());
        bytes.map(|name| name.strip_suffix(b"/").unwrap_or(name))
    }

    /// What is wrong with these words, each and together.
    pub(super) fn check(&self) -> Result<(), String> {
        self.wanted().try_for_each(|name| file_name(name).map(drop))?;
        if let Some([one, other]) = alike(self.names.iter().map(OsString::as_os_str)) {
            return Err(format!(
                "{one} and {other} would be written to one place: call once for each"
            ));
        }
        match &self.output {
            Some(_) if self.to_stdout() && self.names.len() > 1 => {
                Err("stdout takes one file: write the others with calls of their own".to_owned())
            }
            Some(_) if self.to_stdout() && self.transferring.asking.json => {
                Err("stdout is for the file: leave out --json".to_owned())
            }
            Some(path) if self.names.len() > 1 && !path.is_dir() => {
                Err("-o must be a folder that is there, if there are several names".to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl Listing {
    /// Whether any name can begin so.
    pub(super) fn check(&self) -> Result<(), String> {
        let prefix = self.prefix.as_deref().map(OsStr::as_bytes).unwrap_or_default();
        // With one more byte, unless it is as long as any name, or a part of it is.
        let longer = [prefix, b"x"].concat();
        match FileName::new(&longer) {
            Err(why) if FileName::new(prefix).is_err() => {
                Err(format!("{}: no file's name begins so: {why}", escape_bytes(prefix)))
            }
            _ => Ok(()),
        }
    }
}

impl Removing {
    /// What is wrong with these names.
    pub(super) fn check(&self) -> Result<(), String> {
        self.names.iter().try_for_each(|name| file_name(name.as_bytes()).map(drop))
    }
}

/// Reads how many connections there may be.
fn connections(text: &str) -> Result<u8, String> {
    let wrong = || format!("write a whole number from 1 to {MAX_CONNECTIONS}");
    text.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)
}

/// Two of which the last parts are the same, as people read them.
fn alike<'a>(names: impl Iterator<Item = &'a OsStr>) -> Option<[String; 2]> {
    let mut seen = HashMap::new();
    for name in names {
        if let Some(other) = Path::new(name).file_name().and_then(|last| seen.insert(last, name)) {
            return Some([other, name].map(|it| escape_bytes(it.as_bytes())));
        }
    }
    None
}

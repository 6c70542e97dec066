//! How the process ends: the codes of sysexits.h where one fits.

use std::fmt;
use std::io;

use echo_core::without_passwords;
use rustix::io::Errno;

use crate::logging::Harmless;

/// The server that was asked does not answer.
pub(crate) const UNHEALTHY: u8 = 1;
/// The running server could not do what `ctl` asked for.
pub(crate) const REFUSED: u8 = 1;
/// Some connections were forced to end at the drain's deadline.
pub(crate) const FORCED: u8 = 3;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 64;
/// What a command was given to work with is of no use.
pub(crate) const DATA: u8 = 65;
/// A file that a command was given cannot be read.
pub(crate) const NO_INPUT: u8 = 66;
/// A listener's address cannot be used.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A defect of this program.
pub(crate) const SOFTWARE: u8 = 70;
/// A file of a command's cannot be made where it is to be.
pub(crate) const CANNOT_CREATE: u8 = 73;
/// A listener failed while it served, or stdout or the disk took nothing.
pub(crate) const IO: u8 = 74;
/// The settings do not fit this host.
pub(crate) const CONFIG: u8 = 78;
/// Ended by a signal: its number comes on top.
pub(crate) const SIGNALLED: u8 = 128;

/// What to do when there are too few descriptors.
pub(crate) const RAISE_OPEN_FILES: &str = "raise the limit (ulimit -Hn, LimitNOFILE=)";

/// An I/O error in words, without the number that Rust appends.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Why the server does not run: one line that says what to do, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: without_passwords(&message.into()) }
    }

    /// A command's file is not written: it may not be there, or the disk did not take it.
    pub(crate) fn not_written(error: &io::Error, message: impl Into<String>) -> Self {
        use io::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::AlreadyExists => {
                CANNOT_CREATE
            }
            Kind::NotFound | Kind::NotADirectory | Kind::IsADirectory => CANNOT_CREATE,
            _ => IO,
        };
        Self::new(code, message)
    }

    /// The host does not give what any server needs.
    pub(crate) fn cannot_start(error: &io::Error) -> Self {
        let reason = reason(error);
        match Errno::from_io_error(error) {
            Some(Errno::MFILE) => {
                Self::new(CONFIG, format!("cannot start: {reason}: {RAISE_OPEN_FILES}"))
            }
            _ => Self::new(SOFTWARE, format!("cannot start: {reason}")),
        }
    }

    /// What cannot happen did: a line of the log says what.
    pub(crate) fn defect() -> Self {
        Self::new(SOFTWARE, "stopped by a defect of its own: please report the line above")
    }

    /// The line on stderr.
    pub(crate) fn line(&self) -> String {
        format!("echo-server: {self}\n")
    }
}

/// The message. Whatever is quoted in it, it stays one line and harmless on a terminal.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Harmless(&self.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_are_the_hosts_fault() {
        let failure = Failure::cannot_start(&Errno::MFILE.into());
        assert_eq!(failure.code, CONFIG);
        assert!(failure.message.ends_with("LimitNOFILE=)"), "{}", failure.message);
        let failure = Failure::cannot_start(&Errno::NOMEM.into());
        assert_eq!(failure.code, SOFTWARE);
        assert_eq!(failure.message, "cannot start: Cannot allocate memory");
    }

    /// Fault 39: control characters in what a user or a file gave.
    #[test]
    fn a_failure_is_one_harmless_line() {
        let failure = Failure::new(USAGE, "no such\nhost \u{1b}[2J");
        assert_eq!(failure.line(), "echo-server: no such\\nhost \\u{1b}[2J\n");
    }
}

//! What can go wrong, in the words that people and programs look for.

use std::fmt;
use std::io;

/// Why the client ends with exit code 1. Its text begins with what happened: these first words are
/// stable, other programs match on them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody listens there, or the server will not serve this.
    Refused(String),
    /// No route, no such network, an address that this host cannot use.
    Unreachable(String),
    /// Nothing came while something was due.
    TimedOut(String),
    /// The name has no address.
    Unresolved(String),
    /// The server ended the stream before all was answered.
    ClosedEarly(String),
    /// What came back is not what was sent, from byte `at` of the payload on.
    Different { at: u64, what: String },
    /// A failure on this side: stdin, stdout, threads.
    Local(String),
}

impl From<echo_core::client::Error> for Failure {
    fn from(error: echo_core::client::Error) -> Self {
        Self::Local(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(what) => write!(f, "refused: {what}"),
            Self::Unreachable(what) => write!(f, "unreachable: {what}"),
            Self::TimedOut(what) => write!(f, "timed out: {what}"),
            Self::Unresolved(what) => write!(f, "unresolved: {what}"),
            Self::ClosedEarly(what) => write!(f, "closed early: {what}"),
            Self::Different { at, what } => write!(f, "different at byte {at}: {what}"),
            Self::Local(what) => f.write_str(what),
        }
    }
}

/// An I/O error in words, without the number that Rust appends.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_words_are_stable() {
        let what = || "x".to_owned();
        for (failure, text) in [
            (Failure::Refused(what()), "refused: x"),
            (Failure::Unreachable(what()), "unreachable: x"),
            (Failure::TimedOut(what()), "timed out: x"),
            (Failure::Unresolved(what()), "unresolved: x"),
            (Failure::ClosedEarly(what()), "closed early: x"),
            (Failure::Different { at: 7, what: what() }, "different at byte 7: x"),
            (Failure::Local(what()), "x"),
        ] {
            assert_eq!(failure.to_string(), text);
        }
    }

    #[test]
    fn errors_come_without_their_number() {
        let reset = io::Error::from_raw_os_error(104);
        assert_eq!(reason(&reset), "Connection reset by peer");
        assert_eq!(reason(&io::Error::other("odd")), "odd");
    }
}

//! What can go wrong, in the words that people and programs look for.

use std::io;

use echo_core::client::{self, ClosedEarly};

/// Why the client ends with exit code 1. Its text begins with what happened: these first words are
/// stable, other programs match on them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Between here and the server.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The server ended the stream while stdin was open, though all that was asked is answered.
    #[error("closed early: {}", still_open(.0))]
    StillOpen(Box<ClosedEarly>),
    /// A failure on this side: stdin, stdout, threads.
    #[error("{0}")]
    Local(String),
}

impl Failure {
    /// A failure of this side's, with what was tried.
    pub(crate) fn local(what: &str, error: &io::Error) -> Self {
        Self::Local(format!("{what}: {}", reason(error)))
    }
}

fn still_open(early: &ClosedEarly) -> String {
    match early.goaway {
        Some(_) => format!("{early}, stdin was still open"),
        None => {
            let (how, bytes) = (&early.how, early.bytes_answered);
            let s = if bytes == 1 { "" } else { "s" };
            format!("{how} while stdin was open, all {bytes} byte{s} answered")
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
    fn errors_come_without_their_number() {
        let reset = io::Error::from_raw_os_error(104);
        assert_eq!(reason(&reset), "Connection reset by peer");
        assert_eq!(reason(&io::Error::other("odd")), "odd");
        let failure = Failure::local("cannot read stdin", &io::Error::from_raw_os_error(5));
        assert_eq!(failure.to_string(), "cannot read stdin: Input/output error");
    }
}

//! What can go wrong, in the words that people and programs look for.

use std::io;
use std::time::Duration;

use echo_core::MAX_PAYLOAD_LEN;
use echo_core::client::{self, ClosedEarly, PushError};

use crate::login;
use crate::show::bytes;

/// Why the client ends with exit code 1. Its text begins with what happened: these first words are
/// stable, other programs match on them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Between here and the server.
    #[error("{}", words(.0))]
    Client(#[from] client::Error),
    /// A message that came from there does not fit this server.
    #[error("{}", unsent(.0, Some(.1)))]
    Unsent(PushError, String),
    /// The server ended the stream while stdin was open, though all that was asked is answered.
    #[error("closed early: {}", still_open(.0))]
    StillOpen(Box<ClosedEarly>),
    /// Datagrams without a reply.
    #[error("lost: {lost} of {of} datagram{} had no reply within {waited:?}", if *.of == 1 { "" } else { "s" })]
    Lost { lost: u64, of: u64, waited: Duration },
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

/// What went wrong between here and the server, and what to do where only options of this program help.
pub(crate) fn words(error: &client::Error) -> String {
    match error {
        client::Error::Unauthenticated(_) => format!("{error}{}", login::advice()),
        error => error.to_string(),
    }
}

/// Why a message was not sent, where it came from, and what to do.
pub(crate) fn unsent(error: &PushError, origin: Option<&str>) -> String {
    let from = origin.map(|origin| format!("{origin}: ")).unwrap_or_default();
    let less = |max: &u32| match *max {
        MAX_PAYLOAD_LEN => "send less at a time",
        _ => "send less at a time, or raise the server's --max-frame",
    };
    match error {
        PushError::TooLong { len, max } => {
            format!("too long: {from}{len} bytes are over the limit of {max}: {}", less(max))
        }
        PushError::ProbeTooLong { len, max } => format!(
            "too long: {from}{len} bytes and the 32 of a PROBE are over the limit of {max}: {}",
            less(max)
        ),
        PushError::DatagramTooLong { len, max } => {
            format!("too long: {from}{len} bytes are over the {max} that fit into a datagram")
        }
        PushError::OverHostLimit { len } => {
            format!("too long: {from}{len} bytes are more than this host sends in a datagram there")
        }
        PushError::Empty => format!(
            "empty: {from}a message of no bytes leaves no trace on a raw connection: send some, or \
             ask a server that speaks frames"
        ),
        PushError::NoProbe if origin.is_some() => format!("{error}: leave out --probe"),
        error => error.to_string(),
    }
}

fn still_open(early: &ClosedEarly) -> String {
    match early.goaway {
        Some(_) => format!("{early}, stdin was still open"),
        None => {
            let (how, bytes) = (&early.how, bytes(early.bytes_answered));
            format!("{how} while stdin was open, all {bytes} answered")
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
    fn what_was_not_sent_is_told_with_its_origin() {
        let line = "line 3".to_owned();
        let error = Failure::Unsent(PushError::TooLong { len: 9, max: 8 }, line);
        let told = "too long: line 3: 9 bytes are over the limit of 8: send less at a time, or raise \
                    the server's --max-frame";
        assert_eq!(error.to_string(), told);
        let error = PushError::TooLong { len: 1 << 24, max: MAX_PAYLOAD_LEN };
        let told = "too long: 16777216 bytes are over the limit of 16777215: send less at a time";
        assert_eq!(unsent(&error, None), told);
        let told = "no PROBE: the server does not answer it";
        assert_eq!(unsent(&PushError::NoProbe, None), told);
        assert_eq!(unsent(&PushError::NoProbe, Some("x")), format!("{told}: leave out --probe"));
    }

    #[test]
    fn errors_come_without_their_number() {
        let reset = io::Error::from_raw_os_error(104);
        assert_eq!(reason(&reset), "Connection reset by peer");
        assert_eq!(reason(&io::Error::other("odd")), "odd");
        let failure = Failure::local("cannot read stdin", &io::Error::from_raw_os_error(5));
        assert_eq!(failure.to_string(), "cannot read stdin: Input/output error");
    }
}

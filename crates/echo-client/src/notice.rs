//! What people are told of a connection that goes and comes back.

use std::time::Duration;

use echo_core::client::Error;

use crate::escape::escape;

/// Why the connection is lost. With nothing `due` it is none too early.
pub(crate) fn lost(why: &Error, due: bool) -> String {
    let words = escape(&why.to_string());
    match words.strip_prefix("closed early: ") {
        Some(rest) if !due => rest.to_owned(),
        _ => words,
    }
}

/// Why there is none yet, and for how long it is tried.
pub(crate) fn retrying(why: &Error, limit: Duration) -> String {
    format!("{}; trying for {limit:?}", escape(&why.to_string()))
}

/// How many of `what` are asked again on the next one; nothing, if none.
pub(crate) fn resent(count: usize, what: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!("; 1 {what} goes out again"),
        _ => format!("; {count} {what}s go out again"),
    }
}

#[cfg(test)]
mod tests {
    use echo_core::client::ClosedEarly;

    use super::*;

    #[test]
    fn an_end_with_nothing_due_is_none_too_early() {
        let how = "the server\x1b[m drains".to_owned();
        let error = Error::ClosedEarly(ClosedEarly { how, ..ClosedEarly::default() }.into());
        assert_eq!(lost(&error, true), "closed early: the server\\x1b[m drains");
        assert_eq!(lost(&error, false), "the server\\x1b[m drains");
        let error = Error::TimedOut("nothing came".to_owned());
        assert_eq!(lost(&error, false), "timed out: nothing came");
    }

    #[test]
    fn what_goes_out_again_is_counted() {
        assert_eq!(resent(0, "frame"), "");
        assert_eq!(resent(1, "frame"), "; 1 frame goes out again");
        assert_eq!(resent(2, "message"), "; 2 messages go out again");
    }
}

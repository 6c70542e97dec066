//! What an error of accept means.

use std::io;

use rustix::io::Errno;

/// What an error of accept means for the accept loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptFault {
    /// One connection died in the queue, or the call was interrupted: accept again at once.
    Connection,
    /// The process or the host ran out of something, or the error is unknown: wait, then accept
    /// again. The connection is still in the queue, so without the wait the loop would spin.
    Exhausted,
    /// The listening socket is broken: stop.
    Listener,
}

impl AcceptFault {
    /// Sorts `error` by its number.
    pub fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            // accept(2) passes on what happened to the connection while it was queued.
            Some(
                Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NOPROTOOPT
                | Errno::NONET
                | Errno::OPNOTSUPP
                | Errno::TIMEDOUT
                | Errno::INTR,
            ) => Self::Connection,
            Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::FAULT) => Self::Listener,
            _ => Self::Exhausted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_by_errno() {
        for (class, errnos) in [
            (
                AcceptFault::Connection,
                &[
                    Errno::CONNABORTED,
                    Errno::CONNRESET,
                    Errno::PROTO,
                    Errno::PERM,
                    Errno::NETDOWN,
                    Errno::NETUNREACH,
                    Errno::HOSTDOWN,
                    Errno::HOSTUNREACH,
                    Errno::NOPROTOOPT,
                    Errno::NONET,
                    Errno::OPNOTSUPP,
                    Errno::TIMEDOUT,
                    Errno::INTR,
                ][..],
            ),
            (
                AcceptFault::Exhausted,
                &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::NOSPC, Errno::IO],
            ),
            (AcceptFault::Listener, &[Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::FAULT]),
        ] {
            for &errno in errnos {
                assert_eq!(AcceptFault::of(&errno.into()), class, "{errno:?}");
            }
        }
        // Without a number it is unknown.
        assert_eq!(AcceptFault::of(&io::Error::other("?")), AcceptFault::Exhausted);
    }
}

//! When a waiting connection has waited for too long: one pure function from what it waits for.
//!
//! Every wait has one absolute deadline, set when it begins: a base time plus its bytes at the
//! slowest allowed rate. No byte that trickles in moves it; only idleness is renewed by traffic.

use tokio::time::Instant;

use crate::Error;
use crate::limits::LiveLimits;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The peer's next frame, or in raw mode its next byte.
    Traffic { since: Instant },
    /// The rest of a frame that has begun.
    Frame { began: Instant, declared: u32 },
    /// The peer to read what is unwritten.
    Write { began: Instant, unwritten: u32 },
    /// The peer's end of stream, after ours.
    Linger { began: Instant },
}

/// Which bound a wait ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Idle,
    Frame,
    Write,
    Linger,
    Drain,
    Login,
}

impl From<Why> for Error {
    fn from(why: Why) -> Self {
        match why {
            Why::Idle => Self::Idle,
            Why::Frame => Self::FrameTimedOut,
            Why::Write => Self::WriteTimedOut,
            Why::Login => Self::LoginTimedOut,
            Why::Linger | Why::Drain => Self::DrainDeadline,
        }
    }
}

/// When `wait` ends at the latest, and by which bound. `drain` is the drain's own deadline, once it
/// has started.
pub(crate) fn deadline(wait: Wait, limits: &LiveLimits, drain: Option<Instant>) -> (Instant, Why) {
    let own = match wait {
        Wait::Traffic { since } => (since + limits.idle(), Why::Idle),
        Wait::Frame { began, declared } => (began + limits.frame(declared), Why::Frame),
        Wait::Write { began, unwritten } => (began + limits.write(unwritten), Why::Write),
        Wait::Linger { began } => (began + limits.linger(), Why::Linger),
    };
    match drain {
        Some(drain) if drain < own.0 => (drain, Why::Drain),
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Limits;

    #[test]
    fn each_wait_has_its_own_bound_and_the_drain_cuts_all() {
        let limits = LiveLimits::new(&Limits::default());
        let at = Instant::now();
        let after = |secs| at + Duration::from_secs(secs);
        let frame = Wait::Frame { began: at, declared: 10 << 10 };
        let write = Wait::Write { began: at, unwritten: 64 << 10 };
        let of = |wait| deadline(wait, &limits, None);
        assert_eq!(of(Wait::Traffic { since: at }), (after(600), Why::Idle));
        assert_eq!(of(frame), (after(20), Why::Frame));
        assert_eq!(of(write), (after(74), Why::Write));
        assert_eq!(of(Wait::Linger { began: at }), (after(5), Why::Linger));
        assert_eq!(deadline(frame, &limits, Some(after(3))), (after(3), Why::Drain));
        assert_eq!(deadline(frame, &limits, Some(after(30))), (after(20), Why::Frame));
    }
}

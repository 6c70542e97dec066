//! For how long, and how often, another connection is tried.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::Error;

/// The longest pause between two attempts: this at first, doubling up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The attempts since something went well.
#[derive(Debug)]
pub(super) struct Retry {
    limit: Duration,
    tried: bool,
    until: Option<Instant>,
    pause: Duration,
    /// Why connections were lost since: the first, and the last if that is another one.
    lost: (Option<Error>, Option<Error>),
    /// Why the last attempt failed.
    pub(super) failed: Option<Error>,
}

impl Retry {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, tried: false, until: None, pause: PAUSE.0, lost: (None, None), failed: None }
    }

    /// Whether there is a second attempt at all.
    pub(super) fn is_allowed(&self) -> bool {
        !self.limit.is_zero()
    }

    /// An attempt begins, and with the first of them the time that they have.
    pub(super) fn begin(&mut self) {
        if self.is_allowed() {
            self.tried = true;
            self.until.get_or_insert_with(|| Instant::now() + self.limit);
        }
    }

    /// A reply has come: the next loss begins anew.
    #[inline]
    pub(super) fn succeeded(&mut self) {
        if self.tried {
            (self.tried, self.until, self.pause) = (false, None, PAUSE.0);
        }
    }

    /// There is a connection. With nothing due the time is not running out for anything.
    pub(super) fn connected(&mut self, is_due: bool) {
        if !is_due {
            self.until = None;
        }
    }

    /// A connection was lost. With nothing due the time is not running out for anything.
    pub(super) fn lose(&mut self, why: Error, is_due: bool) {
        match (self.until, &mut self.lost) {
            (Some(_), (Some(_), last)) => *last = Some(why),
            (_, lost) => *lost = (Some(why), None),
        }
        if !is_due {
            self.until = None;
        }
    }

    /// Why the last connection was lost.
    pub(super) fn last_loss(&self) -> Option<&Error> {
        self.lost.1.as_ref().or(self.lost.0.as_ref())
    }

    /// Another attempt is wanted: how long to wait before it, `None` if the time is over. The last
    /// one is at the end, however long the pause would be.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + self.limit);
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            return None;
        }
        let pause = self.pause.mul_f64(random());
        self.pause = PAUSE.1.min(self.pause * 2);
        Some(pause.min(left))
    }

    /// The attempts are over. What was lost first is what counts, behind it why the last attempt
    /// failed.
    pub(super) fn give_up(&mut self, last: Option<Error>) -> Error {
        let after = self.limit;
        match (self.lost.0.take(), last.or_else(|| self.lost.1.take())) {
            (Some(lost), Some(last)) => {
                Error::GaveUp { lost: Box::new(lost), last: Box::new(last), after }
            }
            (Some(error), None) | (None, Some(error)) => error,
            (None, None) => Error::Over,
        }
    }
}

/// A number from 0 to 1. Clients that lost the same server must not come back in step; std's hash
/// keys are as random as that needs.
fn random() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

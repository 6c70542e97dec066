//! When there was progress last: the time to try again counts from there.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long to wait before a lost connection is made again: a restart of the server takes less.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// How long at most, where connection after connection is lost: twice as long each time, up to that.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Kept by each worker, which does one file after the other.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    since: Instant,
    /// The most that ever was there of the file that is under way: to come so far again is no progress.
    furthest: u64,
    pause: Duration,
}

impl Patience {
    /// Such that nothing is tried any more once there was no progress for `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), furthest: 0, pause: PAUSE }
    }

    /// So many bytes of the file are where they have to go.
    pub(super) fn reached(&mut self, offset: u64) {
        if offset > self.furthest {
            (self.furthest, self.since, self.pause) = (offset, Instant::now(), PAUSE);
        }
    }

    /// Nothing more is to be done for a file; another one begins.
    pub(super) fn finished(&mut self) {
        (self.furthest, self.since, self.pause) = (0, Instant::now(), PAUSE);
    }

    /// What has been going on from `began` to now is not the server's fault.
    pub(super) fn excuse(&mut self, began: Instant) {
        self.since += began.elapsed();
    }

    /// How long it may still be tried.
    pub(super) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.since.elapsed())
    }

    /// Waits before another connection is made, but not longer than it may be tried.
    pub(super) async fn pause(&mut self) {
        let pause = self.pause.min(self.left());
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_never_reached_is_progress() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(5 * second);
        // As slow as it likes.
        for offset in 1..10 {
            tokio::time::advance(4 * second).await;
            patience.reached(offset);
            assert_eq!(patience.left(), 5 * second);
        }
        // It begins anew, again and again.
        for offset in [0, 3, 9, 9] {
            tokio::time::advance(second).await;
            patience.reached(offset);
        }
        assert_eq!(patience.left(), second);
        let began = Instant::now();
        tokio::time::advance(10 * second).await;
        patience.excuse(began);
        assert_eq!(patience.left(), second);
        patience.finished();
        tokio::time::advance(second).await;
        patience.reached(0);
        assert_eq!(patience.left(), 4 * second);
        patience.reached(1);
        assert_eq!(patience.left(), 5 * second);
        tokio::time::advance(6 * second).await;
        assert!(patience.left().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_gets_on_is_asked_seldom() {
        let mut patience = Patience::new(Duration::from_secs(7));
        let paused = async |patience: &mut Patience| {
            let began = Instant::now();
            patience.pause().await;
            began.elapsed().as_millis()
        };
        for wanted in [100, 200, 400, 800, 1600, 2000, 1900, 0] {
            assert_eq!(paused(&mut patience).await, wanted);
        }
        patience.reached(1);
        assert_eq!(paused(&mut patience).await, 100);
        patience.finished();
        assert_eq!(paused(&mut patience).await, 100);
    }
}

//! Deadlines, the drain and the accept loop, to the millisecond: in memory, under paused time.

#![allow(clippy::disallowed_methods, reason = "tests spawn what they await")]

mod accept;
mod deadlines;
mod drain;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use tokio::time::Instant;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Asserts that as much time has passed since `start`, but for what a timer rounds up.
#[track_caller]
fn took(start: Instant, expected: Duration) {
    let elapsed = start.elapsed();
    let late = elapsed.checked_sub(expected);
    assert!(late.is_some_and(|late| late <= millis(2)), "took {elapsed:?} instead of {expected:?}");
}

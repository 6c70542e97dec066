//! Deadlines, the drain and the accept loop, to the millisecond: in memory, under paused time.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, spawns what it awaits, and waits with a bound"
)]

mod accept;
mod deadlines;
mod drain;
mod pulse;
mod stop;
mod watching;
#[path = "../support/mod.rs"]
mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use echo_core::Limits;
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

const COMPLETED: [u64; 5] = [1, 0, 0, 0, 0];
const QUIET: [u64; 5] = [0, 1, 0, 0, 0];
const FORCED: [u64; 5] = [0, 0, 1, 0, 0];
const FAILED: [u64; 5] = [0, 0, 0, 1, 0];

/// Small frames, and deadlines as by default: written out, since the tests count on them.
fn limits() -> Limits {
    Limits {
        max_frame: 100,
        frame_timeout: secs(10),
        write_timeout: secs(10),
        min_rate: NonZeroU32::new(1024).unwrap(),
        linger: secs(5),
        ..Limits::default()
    }
}

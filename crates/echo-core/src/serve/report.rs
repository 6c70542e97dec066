//! What became of what was served.

use std::io;
use std::time::Duration;

use crate::stats::Ended;

/// What became of the connections of one [`serve`](crate::serve), or the datagrams of one
/// [`serve_datagrams`](crate::serve_datagrams).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Connections accepted in all.
    pub accepted: u64,
    /// How those ended that were open when the drain began or were accepted in it.
    pub drained: Ended,
    /// Connections in the listener's queue that the drain could not take in, and reset.
    pub reset_in_queue: u64,
    /// Datagrams that a socket's queue held when the drain began, and that were answered in it.
    pub datagrams: u64,
    /// From the drain's start to the last connection's end.
    pub took: Duration,
}

impl Report {
    /// The report of both.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            accepted: self.accepted + other.accepted,
            drained: self.drained.plus(other.drained),
            reset_in_queue: self.reset_in_queue + other.reset_in_queue,
            datagrams: self.datagrams + other.datagrams,
            took: self.took.max(other.took),
        }
    }
}

/// The listening socket itself failed. Its connections were drained before this was returned.
#[derive(Debug, thiserror::Error)]
#[error("the listener failed: {source}")]
pub struct ServeError {
    /// What accept(2) said.
    pub source: io::Error,
    /// What became of the connections.
    pub report: Report,
}

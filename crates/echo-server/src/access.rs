//! The access log: one line for each connection that has ended.

use echo_core::Closed;

use crate::metrics;

/// The target of its events, by which they are let through or not.
pub(crate) const TARGET: &str = "access";

/// Logs a connection's end.
pub(crate) fn log(closed: &Closed<'_>) {
    tracing::info!(
        target: TARGET,
        peer = %closed.peer,
        user = closed.user,
        listener = metrics::uri(closed.listener, closed.tls),
        received = closed.bytes_in,
        sent = closed.bytes_out,
        frames = closed.frames,
        seconds = closed.took.as_secs_f64(),
        ending = %closed.ending,
        "connection",
    );
}

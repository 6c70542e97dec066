//! What a connection may do before, while and after its peer authenticates: every kind of frame in every
//! state, the deadline, the drain; and the client that logs in first. On paused time.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, spawns what it awaits, and waits with a bound"
)]

mod client;
mod doorman;
mod matrix;
#[path = "../support/mod.rs"]
mod support;
mod vectors;
mod waits;

//! Settings read anew while the server runs: all of them take effect, or none, and no connection
//! notices.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod changes;
mod control;
mod files;
mod reloadable;
mod storms;
#[path = "../support/mod.rs"]
mod support;

//! Users: every state of AUTH with every frame over real sockets, the file and its commands, slowed
//! tries, reload, certificates, and secrets that are found nowhere.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod certificates;
mod channel;
mod commands;
mod hostile;
mod house;
mod matrix;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod tries;
mod trust;
#[path = "../support/tunnel.rs"]
mod tunnel;

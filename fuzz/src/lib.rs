//! What is done with the bytes of a fuzzer: one function for each target, which panics when a promise is
//! broken. `libfuzzer/` runs them with feedback, `tests/replay.rs` with the seeds and mutations of them.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise is told by a panic"
)]

mod exchange;
mod input;
mod paths;
mod tls;
mod transfers;

// What the daemon adds to the conversation: the daemon is a program, and has no library.
#[allow(dead_code, unreachable_pub, reason = "a part of a program")]
#[path = "../../crates/echo-server/src"]
mod server {
    pub(crate) mod auth;
    pub(crate) mod exit;
    pub(crate) mod extension;
    pub(crate) mod files;
    pub(crate) mod units;
    pub(crate) mod visitor;

    pub(crate) mod logging {
        mod escape;
        pub(crate) use escape::Harmless;
    }
}

// As it calls its modules.
use server::{auth, exit, extension, files, logging, units, visitor};

pub use exchange::auth;
pub use paths::paths;
pub use tls::client::tls_client;
pub use tls::server::tls_server;
pub use transfers::files;

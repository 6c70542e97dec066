//! What the benches share: the servers that they compare, and the clients that drive them.
//!
//! Server and client are one thread each, on a core of their own where there are two, so that no
//! server gains from sharing a cache or a runtime with its client.

mod client;
mod epoll;
mod process;
mod server;
mod tasks;

pub use client::{Churn, Pipeline, RoundTrip};
pub use process::{pin_client, raise_file_limit};
pub use server::{Running, Server, Transport};

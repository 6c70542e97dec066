//! What the benches share: the servers that they compare, and the clients that drive them.
//!
//! ```text
//! cargo bench -p benches                                   all, about ten minutes
//! cargo bench -p benches --bench throughput -- unix/64x32  one group
//! ```
//!
//! Server and client are one thread each, on a core of their own where there are two, so that no
//! server gains from sharing a cache or a runtime with its client. Servers are measured one after the
//! other: a machine's speed drifts meanwhile, so a difference of a few percent is for `peers/`, which
//! interleaves them.

mod client;
mod datagrams;
mod epoll;
mod process;
mod server;
mod store;
mod tasks;
mod tls;

pub use client::{Churn, Messages, Pipeline, RoundTrip};
pub use datagrams::{DatagramServer, Datagrams, RunningDatagrams};
pub use process::{pin, pin_client, raise_file_limit};
pub use server::{Running, Server, Transport};
pub use store::{FileClient, Store};
pub use tls::{Handshakes, Secured};

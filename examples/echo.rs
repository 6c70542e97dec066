//! Echo in ten lines: what comes on a TCP port goes back, and Ctrl-C ends it without losing a reply.
//!
//! ```text
//! cargo run -p examples --example echo                  # or with an address: -- 127.0.0.1:9000
//! nc 127.0.0.1 7777                                     # type something
//! seq 1000000 | cargo run -p echo-client -- 127.0.0.1:7777 | tail -1
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{env, sync::Arc};

use echo_core::{Echo, Listener, Mode, Service, SocketOptions, serve_until};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7777".into());
    let listener = Listener::bind_tcp(address.parse()?, &SocketOptions::default())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("listening on {}; Ctrl-C ends it", listener.local_addr());

    let stop = async move { _ = interrupt.recv().await };
    let report =
        serve_until(listener, Service::default(), Arc::new(Echo::new(Mode::Auto)), stop).await?;
    println!("drained in {:?}: {:?}", report.took, report.drained);
    Ok(())
}

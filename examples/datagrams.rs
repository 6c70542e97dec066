//! Echo over UDP: datagrams come back whole, from the address they were sent to, to sources that may
//! be answered, within a rate of their own. Ctrl-C answers what is queued, and ends.
//!
//! ```text
//! cargo run -p examples --example datagrams             # or with a URI: -- unixgram:/tmp/echo.sock
//! printf 'hello\n' | nc -u -w1 127.0.0.1 7777
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{env, num::NonZeroU32, sync::Arc, time::Duration};

use echo_core::{DatagramEcho, DatagramOptions, DatagramSocket, Mode, Service, serve_datagrams};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let uri = env::args().nth(1).unwrap_or_else(|| "udp://127.0.0.1:7777".into());
    let service = Service::default();
    // 1,000 datagrams a second from each source, and as many at once.
    let echo = Arc::new(DatagramEcho::new(Mode::Auto).rate(NonZeroU32::new(1000)));

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut serving = JoinSet::new();
    for socket in DatagramSocket::bind(&uri.parse()?, &DatagramOptions::default()).await? {
        println!("listening on {}", socket.local_addr());
        serving.spawn(serve_datagrams(socket, service.clone(), Arc::clone(&echo)));
    }
    tokio::select! {
        _ = interrupt.recv() => service.drain().start(Duration::from_secs(1)),
        () = service.drain().started() => {} // by a socket that failed
    }
    while let Some(ended) = serving.join_next().await {
        ended??;
    }
    println!("{:?}", service.stats().datagrams);
    Ok(())
}

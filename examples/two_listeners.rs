//! One service on two listeners, TCP and a Unix socket: they share the limits and the counters, one
//! drain ends both, and their reports become one. With `service.child()` a listener gets a drain of
//! its own under that one.
//!
//! ```text
//! cargo run -p examples --example two_listeners         # or with URIs: -- tcp://[::1]:9000 unix:@echo
//! nc 127.0.0.1 7777
//! nc -U /tmp/echo.sock
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{env, sync::Arc, time::Duration};

use echo_core::{Echo, Endpoint, Listener, Mode, Report, Service, SocketOptions, serve};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut uris: Vec<String> = env::args().skip(1).collect();
    if uris.is_empty() {
        uris = vec!["tcp://127.0.0.1:7777".into(), "unix:/tmp/echo.sock".into()];
    }
    let service = Service::default();
    let echo = Arc::new(Echo::new(Mode::Auto));

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut serving = JoinSet::new();
    for uri in &uris {
        // A name may have several addresses.
        for listener in Listener::bind(&uri.parse()?, &SocketOptions::default()).await? {
            println!("listening on {}", Endpoint::with_bound(uri, listener.local_addr()));
            serving.spawn(serve(listener, service.clone(), Arc::clone(&echo)));
        }
    }
    tokio::select! {
        _ = interrupt.recv() => service.drain().start(Duration::from_secs(30)),
        () = service.drain().started() => {} // by a listener that failed
    }
    let mut report = Report::default();
    while let Some(ended) = serving.join_next().await {
        report = report.merge(ended??);
    }
    println!("drained in {:?}: {:?}", report.took, report.drained);
    Ok(())
}

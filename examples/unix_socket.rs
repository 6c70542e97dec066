//! A Unix socket with permissions and limits of its own: only this user may connect, and who sends
//! nothing for a minute is let go. The path is free again when the service ends.
//!
//! ```text
//! cargo run -p examples --example unix_socket           # or with a path: -- /run/user/1000/echo
//! nc -U /tmp/echo.sock
//! seq 1000000 | cargo run -p echo-client -- unix:/tmp/echo.sock | tail -1
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{env, path::PathBuf, sync::Arc, time::Duration};

use echo_core::{
    Drain, Echo, Limits, Listener, Mode, Service, SocketOptions, UnixName, serve_until,
};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = env::args_os().nth(1).map_or_else(|| "/tmp/echo.sock".into(), PathBuf::from);
    let listener =
        Listener::bind_unix(&UnixName::Path(path), Some(0o600), &SocketOptions::default())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("listening on {}; Ctrl-C ends it", listener.local_addr());

    let limits = Limits { idle_timeout: Duration::from_secs(60), ..Limits::default() };
    let stop = async move { _ = interrupt.recv().await };
    let report = serve_until(
        listener,
        Service::new(limits, Drain::new()),
        Arc::new(Echo::new(Mode::Auto)),
        stop,
    )
    .await?;
    println!("drained in {:?}: {:?}", report.took, report.drained);
    Ok(())
}

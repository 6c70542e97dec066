//! A handler of one's own: each frame comes back in capital letters. The accept loop, limits,
//! deadlines and drain are those of the echo.
//!
//! A frame is four bytes, a zero and the length, and then the text:
//!
//! ```text
//! cargo run -p examples --example shout                 # or with an address: -- 127.0.0.1:9000
//! printf '\0\0\0\5hello' | nc -N 127.0.0.1 7777
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{env, sync::Arc};

use echo_core::{Connection, Error, Handler, Listener, Service, SocketOptions, serve_until};
use tokio::signal::unix::{SignalKind, signal};

struct Shout;

impl Handler for Shout {
    async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
        while let Some(text) = connection.recv().await? {
            let text = String::from_utf8_lossy(&text).to_uppercase();
            connection.send(text.as_bytes()).await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7777".into());
    let listener = Listener::bind_tcp(address.parse()?, &SocketOptions::default())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("listening on {}; Ctrl-C ends it", listener.local_addr());

    let stop = async move { _ = interrupt.recv().await };
    let report = serve_until(listener, Service::default(), Arc::new(Shout), stop).await?;
    println!("drained in {:?}: {:?}", report.took, report.drained);
    Ok(())
}

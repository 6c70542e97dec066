//! Many requests under way on one connection: none waits for the reply before it, every reply is
//! compared, and memory is bounded by the window.
//!
//! ```text
//! cargo run -p echo-server                              # in another terminal
//! cargo run -p examples --example pipeline              # or with an address: -- 127.0.0.1:9000
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{env, time::Duration};

use echo_core::Endpoint;
use echo_core::client::{Client, Event, Options};

const MESSAGES: u64 = 100_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7777".into());
    let mut client = Client::connect(Endpoint::target(&address)?, Options::default()).await?;

    let (mut asked, mut answered, mut slowest) = (0, 0, Duration::ZERO);
    loop {
        // As many as the window takes, then whatever comes.
        while asked < MESSAGES && client.room() >= 100 {
            asked = 1 + client.push(format!("message {asked}").as_bytes())?;
        }
        if asked == MESSAGES {
            client.finish();
        }
        match client.next().await? {
            Some(Event::Reply(reply)) => {
                answered += 1;
                slowest = slowest.max(reply.round_trip());
            }
            Some(event) => println!("{event:?}"),
            None => break,
        }
    }
    println!("{answered} of {asked} answered, the slowest within {slowest:?}");
    Ok(())
}

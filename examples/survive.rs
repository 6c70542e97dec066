//! A client that outlives its server: what a lost connection left unanswered is asked again on the
//! next one, and each reply is seen once and in order. Stop the server while this runs, and start it
//! again.
//!
//! ```text
//! cargo run -p echo-server                              # in another terminal
//! cargo run -p examples --example survive               # or with address and count: -- 127.0.0.1:9000 500
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{env, time::Duration};

use echo_core::Endpoint;
use echo_core::client::{Client, Event, Options};
use tokio::time::{Instant, sleep_until};

const PAUSE: Duration = Duration::from_millis(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7777".into());
    let count: u64 = args.next().unwrap_or_else(|| "1000".into()).parse()?;
    // For how long another connection is tried, at the start and whenever one is lost.
    let options = Options { retry: Duration::from_secs(60), ..Options::default() };
    let mut client = Client::connect(Endpoint::target(&address)?, options).await?;

    let (mut asked, mut answered, mut connections) = (0, 0, 1);
    let mut due = Instant::now();
    loop {
        tokio::select! {
            // Dropped when it is time to ask, it loses nothing.
            event = client.next() => match event? {
                Some(Event::Reply(reply)) => {
                    assert_eq!(reply.seq, answered, "each once, and in order");
                    answered += 1;
                    println!("{}: {:?}", reply.seq, reply.round_trip());
                }
                Some(Event::Lost(why)) => println!("{why}: going on"),
                Some(Event::Connected { resent, .. }) => {
                    connections += 1;
                    println!("connected again, {resent} asked again");
                }
                Some(_) => {}
                None => break,
            },
            () = sleep_until(due), if asked < count => {
                asked = 1 + client.push(&asked.to_be_bytes())?;
                due += PAUSE;
                if asked == count {
                    client.finish();
                }
            }
        }
    }
    println!("{answered} of {asked} answered over {connections} connections");
    Ok(())
}

//! An echo asked for by datagrams, which may be lost and tell of nothing but silence.

use std::time::Duration;

use echo_core::Endpoint;
use echo_core::client::{DatagramClient, DatagramEvent, Error, Options};

use super::TEXT;

/// How long to wait for a datagram before it is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// Asks each of `endpoints` until one answers or all refuse. Who is silent is asked again.
pub(super) async fn ask(endpoints: &[Endpoint]) -> Result<String, String> {
    loop {
        let mut refusal = None;
        let mut silent = false;
        for endpoint in endpoints {
            match ask_one(endpoint).await {
                Ok(true) => return Ok("datagram".to_owned()),
                Ok(false) => silent = true,
                Err(error) => refusal = Some(error.to_string()),
            }
        }
        if !silent {
            return Err(refusal.unwrap_or_else(|| "unresolved: no address".to_owned()));
        }
    }
}

/// Whether an echo came in time.
async fn ask_one(endpoint: &Endpoint) -> Result<bool, Error> {
    let options = Options { timeout: LOST_AFTER, ..Options::default() };
    let mut client = DatagramClient::connect(endpoint, options).await?;
    client.push(TEXT)?;
    loop {
        match client.next().await?.ok_or(Error::Over)? {
            DatagramEvent::Reply { .. } => return Ok(true),
            DatagramEvent::Lost { .. } => return Ok(false),
            DatagramEvent::Unsent { why, .. } => return Err(why.into()),
            DatagramEvent::Different { at, what, .. } => {
                return Err(Error::Different { at, what: what.to_owned() });
            }
            _ => {}
        }
    }
}

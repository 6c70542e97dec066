//! One of the compared servers, alone in a process, so that `peers/compare.py --ours` can measure what
//! `echo-server` has no mode for: a handler on `recv` and `send`, and servers as people write them.
//!
//! ```text
//! load_server "echo-core recv+send"|"tokio naive Framed"|… 127.0.0.1:PORT
//! ```

use std::env;

use anyhow::{Context, Result};
use benches::{Server, raise_file_limit};

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let (name, address) = args.next().zip(args.next()).context("needs a server and an address")?;
    let known = || Server::ALL.map(Server::name).join(", ");
    let server = Server::ALL.into_iter().find(|server| server.name() == name);
    let server = server.with_context(|| format!("no such server; there are {}", known()))?;
    let address = address.parse().with_context(|| format!("{address} is not ADDRESS:PORT"))?;
    raise_file_limit()?;
    server.run(address)
}

//! The load generator on the library's client: what `peers/loadgen.c` does in its mode `echo`, with
//! one [`Client`] per connection, a task each on a runtime of one thread. It takes the same options and
//! prints the same line, so that `peers/compare.py --client` can measure one beside the other:
//!
//! ```text
//! load_client -a tcp:127.0.0.1:PORT|tls:127.0.0.1:PORT|unix:PATH [-c CONNECTIONS] [-s BYTES] [-d DEPTH] [-t SECONDS]
//!             [-w WARM_UP_SECONDS] [-p SERVER_PID] [-C CORE]
//! ```

#![allow(clippy::print_stdout, reason = "its result is for stdout")]

use std::cell::{Cell, RefCell};
use std::env;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use benches::{Messages, pin, raise_file_limit};
use echo_core::client::{Client, Event, Options};
use echo_core::{Endpoint, tls};
use hdrhistogram::Histogram;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep};

fn main() -> Result<()> {
    let load = Load::read(env::args().skip(1))?;
    raise_file_limit()?;
    if let Some(core) = load.core {
        pin(core);
    }
    let runtime = Builder::new_current_thread()
        .event_interval(512)
        .max_io_events_per_tick(64)
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, run(load))
}

/// What is asked for.
struct Load {
    target: Endpoint,
    connections: usize,
    size: usize,
    depth: usize,
    seconds: f64,
    warm_up: f64,
    server: u32,
    core: Option<usize>,
}

impl Load {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut target = None;
        let (mut connections, mut size, mut depth) = (1, 64, 1);
        let (mut seconds, mut warm_up, mut server, mut core) = (2.0, 0.5, 0, None);
        while let Some(option) = args.next() {
            let value = args.next().with_context(|| format!("{option} needs a value"))?;
            match option.as_str() {
                "-a" => {
                    let uri = value.replacen("tcp:", "tcp://", 1).replacen("tls:", "tls://", 1);
                    target = Some(uri.parse()?);
                }
                "-c" => connections = value.parse()?,
                "-s" => size = value.parse()?,
                "-d" => depth = value.parse()?,
                "-t" => seconds = value.parse()?,
                "-w" => warm_up = value.parse()?,
                "-p" => server = value.parse()?,
                "-C" => core = Some(value.parse()?),
                _ => bail!("unknown option {option}"),
            }
        }
        let target = target.context("no address: -a tcp:HOST:PORT or -a unix:PATH")?;
        Ok(Self { target, connections, size, depth, seconds, warm_up, server, core })
    }
}

/// What the connections share: one thread, so no locks.
struct Shared {
    measuring: Cell<bool>,
    over: Cell<bool>,
    done: Cell<u64>,
    /// Round trips in nanoseconds.
    round_trips: RefCell<Histogram<u64>>,
}

async fn run(load: Load) -> Result<()> {
    let shared = Rc::new(Shared {
        measuring: Cell::new(false),
        over: Cell::new(false),
        done: Cell::new(0),
        round_trips: RefCell::new(Histogram::new_with_max(60_000_000_000, 2)?),
    });
    let messages = Rc::new(Messages::new(load.size, load.depth));
    let mut running = JoinSet::new();
    for first in 0..load.connections {
        // Who the server is makes no difference to speed.
        let tls = Some(tls::Client::new(None, None)?);
        let options = Options { window: usize::MAX, tls, ..Options::default() };
        let client = Client::connect(&load.target, options).await?;
        running.spawn_local(exchange(client, load.depth, first, messages.clone(), shared.clone()));
    }
    sleep(Duration::from_secs_f64(load.warm_up)).await;
    let start = Snapshot::take(load.server)?;
    shared.done.set(0);
    shared.measuring.set(true);
    sleep(Duration::from_secs_f64(load.seconds)).await;
    let (end, done) = (Snapshot::take(load.server)?, shared.done.get());
    shared.over.set(true);
    while let Some(exchanged) = running.join_next().await {
        exchanged??;
    }
    print(&load, &start, &end, done, &shared.round_trips.borrow());
    Ok(())
}

/// Keeps `depth` messages under way, one sent for each received.
async fn exchange(
    mut client: Client,
    depth: usize,
    first: usize,
    messages: Rc<Messages>,
    shared: Rc<Shared>,
) -> Result<()> {
    // Each begins with another message: a server that mixes connections up is found out.
    let mut payloads = messages.payloads(first);
    for _ in 0..depth {
        client.push(payloads.next().unwrap_or_default())?;
    }
    while !shared.over.get() {
        match client.next().await?.context("the client has ended")? {
            Event::Reply(reply) => {
                if shared.measuring.get() {
                    let nanos = reply.round_trip().as_nanos() as u64;
                    shared.round_trips.borrow_mut().saturating_record(nanos);
                }
                shared.done.set(shared.done.get() + 1);
                client.push(payloads.next().unwrap_or_default())?;
            }
            event => bail!("no reply: {event:?}"),
        }
    }
    Ok(())
}

/// Clocks.
struct Snapshot {
    time: Instant,
    own_cpu: u64,
    server_cpu: u64,
}

impl Snapshot {
    fn take(server: u32) -> Result<Self> {
        let own_cpu = cpu("self")?;
        let server_cpu = if server == 0 { 0 } else { cpu(&server.to_string())? };
        Ok(Self { time: Instant::now(), own_cpu, server_cpu })
    }
}

/// Nanoseconds that a process has spent on a CPU.
fn cpu(process: &str) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // The first number, where `stat` counts ticks of 10 ms.
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(sum)
}

fn print(load: &Load, start: &Snapshot, end: &Snapshot, done: u64, round_trips: &Histogram<u64>) {
    let seconds = (end.time - start.time).as_secs_f64();
    let (own, server) = (end.own_cpu - start.own_cpu, end.server_cpu - start.server_cpu);
    let micros = |quantile| round_trips.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{{\"mode\":\"echo\",\"c\":{},\"s\":{},\"d\":{},\"mps\":{:.0},\"p50\":{:.1},\"p99\":{:.1},\
         \"p999\":{:.1},\"ccpu\":{:.2},\"scpu\":{:.2},\"sns\":{:.0}}}",
        load.connections,
        load.size,
        load.depth,
        done as f64 / seconds,
        micros(0.5),
        micros(0.99),
        micros(0.999),
        own as f64 / seconds / 1e9,
        server as f64 / seconds / 1e9,
        server as f64 / done.max(1) as f64,
    );
}

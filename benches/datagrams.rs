//! Datagrams over UDP: one at a time, and in bursts.
//!
//! - **ping-pong/64-B** is latency: a wake-up, and two system calls on each side. The blocking server
//!   is woken without an epoll instance in between, which the others pay for.
//! - **burst/32x1200-B** is what batches are for: echo-core receives what has arrived in one call, and
//!   sends neighbours to one peer as a single message that the kernel cuts.
//!
//! The client sends and receives datagrams one by one, so that at depth it is the bottleneck:
//! `peers/compare.py --set udp` has one that does not, and shows the server's CPU.

#![allow(clippy::expect_used, reason = "a bench that cannot run says why and stops")]

mod measure;

use benches::{DatagramServer, Datagrams, pin_client};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use measure::measure;

/// Name, datagrams under way, bytes.
const LOADS: [(&str, u64, usize); 2] = [("ping-pong/64-B", 1, 64), ("burst/32x1200-B", 32, 1200)];

fn datagrams(criterion: &mut Criterion) {
    pin_client();
    for (name, depth, size) in LOADS {
        let mut group = criterion.benchmark_group(format!("datagrams/{name}"));
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 });
        group.sampling_mode(SamplingMode::Flat);
        for server in DatagramServer::ALL {
            let start = || {
                let server = server.start().expect("server starts");
                let client = Datagrams::connect(&server, depth, size).expect("client connects");
                (server, client)
            };
            measure(&mut group, server.name(), start, |(_, client), count| client.run(count));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = measure::config();
    targets = datagrams
}
criterion_main!(benches);

//! Many connections with many messages under way: what a server can move, by size and depth.
//!
//! The client is an epoll loop on a core of its own; an element is one message, echoed and compared.
//! Against the epoll loop, which does the same work without frames, limits and deadlines:
//!
//! - **64 × 1 × 64 B** is ping-pong: cost per wake-up. Over TCP the client is the bottleneck.
//! - **64 × 32 × 64 B** is pipelining: one write per *read* or one per *frame*. It exposes naive
//!   `Framed`, which flushes every frame, and `recv` and `send` if they did the same.
//! - **64 × 32 × 1 KiB** adds the buffer: a small one (1 KiB, or `Framed`'s 8 KiB) multiplies the
//!   system calls.
//! - **64 × 1 × 16 KiB** and **1 × 16 × 64 KiB** are bulk: copies, and writes that the peer does not
//!   take at once.
//! - **1,000 × 1 × 64 B** shows the memory and queues behind a connection.

#![allow(clippy::expect_used, reason = "a bench that cannot run says why and stops")]

mod measure;

use benches::{Pipeline, Server, Transport, pin_client, raise_file_limit};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use measure::measure;

/// Connections, messages under way on each, payload bytes.
const LOADS: [(usize, usize, usize); 6] = [
    (64, 1, 64),
    (64, 32, 64),
    (64, 32, 1 << 10),
    (64, 1, 16 << 10),
    (1, 16, 64 << 10),
    (1_000, 1, 64),
];

fn throughput(criterion: &mut Criterion) {
    pin_client();
    raise_file_limit().expect("descriptors for 1,000 connections");
    for transport in Transport::ALL {
        for (connections, depth, size) in LOADS {
            let transport_name = transport.name();
            let mut group = criterion.benchmark_group(format!(
                "throughput/{transport_name}/{connections}x{depth}x{size}-B"
            ));
            group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 });
            // Samples of one length: in short ones filling and emptying the pipeline would weigh more.
            group.sampling_mode(SamplingMode::Flat);
            for server in Server::ALL {
                let start = || {
                    let server = server.start(transport).expect("server starts");
                    let client = Pipeline::connect(&server, connections, depth, size);
                    (server, client.expect("client connects"))
                };
                measure(&mut group, server.name(), start, |(_, client), count| client.run(count));
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = measure::config();
    targets = throughput
}
criterion_main!(benches);

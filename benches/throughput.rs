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

use std::time::Duration;

use benches::{Pipeline, Server, Transport, pin_client, raise_file_limit};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

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
                // Begun by the first sample, so that what is filtered out starts nothing.
                let mut started = None;
                group.bench_function(server.name(), |bencher| {
                    let (_, client) = started.get_or_insert_with(|| {
                        let server = server.start(transport).expect("server starts");
                        let client = Pipeline::connect(&server, connections, depth, size)
                            .expect("client connects");
                        (server, client)
                    });
                    bencher.iter_custom(|count| client.run(count).expect("every byte comes back"));
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = throughput
}
criterion_main!(benches);

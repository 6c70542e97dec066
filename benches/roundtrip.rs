//! One connection, one message at a time, over TCP and over Unix sockets: latency, which is wake-ups
//! and two system calls on each side.
//!
//! The client blocks in plain sockets. The epoll loop shows the kernel's share. What a Tokio server
//! takes on top is the runtime's way from the driver to the task; it is the same for the naive
//! servers, so that the difference between them and echo-core is what limits, deadlines and header
//! parsing cost. At 16 KiB the small buffer of `read+write_all` shows. Over TCP the kernel has nine
//! tenths of the time: Unix sockets tell servers apart, TCP hardly does.

#![allow(clippy::expect_used, reason = "a bench that cannot run says why and stops")]

mod measure;

use benches::{RoundTrip, Server, Transport, pin_client};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use measure::measure;

/// Payload bytes: a ping, and a message that one read of 1 KiB does not hold.
const SIZES: [usize; 2] = [64, 16 << 10];

fn round_trip(criterion: &mut Criterion) {
    pin_client();
    for transport in Transport::ALL {
        for size in SIZES {
            let name = format!("round-trip/{}/{size}-B", transport.name());
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Elements(1));
            for server in Server::ALL {
                let start = || {
                    let server = server.start(transport).expect("server starts");
                    let client = RoundTrip::connect(&server, size).expect("client connects");
                    (server, client)
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
    targets = round_trip
}
criterion_main!(benches);

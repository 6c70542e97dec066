//! Connection rate: connect, echo 64 bytes, close, with 16 connections open together.
//!
//! It exposes what a server does once per connection: accept, a task and its memory, limits, the
//! orderly close. The naive servers drop the socket and are done; echo-core counts the connection
//! in and out, and closes so that no reply is lost. The epoll loop shows the kernel's share, which
//! is most of it over TCP.
//!
//! Each TCP connection leaves a port in TIME_WAIT on the client's side; over loopback Linux uses
//! them again after a second (`net.ipv4.tcp_tw_reuse` is 2 by default).

#![allow(clippy::expect_used, reason = "a bench that cannot run says why and stops")]

mod measure;

use benches::{Churn, Server, Transport, pin_client};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use measure::measure;

const AT_A_TIME: usize = 16;
const SIZE: usize = 64;

fn connect(criterion: &mut Criterion) {
    pin_client();
    for transport in Transport::ALL {
        let mut group = criterion.benchmark_group(format!("connect/{}", transport.name()));
        group.throughput(Throughput::Elements(1));
        group.sampling_mode(SamplingMode::Flat);
        for server in Server::ALL {
            let start = || {
                let server = server.start(transport).expect("server starts");
                let client = Churn::new(&server, AT_A_TIME, SIZE);
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
    targets = connect
}
criterion_main!(benches);

//! What TLS costs: a handshake, and an exchange once it is done.
//!
//! - **handshake**: connect, handshake, one message of 64 bytes, close, one connection after the other,
//!   against the same without TLS. Both sides' share of the key exchange and the certificate is in it; no
//!   session is ever resumed.
//! - **round-trip** of 64 bytes and of 16 KiB, which is one full record: what encryption adds to the wake-ups
//!   and system calls, on both sides.
//!
//! The client is rustls over a blocking socket. `peers/secure.py` has the percentiles, interleaved.

#![allow(clippy::expect_used, reason = "a bench that cannot run says why and stops")]

mod measure;

use benches::{Churn, Handshakes, RoundTrip, Secured, Server, Transport, pin_client};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use measure::measure;

/// Payload bytes: a ping, and what fills a record (RFC 8446, section 5.1) with its header.
const SIZES: [usize; 2] = [64, (16 << 10) - 4];

fn handshake(criterion: &mut Criterion) {
    pin_client();
    let mut group = criterion.benchmark_group("tls/handshake");
    group.throughput(Throughput::Elements(1));
    group.sampling_mode(SamplingMode::Flat);
    let start = || {
        let server = Server::CoreFramed.start(Transport::Tcp).expect("server starts");
        let client = Churn::new(&server, 1, SIZES[0]);
        (server, client)
    };
    measure(&mut group, "plain", start, |(_, client), count| client.run(count));
    let start = || Secured::start().expect("server starts");
    measure(&mut group, "tls", start, |server, count| Handshakes::new(server, SIZES[0]).run(count));
    group.finish();
}

fn round_trip(criterion: &mut Criterion) {
    pin_client();
    for size in SIZES {
        let mut group = criterion.benchmark_group(format!("tls/round-trip/{size}-B"));
        group.throughput(Throughput::Elements(1));
        let start = || {
            let server = Server::CoreFramed.start(Transport::Tcp).expect("server starts");
            let client = RoundTrip::connect(&server, size).expect("client connects");
            (server, client)
        };
        measure(&mut group, "plain", start, |(_, client), count| client.run(count));
        let start = || {
            let server = Secured::start().expect("server starts");
            let client = server.round_trip(size).expect("client connects");
            (server, client)
        };
        measure(&mut group, "tls", start, |(_, client), count| client.run(count));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = measure::config();
    targets = handshake, round_trip
}
criterion_main!(benches);

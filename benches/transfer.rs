//! Files stored and fetched: what `echo-client put` and `get` do, without the client's disk.
//!
//! - **put**: announced, sent, digested by the server, synced, renamed and acknowledged. At 4 KiB it is what a
//!   durable file costs, which is the disk; at 16 MiB it is digest, copies and disk together.
//! - **get**: read, sent, digested by both sides.
//!
//! The store is the daemon's, in the folder for temporary files (`TMPDIR`): where that is memory, a sync is
//! free. `peers/transfer.py` compares whole commands with other programs.

#![allow(clippy::expect_used, reason = "a bench that cannot run says why and stops")]

mod measure;

use benches::{FileClient, Store};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use measure::measure;

/// Bytes of a file.
const SIZES: [(&str, usize); 2] = [("4-KiB", 4 << 10), ("16-MiB", 16 << 20)];

fn transfer(criterion: &mut Criterion) {
    for (scheme, with_tls) in [("tcp", false), ("tls", true)] {
        for (size_name, size) in SIZES {
            let mut group = criterion.benchmark_group(format!("transfer/{scheme}/{size_name}"));
            group.throughput(Throughput::Bytes(size as u64));
            group.sampling_mode(SamplingMode::Flat);
            let start = || {
                let store = Store::start(with_tls).expect("echo-server starts");
                let mut client = FileClient::connect(&store, size).expect("client connects");
                client.put(1).expect("there is a file to get");
                (store, client)
            };
            measure(&mut group, "put", start, |(_, client), count| client.put(count));
            measure(&mut group, "get", start, |(_, client), count| client.get(count));
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = measure::config();
    targets = transfer
}
criterion_main!(benches);

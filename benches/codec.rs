//! What framing costs per byte and per frame, without any I/O.
//!
//! - `codec/decode`, `codec/encode`: `FrameCodec` by payload size, beside tokio-util's
//!   `LengthDelimitedCodec`, which parses the same frames. Small frames expose the work per frame,
//!   large ones the copy.
//! - `codec/scan`: `Passage::scan`, the server's pass-through, over one full read. `copy` moves the
//!   same bytes once: what a server that collects its frames pays at least, and a scan that looks
//!   at headers alone does not.

#![allow(clippy::expect_used, reason = "a bench that cannot run says why and stops")]

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use echo_core::{Frame, FrameCodec, HEADER_LEN, Header, Kind, Passage};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

/// Payload bytes: a header alone, a ping, a message, a full socket buffer, the largest frame that a
/// server takes by default.
const SIZES: [usize; 5] = [0, 64, 1 << 10, 16 << 10, 1 << 20];

/// What the server reads at most at once.
const READ: usize = 64 << 10;

const MAX_FRAME: u32 = 1 << 20;

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/decode");
    for size in SIZES {
        let (frames, wire) = frames(size);
        throughput(&mut group, frames, &wire);
        let input = || BytesMut::from(&wire[..]);
        group.bench_function(BenchmarkId::new("FrameCodec", size), |bencher| {
            bencher.iter_batched_ref(
                input,
                |input| decode_all(&mut FrameCodec::new(MAX_FRAME), input),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("LengthDelimitedCodec", size), |bencher| {
            bencher.iter_batched_ref(
                input,
                |input| decode_all(&mut LengthDelimitedCodec::new(), input),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/encode");
    for size in SIZES {
        let (frames, wire) = frames(size);
        throughput(&mut group, frames, &wire);
        let payload = Bytes::from(vec![7; size]);
        let mut output = BytesMut::with_capacity(wire.len());
        group.bench_function(BenchmarkId::new("FrameCodec", size), |bencher| {
            let mut codec = FrameCodec::new(MAX_FRAME);
            bencher.iter(|| {
                output.clear();
                for _ in 0..frames {
                    let frame = Frame::echo(payload.clone());
                    codec.encode(frame, &mut output).expect("it fits");
                }
                black_box(&output);
            });
        });
        group.bench_function(BenchmarkId::new("LengthDelimitedCodec", size), |bencher| {
            let mut codec = LengthDelimitedCodec::new();
            bencher.iter(|| {
                output.clear();
                for _ in 0..frames {
                    codec.encode(payload.clone(), &mut output).expect("it fits");
                }
                black_box(&output);
            });
        });
    }
    group.finish();
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/scan");
    for size in SIZES {
        let (frames, mut wire) = frames(size);
        wire.truncate(READ);
        throughput(&mut group, frames, &wire);
        group.bench_function(BenchmarkId::new("Passage", size), |bencher| {
            bencher.iter(|| Passage::default().scan(black_box(&wire), MAX_FRAME));
        });
        let mut copy = vec![0; wire.len()];
        group.bench_function(BenchmarkId::new("copy", size), |bencher| {
            bencher.iter(|| {
                copy.copy_from_slice(black_box(&wire));
                black_box(&copy);
            });
        });
    }
    group.finish();
}

/// As many frames as one read brings, at least one.
fn frames(size: usize) -> (usize, Vec<u8>) {
    let count = (READ / (HEADER_LEN + size)).max(1);
    let mut frame = Header { kind: Kind::ECHO, len: size as u32 }.to_bytes().to_vec();
    frame.resize(HEADER_LEN + size, 7);
    (count, frame.repeat(count))
}

fn throughput(group: &mut BenchmarkGroup<'_, WallTime>, frames: usize, wire: &[u8]) {
    group.throughput(Throughput::ElementsAndBytes {
        elements: frames as u64,
        bytes: wire.len() as u64,
    });
}

fn decode_all<D: Decoder>(codec: &mut D, input: &mut BytesMut) -> usize
where
    D::Error: std::fmt::Debug,
{
    let mut frames = 0;
    while let Some(frame) = codec.decode(input).expect("valid frames") {
        black_box(frame);
        frames += 1;
    }
    frames
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30);
    targets = decode, encode, scan
}
criterion_main!(benches);

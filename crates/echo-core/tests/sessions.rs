//! Random sessions against a small model of the protocol, and random bytes against the parsers
//! (faults 8, 26, 27, 29, 35 and 37). LONG=1 runs a hundred times as many, SEED=n replays one.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, spawns what it awaits, and waits with a bound"
)]

mod model;
mod support;

use bytes::{Bytes, BytesMut};
use echo_core::{
    Connector, Echo, Error, Frame, FrameCodec, HEADER_LEN, Header, Kind, Limits, MAX_CONTROL_LEN,
    MAX_PAYLOAD_LEN, Mode, PROBE_MIN_LEN, Passage, Stop,
};
use fastrand::Rng;
use model::{Answer, End, answer};
use support::{Replay, cases, frame, header, in_memory, read_all, seed};
use tokio::io::AsyncWriteExt;
use tokio_util::codec::{Decoder, Encoder};

const MODES: [Mode; 3] = [Mode::Auto, Mode::Framed, Mode::Raw];

/// Small limits, so that few bytes reach them.
const MAX_FRAMES: [u32; 4] = [0, 5, 64, 5000];

/// One session's input: mostly valid frames, now and then what breaks something.
fn input(rng: &mut Rng, max: u32) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..rng.usize(0..8) {
        input.extend(piece(rng, max));
    }
    if rng.u8(..) < 60 {
        input.truncate(rng.usize(0..=input.len()));
    }
    input
}

fn piece(rng: &mut Rng, max: u32) -> Vec<u8> {
    let noise = |rng: &mut Rng, len: u32| (0..len).map(|_| rng.u8(..)).collect::<Vec<_>>();
    let near = |rng: &mut Rng, limit: u32| (limit + rng.u32(0..3)).saturating_sub(1);
    match rng.u8(0..20) {
        0..8 => {
            let len = rng.u32(0..=max.min(100));
            frame(Kind::ECHO, &noise(rng, len))
        }
        8 => {
            let len = near(rng, max);
            frame(Kind::ECHO, &noise(rng, len))
        }
        9 => frame(Kind::ECHO, &[]),
        10 | 11 => {
            let len = *rng.choice(&[0, 0, 1, 5, 6, 7, 100]).unwrap();
            frame(Kind::HELLO, &noise(rng, len))
        }
        12 => {
            let len = near(rng, 4096);
            frame(Kind::HELLO, &noise(rng, len))
        }
        13 | 14 => {
            let len = near(rng, PROBE_MIN_LEN) + rng.u32(0..10);
            frame(Kind::PROBE, &noise(rng, len))
        }
        15 => {
            let len = near(rng, max);
            frame(Kind::PROBE, &noise(rng, len))
        }
        16 => {
            // A declared length that never comes.
            let kind = *rng.choice(&[Kind::ECHO, Kind::HELLO, Kind::PROBE]).unwrap();
            header(kind, rng.usize(0..=MAX_PAYLOAD_LEN as usize))
        }
        17 => {
            let len = rng.u32(0..20);
            frame(Kind(rng.u8(..)), &noise(rng, len))
        }
        18 => b"text for people\r\n".to_vec(),
        _ => {
            let len = rng.u32(0..20);
            noise(rng, len)
        }
    }
}

async fn session(connector: &Connector, rng: &mut Rng, mode: Mode, max: u32) {
    let input = input(rng, max);
    let expected = answer(mode, max, &input);
    let mut client = connector.connect().await.unwrap();
    // Byte by byte if it is short; a long one in up to a hundred pieces.
    let step = rng.choice(&[1, 3, 20, usize::MAX]).unwrap().saturating_mul(1 + input.len() / 100);
    let mut rest = &input[..];
    while !rest.is_empty() {
        let len = if step == 1 { 1 } else { rng.usize(1..=step.min(rest.len())) };
        // Whoever is cut by a protocol error is still read.
        client.write_all(&rest[..len]).await.unwrap();
        rest = &rest[len..];
        if rng.u8(..) < 100 {
            tokio::task::yield_now().await;
        }
    }
    client.shutdown().await.unwrap();
    let got = read_all(&mut client).await;
    assert!(
        expected.matches(&got),
        "{mode:?} max {max}\nsent     {input:02x?}\nexpected {expected:02x?}\ngot      {got:02x?}"
    );
}

/// Every connection of a random session gets what the model says, and ends as it says.
#[test]
fn sessions_follow_the_model() {
    let total = cases(100_000, 10_000_000);
    let batch = 2_000;
    let first = seed();
    for index in 0..total.div_ceil(batch) {
        let seed = first.wrapping_add(index);
        let _replay = Replay(seed);
        let mut rng = Rng::with_seed(seed);
        let mode = *rng.choice(&MODES).unwrap();
        let max = *rng.choice(&MAX_FRAMES).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let limits = Limits { max_frame: max, ..Limits::default() };
            let (server, connector) = in_memory(limits, Echo::new(mode));
            for _ in 0..batch {
                session(&connector, &mut rng, mode, max).await;
            }
            let report = server.stop(support::PATIENCE).await;
            assert_eq!(report.accepted, batch);
            assert_eq!(report.drained.forced + report.drained.panicked, 0);
        });
    }
}

/// What the model itself says, by hand.
#[test]
fn the_model() {
    let of = |mode, input: &[u8]| answer(mode, 5, input);
    let fin = |bytes: &[u8]| Answer::new(bytes, End::Fin);
    assert_eq!(of(Mode::Raw, b"\0\0\0\x01a"), fin(b"\0\0\0\x01a"));
    assert_eq!(of(Mode::Auto, b"\0\0\0\x06a"), fin(b"\0\0\0\x06a"));
    assert_eq!(of(Mode::Auto, b"\0\0\0\x05a"), Answer::new(b"\0\0\0\x05a", End::Cut));
    assert_eq!(of(Mode::Framed, b"\0\0\0\x06a"), fin(b""));
    assert_eq!(of(Mode::Framed, b"\0\0\0\0\x01\0\0\0"), fin(b"\0\0\0\0"));
}

/// Any four bytes are a header, and come back the same.
#[test]
fn random_headers() {
    let seed = seed();
    let _replay = Replay(seed);
    let mut rng = Rng::with_seed(seed);
    for _ in 0..cases(100_000, 10_000_000) {
        let bytes = rng.u32(..).to_be_bytes();
        let header = Header::parse(bytes);
        assert!(header.len <= MAX_PAYLOAD_LEN && header.kind.0 == bytes[0]);
        assert_eq!(header.to_bytes(), bytes);
    }
}

/// The codec and the pass-through agree on every stream, whatever its pieces.
#[test]
fn random_streams_through_codec_and_passage() {
    let seed = seed();
    let _replay = Replay(seed);
    let mut rng = Rng::with_seed(seed);
    for _ in 0..cases(100_000, 10_000_000) {
        let max = *rng.choice(&MAX_FRAMES).unwrap();
        let input = input(&mut rng, max);
        let decoded = decode(&input, max, &mut rng);
        let echoes: usize =
            decoded.iter().take_while(|frame| frame.kind == Kind::ECHO).map(size).sum();
        let mut passage = Passage::default();
        let scan = passage.scan(&input, max);
        let begun = if passage.remaining > 0 {
            HEADER_LEN + (passage.declared - passage.remaining) as usize
        } else {
            0
        };
        assert_eq!(scan.pass, echoes + begun, "max {max}: {input:02x?}");
        match scan.stop {
            Stop::Exhausted => assert!(input.len() - scan.pass < HEADER_LEN),
            Stop::Header(header) => {
                assert_eq!(header.to_bytes(), input[scan.pass..scan.pass + HEADER_LEN]);
                assert!(header.kind != Kind::ECHO || header.len > max);
            }
        }
    }
}

fn size(frame: &Frame) -> usize {
    HEADER_LEN + frame.payload.len()
}

/// Feeds `input` to a codec in random pieces; checks that what it decodes encodes to the same.
fn decode(input: &[u8], max: u32, rng: &mut Rng) -> Vec<Frame> {
    let mut codec = FrameCodec::new(max);
    let (mut src, mut frames) = (BytesMut::new(), Vec::new());
    let mut rest = Bytes::copy_from_slice(input);
    let mut refused = false;
    while !rest.is_empty() && !refused {
        src.extend_from_slice(&rest.split_to(rng.usize(1..=rest.len())));
        loop {
            match codec.decode(&mut src) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(Error::FrameTooLong { len, max: limit }) => {
                    assert!(len > limit && (limit == max || limit == MAX_CONTROL_LEN.max(max)));
                    refused = true;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let longest = HEADER_LEN + max.max(MAX_CONTROL_LEN) as usize;
        assert!(refused || src.len() < longest, "more is kept than one frame");
    }
    let mut wire = BytesMut::new();
    for frame in &frames {
        codec.encode(frame.clone(), &mut wire).unwrap();
    }
    assert_eq!(wire, input[..wire.len()]);
    if !refused {
        let end = codec.decode_eof(&mut src);
        assert!(matches!((src.is_empty(), end), (true, Ok(None)) | (false, Err(Error::Truncated))));
    }
    frames
}

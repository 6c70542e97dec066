//! Every seed of every target, and mutations of them: a few thousand, a million under `LONG=1`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Runs one input; one that fails is shown as it can be kept.
fn run(target: fn(&[u8]), name: &str, seed: &str, input: &[u8]) {
    let ran = catch_unwind(AssertUnwindSafe(|| target(input)));
    let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        ran.is_ok(),
        "{name} fails with a mutation of {seed}: echo {hex} | xxd -r -p > seeds/{name}/NAME"
    );
}

fn replay(target: fn(&[u8]), name: &str, mutations: u32) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut seeds: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (seed, input) in &seeds {
        run(target, name, seed, input);
    }
    let number = std::env::var("SEED").ok().and_then(|it| it.parse().ok()).unwrap_or(11);
    let mut random = fastrand::Rng::with_seed(number);
    let mutations = if std::env::var_os("LONG").is_some() { 1_000_000 } else { mutations };
    for _ in 0..mutations {
        let (seed, input) = random.choice(&seeds).unwrap();
        let (_, other) = random.choice(&seeds).unwrap();
        run(target, name, seed, &mutated(input.clone(), other, &mut random));
    }
}

/// Changes in one to four places.
fn mutated(mut input: Vec<u8>, other: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    for _ in 0..random.u8(1..=4) {
        let place = random.usize(..=input.len());
        let end = (place + random.usize(..8)).min(input.len());
        let from = random.usize(..=other.len());
        let upto = (from + random.usize(..32)).min(other.len());
        match random.u8(..6) {
            0 if place < input.len() => input[place] = random.u8(..),
            1 if place < input.len() => input[place] ^= 1 << random.u8(..8),
            2 => drop(input.drain(place..end)),
            3 => drop(input.splice(place..end, other[from..upto].iter().copied())),
            4 => {
                let again = input[place..end].to_vec();
                drop(input.splice(place..place, again));
            }
            _ => drop(input.splice(
                place..place,
                std::iter::repeat_with(|| random.u8(..)).take(4).collect::<Vec<_>>(),
            )),
        }
    }
    input
}

#[test]
fn tls_server() {
    replay(fuzz::tls_server, "tls_server", 1_000);
}

#[test]
fn tls_client() {
    replay(fuzz::tls_client, "tls_client", 1_000);
}

#[test]
fn auth() {
    replay(fuzz::auth, "auth", 3_000);
}

#[test]
fn files() {
    replay(fuzz::files, "files", 2_000);
}

#[test]
fn paths() {
    replay(fuzz::paths, "paths", 3_000);
}

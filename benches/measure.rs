//! How the benches measure what takes a server and a client.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

/// Three seconds for each figure, as all of them take ten minutes then.
pub(crate) fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
}

/// Measures what `run` does with what `start` gives: so often, in the time that it says. Started by the
/// first sample, so that what is filtered out starts nothing.
pub(crate) fn measure<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    start: impl Fn() -> T,
    run: impl Fn(&mut T, u64) -> anyhow::Result<Duration>,
) {
    let mut started = None;
    group.bench_function(name, |bencher| {
        let started = started.get_or_insert_with(&start);
        bencher.iter_custom(|count| run(started, count).expect("every byte comes back"));
    });
}

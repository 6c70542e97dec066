//! How long this process takes for an answer, sampled so that it costs next to nothing.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// One turn of so many is measured, on each worker (or datagram socket): the clock is asked once more for it, which is a
/// twentieth of a short message's instructions. A prime, so that no number of busy connections that
/// take turns in order keeps step with it.
const EVERY: u32 = 61;

/// Bounds of the buckets, in nanoseconds: 1, 2, 5 to a decade. A short answer takes microseconds, most
/// of them in send(2).
const BOUNDS: [u64; 19] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

thread_local! {
    /// This worker's turns of connections.
    static TURNS: Turns = const { Turns::new() };
}

/// Whether the connection's turn that has just ended is one to measure.
#[inline(always)]
pub(crate) fn is_due() -> bool {
    TURNS.with(Turns::is_due)
}

/// Picks turns to measure, the first one first.
#[derive(Debug)]
pub(crate) struct Turns {
    left: Cell<u32>,
}

impl Turns {
    pub(crate) const fn new() -> Self {
        Self { left: Cell::new(0) }
    }

    /// Whether the turn that has just ended is one to measure.
    #[inline(always)]
    pub(crate) fn is_due(&self) -> bool {
        let left = self.left.get();
        self.left.set(if left == 0 { EVERY - 1 } else { left - 1 });
        left == 0
    }
}

/// How long answers took in this process, of one turn in 61: from the return of the read that brought
/// a request to the return of the write that handed its answer to the kernel. Time in the kernel's
/// queues, time in which a worker was busy with others, and answers for which the peer left no room
/// are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceTime {
    /// What all measured turns took together.
    pub sum: Duration,
    counts: [u64; BOUNDS.len() + 1],
}

impl ServiceTime {
    /// How many turns were measured.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many of them took at most so long, for rising bounds. Longer ones are in
    /// [`count`](Self::count) alone.
    pub fn at_most(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut total = 0;
        BOUNDS.iter().zip(self.counts).map(move |(bound, count)| {
            total += count;
            (Duration::from_nanos(*bound), total)
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    #[cold]
    pub(crate) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[BOUNDS.partition_point(|bound| *bound < nanos)].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    pub(super) fn snapshot(&self) -> ServiceTime {
        ServiceTime {
            sum: Duration::from_nanos(self.nanos.load(Relaxed)),
            counts: std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for nanos in [0, 1_000, 1_001, 2_000_000, 1_000_000_000, 1_000_000_001, 5_000_000_000] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let times = histogram.snapshot();
        let at_most = |bound| times.at_most().find(|(it, _)| *it == bound).map(|(_, count)| count);
        assert_eq!(at_most(Duration::from_micros(1)), Some(2));
        assert_eq!(at_most(Duration::from_micros(2)), Some(3));
        assert_eq!(at_most(Duration::from_millis(1)), Some(3));
        assert_eq!(at_most(Duration::from_millis(2)), Some(4));
        assert_eq!(at_most(Duration::from_secs(1)), Some(5));
        assert_eq!((times.count(), times.sum), (7, Duration::from_nanos(7_002_002_002)));
    }

    #[test]
    fn one_turn_of_many_is_due() {
        let turns = Turns::new();
        assert_eq!((0..EVERY * 10).filter(|_| turns.is_due()).count(), 10);
        assert!(Turns::new().is_due());
    }
}

//! How many datagrams each source may send: a token bucket for each, in a table of fixed size.
//!
//! A generic cell rate algorithm (GCRA): a bucket is the one instant at which it will be full again.
//! What a crate for it (governor) would add is a table that grows with the number of sources and has
//! to be swept.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Buckets in a set; a source's hash chooses the set. Two cache lines.
const WAYS: usize = 8;
/// A power of two. 16,384 sources in 256 KiB: at 10,000 a second a source that sent one datagram keeps
/// its place for 0.1 ms, so that it takes over 100 million sources a second to fill the table.
const SETS: usize = 2048;

/// The buckets of all sources of one listener.
///
/// A source keeps its bucket until it is full again, and then holds nothing that a new bucket would
/// not. **On overflow**, when all places of a source's set are taken, the source shares one bucket with
/// all others that find no place: together they get what one source gets. So nobody is let through by
/// filling the table, and who has a place keeps it. The hash is keyed (SipHash): nobody can choose
/// sources that meet in one set.
#[derive(Debug)]
pub(crate) struct Buckets {
    hash: RandomState,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    places: Box<[Place]>,
    /// When the bucket of those without a place is full again.
    shared: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    source: u64,
    /// When its bucket is full again, in nanoseconds; the place is free from then on.
    full_at: u64,
}

/// Who counts as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceKey(u64);

impl SourceKey {
    /// An IPv4 address (mapped ones included), or an IPv6 /64, since whoever has one IPv6 address
    /// usually has 2^64.
    #[inline]
    pub(crate) fn of_ip(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            // The place of 0:ffff::/32, in which no host has an address.
            IpAddr::V4(ip) => 0xffff_0000_0000 | u64::from(u32::from(ip)),
            IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
        })
    }
}

/// What each source may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Nanoseconds that a datagram takes to be made up for.
    interval: u64,
    /// Nanoseconds that an empty bucket takes to be full again.
    depth: u64,
}

impl From<NonZeroU32> for Rate {
    /// So many a second, and as many at once.
    fn from(per_second: NonZeroU32) -> Self {
        // Rounded up: never more than was asked for.
        let interval = NANOS_PER_SECOND.div_ceil(u64::from(per_second.get()));
        Self { interval, depth: interval * u64::from(per_second.get()) }
    }
}

impl Buckets {
    /// A Unix peer is one source under its name.
    pub(crate) fn key_of_name(&self, name: &[u8]) -> SourceKey {
        SourceKey(self.hash.hash_one(name))
    }

    /// Locks the table, for a batch of datagrams.
    pub(crate) fn lock(&self) -> Taking<'_> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        Taking { hash: &self.hash, table, shared: 0 }
    }
}

impl Default for Buckets {
    fn default() -> Self {
        let table = Table { places: vec![Place::default(); SETS * WAYS].into(), shared: 0 };
        Self { hash: RandomState::new(), table: Mutex::new(table) }
    }
}

/// The table, locked.
pub(crate) struct Taking<'a> {
    hash: &'a RandomState,
    table: MutexGuard<'a, Table>,
    /// How many tokens were asked for by sources without a place of their own.
    pub(crate) shared: u32,
}

impl Taking<'_> {
    /// Takes a token from the bucket of `source`, if there is one at `now` (nanoseconds from any
    /// beginning).
    #[inline]
    pub(crate) fn take(&mut self, source: SourceKey, rate: Rate, now: u64) -> bool {
        let set = self.hash.hash_one(source.0) as usize % SETS;
        let table = &mut *self.table;
        let places = &mut table.places[set * WAYS..][..WAYS];
        let mine = |place: &Place| place.source == source.0 && place.full_at > now;
        let full_at = match places.iter().position(mine) {
            Some(place) => &mut places[place].full_at,
            None => match places.iter_mut().find(|place| place.full_at <= now) {
                Some(place) => {
                    place.source = source.0;
                    &mut place.full_at
                }
                None => {
                    self.shared += 1;
                    &mut table.shared
                }
            },
        };
        let next = (*full_at).max(now) + rate.interval;
        let allowed = next - now <= rate.depth;
        if allowed {
            *full_at = next;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    fn rate(per_second: u32) -> Rate {
        NonZeroU32::new(per_second).unwrap().into()
    }

    fn key(text: &str) -> SourceKey {
        SourceKey::of_ip(text.parse().unwrap())
    }

    /// How many of `tries` are let through at `now`.
    fn taken(buckets: &Buckets, source: SourceKey, rate: Rate, now: u64, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(buckets.lock().take(source, rate, now))).sum()
    }

    #[test]
    fn as_many_at_once_and_then_so_many_a_second() {
        for per_second in [1, 2, 7, 1000, 10_000] {
            let (buckets, rate) = (Buckets::default(), rate(per_second));
            let source = key("192.0.2.1");
            assert_eq!(taken(&buckets, source, rate, 0, per_second + 5), per_second);
            let second = SECOND + u64::from(per_second); // The interval is rounded up.
            assert_eq!(taken(&buckets, source, rate, second / 2, per_second), per_second / 2);
            // After silence it is full, and never more than full.
            assert_eq!(taken(&buckets, source, rate, 99 * second, per_second * 3), per_second);
            let other = key("192.0.2.2");
            assert_eq!(taken(&buckets, other, rate, 99 * second, per_second * 3), per_second);
        }
    }

    #[test]
    fn absurd_rates_do_not_overflow() {
        for per_second in [u32::MAX, u32::MAX - 1, 1_000_000_000, 1] {
            let buckets = Buckets::default();
            assert!(taken(&buckets, key("::1"), rate(per_second), u64::MAX / 2, 3) >= 1);
        }
    }

    /// Fault 18: neither ports nor addresses within an IPv6 /64 make a new source.
    #[test]
    fn sources_are_prefixes() {
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    /// Fault 18: the table is full of sources that wait for their tokens. Who has a place keeps it, and
    /// the others get together what one gets.
    #[test]
    fn overflow_lets_nobody_through() {
        let (buckets, rate) = (Buckets::default(), rate(2));
        let first = key("2001:db8::");
        assert_eq!(taken(&buckets, first, rate, 1, 9), 2);
        let (sources, mut passed) = (1_000_000, 0);
        for number in 0..sources {
            passed += taken(&buckets, SourceKey(1 << 40 | number), rate, 2, 1);
        }
        let places = (SETS * WAYS) as u32;
        assert!(passed <= places - 1 + 2, "{passed} of {sources} passed, {places} have a place");
        assert!(passed > places * 9 / 10, "{passed} of {sources} passed, {places} could");
        assert_eq!(taken(&buckets, first, rate, 3, 9), 0, "its bucket is still empty");
        assert_eq!(buckets.table.lock().unwrap().places.len(), SETS * WAYS);
        // When they have been silent, everybody finds a place again.
        assert_eq!(taken(&buckets, SourceKey(7), rate, 9 * SECOND, 9), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 100_000 } else { 500 }))]

        /// In no stretch of time does a source get more than a full bucket and what came in meanwhile.
        #[test]
        fn no_source_gets_more_than_its_rate(
            per_second in 1_u32..50,
            steps in prop::collection::vec((0_u64..200_000_000, 0_u64..5), 1..300),
        ) {
            let (buckets, rate) = (Buckets::default(), rate(per_second));
            let mut passed: HashMap<u64, Vec<u64>> = HashMap::new();
            let mut now = 0;
            for (pause, source) in steps {
                now += pause;
                if buckets.lock().take(SourceKey(source), rate, now) {
                    passed.entry(source).or_default().push(now);
                }
            }
            for times in passed.values() {
                for (index, from) in times.iter().enumerate() {
                    for (count, to) in times[index..].iter().enumerate() {
                        let most = u64::from(per_second) + (to - from) / rate.interval;
                        prop_assert!((count as u64) < most, "{} in {} ns", count + 1, to - from);
                    }
                }
            }
        }
    }
}

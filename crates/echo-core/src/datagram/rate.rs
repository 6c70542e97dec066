//! How many datagrams each source may send: a token bucket for each, in a table of fixed size.
//!
//! A generic cell rate algorithm (GCRA): a bucket is the one instant at which it will be full again.
//! What a crate for it (governor) would add is a table that grows with the number of sources and has
//! to be swept.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::table::Table;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// 16,384 sources in 256 KiB: at 10,000 a second a source that sent one datagram keeps its place for
/// 0.1 ms, so that it takes over 100 million sources a second to fill the table.
const SETS: usize = 2048;

/// 1,024 of them that may be servers, in 32 KiB. Forged sources fill it, which does no harm: the others
/// together then lose one datagram of as many as one source may lose one of.
const SETS_OF_RUNS: usize = 128;

/// The ports from here on are those that Linux gives to clients (`ip_local_port_range`: 32768 to 60999;
/// other systems use some of these). What comes from below is perhaps a server's answer.
pub(super) const FIRST_OF_CLIENTS: u16 = 32_768;

/// A pause that ends a run of datagrams: a loop makes none, unless its way round takes longer.
const PAUSE: u64 = NANOS_PER_SECOND;

/// The buckets of all sources of one listener.
///
/// A source keeps its bucket until it is full again, and then holds nothing that a new bucket would
/// not. **On overflow** those without a place get together what one source gets. So nobody is let through
/// by filling the table. The hash is keyed (SipHash): nobody can choose sources that meet in one set.
#[derive(Debug)]
pub(crate) struct Buckets {
    hash: RandomState,
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    /// When a source's bucket is full again, in nanoseconds: there is nothing to keep from then on.
    full_at: Table<u64>,
    runs: Table<Run>,
}

/// Datagrams of one source and port that were answered, none of them long after the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    answered: u32,
    last: u64,
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
    /// How many there may be at once.
    burst: u32,
}

impl From<NonZeroU32> for Rate {
    /// So many a second, and as many at once.
    fn from(per_second: NonZeroU32) -> Self {
        // Rounded up: never more than was asked for.
        let interval = NANOS_PER_SECOND.div_ceil(u64::from(per_second.get()));
        let burst = per_second.get();
        Self { interval, depth: interval * u64::from(burst), burst }
    }
}

impl Buckets {
    /// A Unix peer is one source under its name.
    pub(crate) fn key_of_name(&self, name: &[u8]) -> SourceKey {
        SourceKey(self.hash.hash_one(name))
    }

    /// Locks the tables, for a batch of datagrams.
    pub(crate) fn lock(&self) -> Taking<'_> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Taking { hash: &self.hash, tables, shared: 0 }
    }
}

impl Default for Buckets {
    fn default() -> Self {
        let tables = Tables { full_at: Table::new(SETS), runs: Table::new(SETS_OF_RUNS) };
        Self { hash: RandomState::new(), tables: Mutex::new(tables) }
    }
}

/// The tables, locked. Times are nanoseconds from any beginning.
pub(crate) struct Taking<'a> {
    hash: &'a RandomState,
    tables: MutexGuard<'a, Tables>,
    /// How many tokens were asked for by sources without a place of their own.
    pub(crate) shared: u32,
}

impl Taking<'_> {
    /// Takes a token from the bucket of `source`, if there is one at `now`.
    #[inline]
    pub(crate) fn take(&mut self, source: SourceKey, rate: Rate, now: u64) -> bool {
        let hash = self.hash.hash_one(source.0);
        let (full_at, alone) = self.tables.full_at.place(source.0, hash, |it| *it > now);
        let next = (*full_at).max(now) + rate.interval;
        let allowed = next - now <= rate.depth;
        if allowed {
            *full_at = next;
        }
        self.shared += u32::from(!alone);
        allowed
    }

    /// Whether a datagram from `port`, which may be a server's, is to be dropped, since it may be in a loop:
    /// one is, after as many answered ones as fit into a bucket, without a pause of a second. The first
    /// drop ends a loop, also one that is too slow for its bucket.
    pub(crate) fn ends_loop(&mut self, source: SourceKey, port: u16, rate: Rate, now: u64) -> bool {
        let key = self.hash.hash_one((source.0, port));
        let goes_on = |run: &Run| run.answered > 0 && now < run.last + PAUSE;
        let (run, _) = self.tables.runs.place(key, key, goes_on);
        let answered = if goes_on(run) { run.answered } else { 0 };
        let ends = answered >= rate.burst;
        *run = Run { answered: if ends { 0 } else { answered + 1 }, last: now };
        ends
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
        let places = buckets.tables.lock().unwrap().full_at.len() as u32;
        assert!(passed <= places - 1 + 2, "{passed} of {sources} passed, {places} have a place");
        assert!(passed > places * 9 / 10, "{passed} of {sources} passed, {places} could");
        assert_eq!(taken(&buckets, first, rate, 3, 9), 0, "its bucket is still empty");
        // When they have been silent, everybody finds a place again.
        assert_eq!(taken(&buckets, SourceKey(7), rate, 9 * SECOND, 9), 2);
    }

    const PORT: u16 = 7777;

    fn ended(
        buckets: &Buckets,
        source: SourceKey,
        rate: Rate,
        at: impl Iterator<Item = u64>,
    ) -> usize {
        at.filter(|now| buckets.lock().ends_loop(source, PORT, rate, *now)).count()
    }

    /// Far below the rate, where the bucket never is empty.
    #[test]
    fn a_loop_ends_after_a_bucket() {
        let (buckets, rate, source) = (Buckets::default(), rate(10), key("192.0.2.1"));
        let mut now = 5 * SECOND;
        let mut slowly = |pause: u64, count: usize| {
            let at = (0..count).map(|_| {
                now += pause;
                now
            });
            ended(&buckets, source, rate, at)
        };
        for _ in 0..3 {
            assert_eq!(slowly(SECOND / 2, 10), 0, "a bucket is answered");
            assert_eq!(slowly(SECOND / 2, 1), 1, "and one is not");
        }
        assert_eq!(slowly(SECOND - 1, 109), 109 / 11);
        assert_eq!(slowly(SECOND, 1000), 0, "who makes pauses is in no loop");
        assert_eq!(slowly(0, 9), 0);
        assert_eq!(slowly(SECOND, 10), 0, "a pause ends a run");
        // Other ports and sources have their own.
        let now = 10_000 * SECOND;
        assert_eq!(ended(&buckets, source, rate, [now; 10].into_iter()), 0);
        assert_eq!(ended(&buckets, key("192.0.2.2"), rate, [now; 10].into_iter()), 0);
        assert!(!buckets.lock().ends_loop(source, PORT + 1, rate, now));
        assert!(buckets.lock().ends_loop(source, PORT, rate, now));
    }

    /// Among more sources than there are places, a loop goes on for as long on average, and honest ones lose
    /// one of as many.
    #[test]
    fn loops_end_in_a_full_table() {
        let (buckets, rate, sources) = (Buckets::default(), rate(10), 5000);
        let turns = 100;
        let ended: usize = (0..turns)
            .flat_map(|turn| (0..sources).map(move |number| (turn, number)))
            .filter(|&(turn, number)| {
                buckets.lock().ends_loop(SourceKey(number), PORT, rate, SECOND + turn)
            })
            .count();
        let all = (turns * sources) as usize;
        assert!((all / 11 - all / 110..=all / 11).contains(&ended), "{ended} of {all}");
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

//! How long each source waits for its next try: the more it has failed, the longer. Nobody is refused.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use echo_core::Peer;
use tokio::time::Instant;

/// The first failure costs this, each further one twice as much.
const FIRST: Duration = Duration::from_millis(100);
/// The most that any costs: who mistypes on a busy address is still served.
const MOST: Duration = Duration::from_secs(5);
/// After so long without a failure a source is as new.
const MEMORY: Duration = Duration::from_mins(5);

/// Places in a set; a source's hash chooses the set.
const WAYS: usize = 8;
/// 4,096 sources in 160 KiB.
const SETS: usize = 512;

/// What failed, by source, in a table of fixed size. On overflow, when all places of a source's set are
/// taken, sources share one place: nobody is faster by filling the table. The hash is keyed (SipHash).
#[derive(Debug)]
pub(crate) struct Slowness {
    hash: RandomState,
    table: Mutex<Table>,
    slowed: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// Empty before the first failure.
    places: Vec<Place>,
    shared: Place,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    source: u64,
    failures: u32,
    last: Option<Instant>,
}

impl Place {
    fn is_free(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= MEMORY)
    }
}

impl Default for Slowness {
    fn default() -> Self {
        let (hash, table) = (RandomState::new(), Mutex::default());
        Self { hash, table, slowed: AtomicU64::new(0) }
    }
}

impl Slowness {
    /// How long the next try of that peer's is to wait, if at all.
    pub(crate) fn pause(&self, peer: Peer) -> Option<Duration> {
        let failures = self.at(peer, |place| place.map_or(0, |place| place.failures));
        let doublings = failures.checked_sub(1)?;
        self.slowed.fetch_add(1, Relaxed);
        Some(FIRST.saturating_mul(1 << doublings.min(16)).min(MOST))
    }

    /// A try of that peer's has failed.
    pub(crate) fn failed(&self, peer: Peer) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.places.is_empty() {
            table.places = vec![Place::default(); SETS * WAYS];
        }
        drop(table);
        let now = Instant::now();
        let source = self.source(peer);
        self.at(peer, |place| {
            if let Some(place) = place {
                if place.source != source || place.is_free(now) {
                    (place.source, place.failures) = (source, 0);
                }
                place.failures = place.failures.saturating_add(1);
                place.last = Some(now);
            }
        });
    }

    pub(crate) fn slowed(&self) -> u64 {
        self.slowed.load(Relaxed)
    }

    /// The place of a source: its own, or a free one, or the one that is shared.
    fn at<T>(&self, peer: Peer, look: impl FnOnce(Option<&mut Place>) -> T) -> T {
        let (source, now) = (self.source(peer), Instant::now());
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { places, shared } = &mut *table;
        if places.is_empty() {
            return look(None);
        }
        let set = self.hash.hash_one(source) as usize % SETS;
        let places = &mut places[set * WAYS..][..WAYS];
        let mine = |place: &Place| place.source == source && !place.is_free(now);
        let place = match places.iter().position(mine) {
            Some(index) => &mut places[index],
            None => match places.iter_mut().find(|place| place.is_free(now)) {
                Some(place) => {
                    (place.source, place.failures) = (source, 0);
                    place
                }
                None => {
                    shared.source = source;
                    if shared.is_free(now) {
                        shared.failures = 0;
                    }
                    shared
                }
            },
        };
        look(Some(place))
    }

    /// All peers of this host are one.
    fn source(&self, peer: Peer) -> u64 {
        let ip = peer.source().filter(|ip| !ip.is_loopback());
        self.hash.hash_one(ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Tcp(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn each_failure_doubles_the_pause_up_to_the_most() {
        let slowness = Slowness::default();
        let (one, other) = (peer("192.0.2.1:1"), peer("192.0.2.2:1"));
        assert_eq!(slowness.pause(one), None);
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            slowness.failed(one);
            assert_eq!(slowness.pause(one), Some(Duration::from_millis(expected)));
            assert_eq!(slowness.pause(other), None);
        }
        assert_eq!(slowness.pause(peer("192.0.2.1:999")), Some(MOST), "a port is no source");
        assert_eq!(slowness.slowed(), 9);
        for _ in 0..100_000 {
            slowness.failed(one);
        }
        assert_eq!(slowness.pause(one), Some(MOST));
        tokio::time::advance(MEMORY).await;
        assert_eq!(slowness.pause(one), None);
        slowness.failed(Peer::Unix);
        assert_eq!(slowness.pause(peer("127.0.0.1:9")), Some(FIRST));
    }

    /// Fault 18: however many sources fail, the table is as it was, and none of them is fast.
    #[tokio::test(start_paused = true)]
    async fn overflow_makes_nobody_fast() {
        let slowness = Slowness::default();
        let first = peer("192.0.2.1:1");
        slowness.failed(first);
        let source = |number: u32| Peer::Tcp((Ipv4Addr::from(number << 8), 1).into());
        for number in 0..100_000 {
            slowness.failed(source(number));
        }
        assert_eq!(slowness.table.lock().unwrap().places.len(), SETS * WAYS);
        assert_eq!(slowness.pause(first), Some(FIRST));
        let slow = (0..100_000).filter(|number| slowness.pause(source(*number)).is_some()).count();
        assert_eq!(slow, 100_000);
    }
}

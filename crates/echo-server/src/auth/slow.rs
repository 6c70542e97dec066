//! How long each source waits for its next try: the more it has failed, and the more it tries at once, the
//! longer. Who has failed so often that each try costs the most is refused what goes beyond.

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
/// Tries of one source that are under way at once and cost nothing: more than a client makes. Of those beyond,
/// each counts as a failure, as none of them knows how the others end.
const AT_ONCE: u32 = 32;
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
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// Empty before the first try.
    places: Vec<Place>,
    shared: Place,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    source: u64,
    failures: u32,
    last: Option<Instant>,
    under_way: u32,
}

/// A try that has begun: it has to be [ended](Slowness::end).
#[derive(Debug)]
pub(crate) struct Begun {
    /// Its source's place; the shared one if it has none.
    index: Option<usize>,
    /// How long it is to wait, if at all.
    pub(crate) pause: Option<Duration>,
}

/// Too many tries of a source that has failed too often.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Crowded;

impl Place {
    fn is_free(&self, now: Instant) -> bool {
        self.under_way == 0 && self.is_forgotten(now)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= MEMORY)
    }
}

impl Default for Slowness {
    fn default() -> Self {
        let (slowed, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { hash: RandomState::new(), table: Mutex::default(), slowed, refused }
    }
}

impl Table {
    fn place(&mut self, index: Option<usize>) -> &mut Place {
        match index {
            Some(index) => &mut self.places[index],
            None => &mut self.shared,
        }
    }

    /// Where a source is counted: its own place, or a free one, or else the one that is shared.
    fn find(&mut self, source: u64, set: usize, now: Instant) -> Option<usize> {
        if self.places.is_empty() {
            self.places = vec![Place::default(); SETS * WAYS];
        }
        let places = &self.places[set * WAYS..][..WAYS];
        let mine = |place: &Place| place.source == source && !place.is_free(now);
        let free = |place: &Place| place.is_free(now);
        let way = places.iter().position(mine).or_else(|| places.iter().position(free));
        way.map(|way| set * WAYS + way)
    }
}

/// What so many failures cost.
fn pause(failures: u32) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?;
    Some(FIRST.saturating_mul(1 << doublings.min(16)).min(MOST))
}

impl Slowness {
    /// A try of that peer's begins.
    pub(crate) fn begin(&self, peer: Peer) -> Result<Begun, Crowded> {
        let ip = peer.source().filter(|ip| !ip.is_loopback());
        // All peers of this host are one.
        let source = self.hash.hash_one(ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let set = self.hash.hash_one(source) as usize % SETS;
        let now = Instant::now();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let index = table.find(source, set, now);
        let place = table.place(index);
        place.source = source;
        if place.is_forgotten(now) {
            place.failures = 0;
        }
        let beyond = place.under_way.saturating_sub(AT_ONCE - 1);
        // Peers of this host are never refused, as a proxy's are many; nor is who shares a place with others.
        if beyond > 0 && pause(place.failures) == Some(MOST) && ip.is_some() && index.is_some() {
            self.refused.fetch_add(1, Relaxed);
            return Err(Crowded);
        }
        place.under_way += 1;
        let pause = pause(place.failures.saturating_add(beyond));
        self.slowed.fetch_add(pause.is_some().into(), Relaxed);
        Ok(Begun { index, pause })
    }

    /// It is over, and has failed or not.
    pub(crate) fn end(&self, begun: &Begun, failed: bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let place = table.place(begun.index);
        place.under_way -= 1;
        if failed {
            place.failures = place.failures.saturating_add(1);
            place.last = Some(Instant::now());
        }
    }

    pub(crate) fn slowed(&self) -> u64 {
        self.slowed.load(Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Slowness {
        /// What a try costs, which is none.
        fn pause(&self, peer: Peer) -> Option<Duration> {
            let begun = self.begin(peer).unwrap();
            self.end(&begun, false);
            begun.pause
        }

        fn failed(&self, peer: Peer) {
            let begun = self.begin(peer).unwrap();
            self.end(&begun, true);
        }
    }

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

    /// A thousand tries at once do not each find that none has failed yet; and once they have, no more than a few
    /// are under way.
    #[tokio::test(start_paused = true)]
    async fn tries_at_once_are_bounded() {
        for (text, refuses) in [("192.0.2.1:1", true), ("127.0.0.1:1", false)] {
            let slowness = Slowness::default();
            let all = || (0..1_000).map(|_| slowness.begin(peer(text))).collect::<Vec<_>>();
            let first = all();
            let pauses: Vec<_> = first.iter().map(|it| it.as_ref().unwrap().pause).collect();
            assert_eq!(pauses.iter().filter(|it| it.is_none()).count(), AT_ONCE as usize);
            assert_eq!(pauses[AT_ONCE as usize], Some(FIRST));
            assert!(pauses[AT_ONCE as usize + 6..].iter().all(|it| *it == Some(MOST)));
            first.iter().flatten().for_each(|it| slowness.end(it, true));
            let second = all();
            let begun = if refuses { AT_ONCE as usize } else { 1_000 };
            assert_eq!(second.iter().flatten().count(), begun, "{text}");
            assert!(second.iter().flatten().all(|it| it.pause == Some(MOST)));
            assert_eq!(slowness.refused(), 1_000 - begun as u64);
            assert!(slowness.begin(peer("192.0.2.2:1")).unwrap().pause.is_none());
            second.iter().flatten().for_each(|it| slowness.end(it, false));
            assert_eq!(slowness.pause(peer(text)), Some(MOST));
        }
    }
}

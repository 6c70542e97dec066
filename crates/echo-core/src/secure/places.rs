//! Places for handshakes: how many are under way at once, in all and of one source.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits::LiveLimits;
use crate::stats::TlsStats;
use crate::stream::Peer;

/// Handshakes that are under way at once, in a service; more wait for a place. Each holds up to 64 KiB of
/// messages that have not come to an end.
const ALL: usize = 512;

/// Those of one source: sixteen that take all they can get do not fill the places.
const OF_SOURCE: usize = ALL / 16;

/// Those of this host together, where the limit of connections spares them too. Behind a proxy everybody is of
/// this host; what comes without one still finds places.
const OF_HOST: usize = ALL / 2;

/// The places, and who has or wants them.
#[derive(Debug)]
pub(crate) struct Places {
    all: Line,
    /// Sources that have or want any: bounded by the limit of connections. `None` is this host.
    sources: Mutex<HashMap<Option<IpAddr>, Arc<Line>>>,
}

/// Places for which one waits in line.
#[derive(Debug)]
struct Line {
    places: Semaphore,
    waiting: AtomicUsize,
}

impl Line {
    fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places), waiting: AtomicUsize::new(0) }
    }

    fn is_awaited(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Takes a place, first come first served; `before_waiting` is called if there is none yet.
    async fn enter(&self, before_waiting: impl FnOnce()) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.places.try_acquire() {
            return Some(place);
        }
        before_waiting();
        self.waiting.fetch_add(1, Relaxed);
        let _gone = Gone(&self.waiting);
        // The places are never closed.
        self.places.acquire().await.ok()
    }
}

/// Takes back that one waits.
struct Gone<'a>(&'a AtomicUsize);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Places {
    pub(crate) fn new() -> Self {
        Self { all: Line::new(ALL), sources: Mutex::default() }
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        ALL - self.all.places.available_permits()
    }

    /// Who `peer` is counted as: by the rules of the limit of connections per source.
    pub(super) fn source(&self, peer: Peer, limits: &LiveLimits) -> Source<'_> {
        let (_, spare_loopback) = limits.per_source();
        let key = peer.source().filter(|ip| !(ip.is_loopback() && spare_loopback));
        let most = if key.is_some() { OF_SOURCE } else { OF_HOST };
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let line = sources.entry(key).or_insert_with(|| Arc::new(Line::new(most)));
        Source { places: self, key, line: Arc::clone(line) }
    }
}

/// A source of which at least one handshake is under way, or waits.
#[derive(Debug)]
pub(super) struct Source<'a> {
    places: &'a Places,
    key: Option<IpAddr>,
    line: Arc<Line>,
}

/// One handshake's place, among its source's and among all.
#[derive(Debug)]
pub(super) struct Place<'a> {
    _of_source: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Source<'_> {
    /// Takes a place, and counts whether it had to wait for it.
    ///
    /// # Cancel safety
    /// Dropped, it gives its turn up.
    pub(super) async fn enter(&self, stats: &TlsStats) -> Option<Place<'_>> {
        let mut waited = false;
        let mut wait = || {
            if !std::mem::replace(&mut waited, true) {
                stats.waited.fetch_add(1, Relaxed);
            }
        };
        // Its own first: in line for all there are then no more of a source than it may have.
        let of_source = self.line.enter(&mut wait).await?;
        let of_all = self.places.all.enter(&mut wait).await?;
        Some(Place { _of_source: of_source, _of_all: of_all })
    }

    /// Whether somebody waits whom this source keeps from a place.
    pub(super) fn is_awaited(&self) -> bool {
        self.line.is_awaited() || self.places.all.is_awaited()
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        let mut sources = self.places.sources.lock().unwrap_or_else(PoisonError::into_inner);
        // The table's, and this one.
        if Arc::strong_count(&self.line) == 2 {
            sources.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn peer(text: &str) -> Peer {
        Peer::Tcp(text.parse().unwrap())
    }

    #[tokio::test]
    async fn a_source_has_its_share_and_leaves_nothing_behind() {
        let (places, stats) = (Places::new(), TlsStats::default());
        let limits = LiveLimits::new(&Limits::default());
        for (text, most) in [("192.0.2.1:1", OF_SOURCE), ("127.0.0.1:1", OF_HOST)] {
            let source = places.source(peer(text), &limits);
            let mut taken = Vec::new();
            for _ in 0..most {
                taken.push(source.enter(&stats).await.unwrap());
            }
            assert_eq!(places.taken(), most);
            assert!(!source.is_awaited());
            let other = places.source(peer("192.0.2.2:1"), &limits);
            drop(other.enter(&stats).await.unwrap());
            let mut further = Box::pin(source.enter(&stats));
            assert!(futures_poll(&mut further).await.is_none(), "{text}");
            assert!(source.is_awaited() && !other.is_awaited());
            taken.pop();
            assert!(further.await.is_some());
            assert!(!source.is_awaited());
        }
        assert_eq!(stats.snapshot().waited, 2);
        assert_eq!(places.taken(), 0);
        assert!(places.sources.lock().unwrap().is_empty());
    }

    /// What it gives at once, if it does.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }

    #[test]
    fn loopback_is_a_source_like_others_where_it_is_not_spared() {
        let places = Places::new();
        let counted = LiveLimits::new(&Limits { spare_loopback: false, ..Limits::default() });
        let spared = LiveLimits::new(&Limits::default());
        let loopback = peer("127.0.0.1:1");
        assert_eq!(places.source(loopback, &spared).key, None);
        assert!(places.source(loopback, &counted).key.is_some());
        assert_eq!(places.source(Peer::Unix, &counted).key, None);
    }
}

//! What all listeners of a service share, and what the connections of one listener share.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::time::Instant;

use crate::datagram::OwnSockets;
use crate::gate::{Gate, Sources};
use crate::limits::LiveLimits;
use crate::pulse::Loops;
use crate::seldom::Seldom;
use crate::stats::{Closed, ListenerSnapshot, ListenerStats, Observer, Snapshot, Stats};
use crate::stream::Peer;
use crate::{Drain, Error, Limits, Listener};
#[cfg(feature = "tls")]
use crate::{TlsCounts, secure::Places};

/// Limits, connection gate, counters and drain of a service: shared by all its listeners. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Service {
    pub(crate) core: Arc<Core>,
    pub(crate) drain: Drain,
}

impl Service {
    /// A service with these limits that ends with this drain.
    pub fn new(limits: Limits, drain: Drain) -> Self {
        let core = Core {
            limits: LiveLimits::new(&limits),
            gate: Gate::default(),
            sources: Sources::default(),
            stats: Stats::default(),
            observer: Observer::default(),
            own: OwnSockets::default(),
            loops: Loops::default(),
            #[cfg(feature = "tls")]
            handshakes: Places::new(),
            born: Instant::now(),
        };
        Self { core: Arc::new(core), drain }
    }

    /// The same service for one listener, with a drain of its own under this one's.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { core: Arc::clone(&self.core), drain: self.drain.child() }
    }

    /// What ends this service.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Swaps the limits while running. Open connections see the new ones at their next wait.
    pub fn set_limits(&self, limits: &Limits) {
        self.core.limits.store(limits);
        self.core.gate.wake();
    }

    /// Waits until the loop of every listener and datagram socket that is served now has answered
    /// from inside: that it is polled, and waits for nothing else meanwhile. Loops at their
    /// connection limit, out of descriptors or in a drain answer too. For watchdogs: a loop that
    /// hangs makes it wait for ever.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ping(&self) {
        self.core.loops.ping().await;
    }

    /// The counters at this moment.
    pub fn stats(&self) -> Snapshot {
        Snapshot {
            active: self.core.gate.open(),
            max_connections: self.core.limits.max_connections(),
            #[cfg(feature = "tls")]
            tls: TlsCounts {
                under_way: self.core.handshakes.taken() as u64,
                ..self.core.stats.tls.snapshot()
            },
            ..self.core.stats.snapshot()
        }
    }

    /// Tells `observer` of each connection that has ended, as an access log needs it. It is called on the
    /// connection's task: it must neither wait nor panic. Only the first call counts.
    pub fn on_close(&self, observer: impl Fn(&Closed<'_>) + Send + Sync + 'static) {
        self.core.observer.set(observer);
    }

    /// The counters of each listener's connections, of those too that have ended.
    pub fn listeners(&self) -> Vec<ListenerSnapshot> {
        self.core.stats.listeners.snapshot()
    }
}

impl Default for Service {
    /// Default limits, and a drain of its own.
    fn default() -> Self {
        Self::new(Limits::default(), Drain::new())
    }
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) limits: LiveLimits,
    pub(crate) gate: Gate,
    pub(crate) sources: Sources,
    pub(crate) stats: Stats,
    pub(crate) observer: Observer,
    pub(crate) own: OwnSockets,
    pub(crate) loops: Loops,
    /// Places for handshakes.
    #[cfg(feature = "tls")]
    pub(crate) handshakes: Places,
    /// Probe stamps count from here.
    pub(crate) born: Instant,
}

impl Core {
    /// Nanoseconds from the service's start, for probe stamps.
    pub(crate) fn stamp(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.born);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The connections of one listener: how the drain reaches them.
///
/// A flag, and the wakers of the waiting. A `CancellationToken` each would cost 200 bytes a
/// connection and a lock per poll; a token for all would be one lock for all.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) core: Arc<Core>,
    pub(crate) drain: Drain,
    pub(crate) listener: Arc<ListenerStats>,
    draining: AtomicBool,
    /// Whether each connection begins with TLS now.
    pub(crate) begins_with_tls: Arc<AtomicBool>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::Port>,
    faults: Mutex<Seldom>,
    wakers: Mutex<Wakers>,
}

#[derive(Debug, Default)]
struct Wakers {
    slots: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Scope {
    pub(crate) fn new(service: &Service, listener: &Listener) -> Self {
        let begins_with_tls = listener.begins_with_tls();
        let counters = &service.core.stats.listeners;
        Self {
            core: Arc::clone(&service.core),
            drain: service.drain.clone(),
            listener: counters.at(listener.local_addr(), Arc::clone(&begins_with_tls)),
            draining: AtomicBool::new(false),
            begins_with_tls,
            #[cfg(feature = "tls")]
            tls: listener.tls.clone(),
            faults: Mutex::default(),
            wakers: Mutex::default(),
        }
    }

    /// Tells every connection that the drain has started, or that its deadline has moved.
    pub(crate) fn start_drain(&self) {
        self.draining.store(true, SeqCst);
        let wakers = {
            let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            wakers.slots.iter().flatten().cloned().collect::<Vec<_>>()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        // The lock in `register` orders it: whoever registers after `start_drain` has looked at the
        // slots sees the flag.
        self.draining.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Logs why a connection failed. What a peer can cause is never more than `debug`.
    pub(crate) fn log(&self, peer: Peer, error: &Error) {
        if error.is_peer_fault() {
            tracing::debug!(%peer, %error, "connection failed");
        } else if let Some(muted) =
            self.faults.lock().unwrap_or_else(PoisonError::into_inner).speak()
        {
            tracing::warn!(%peer, %error, muted, "connection failed on this side");
        }
    }

    /// Keeps `waker` for the drain, in `slot` or in a new one.
    pub(crate) fn register(&self, slot: Option<u32>, waker: &Waker) -> u32 {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slot.or_else(|| wakers.free.pop()).unwrap_or_else(|| {
            wakers.slots.push(None);
            // Bounded by the connection limit, which is far below 2^32 descriptors.
            (wakers.slots.len() - 1) as u32
        });
        wakers.slots[slot as usize] = Some(waker.clone());
        slot
    }

    pub(crate) fn unregister(&self, slot: u32) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.slots[slot as usize] = None;
        wakers.free.push(slot);
    }
}

//! Who may come in: the connection limit that all listeners share, and the limit per source.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use crate::Error;
use crate::limits::LiveLimits;
use crate::service::Core;
use crate::stream::Peer;

/// Counts open connections against the limit.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicUsize,
    /// Connections that are being refused.
    refusing: AtomicUsize,
    /// Listeners that found it full, first come first served.
    waiting: Mutex<VecDeque<Waker>>,
}

impl Gate {
    /// Connections open now, those included that are being refused.
    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst) + self.refusing.load(SeqCst)
    }

    /// Wakes all listeners that found the gate full: the limit has changed, or a listener that may
    /// have been woken for a free place is gone.
    pub(crate) fn wake(&self) {
        self.waiting().drain(..).for_each(Waker::wake);
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, count: &AtomicUsize) {
        count.fetch_sub(1, SeqCst);
        // One place, one listener: were all woken, whoever came first would always do so again.
        if let Some(next) = self.waiting().pop_front() {
            next.wake();
        }
    }
}

/// One connection's place among all. Taken before accepting, so that a connection over the limit
/// stays in the kernel's queue; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Core>);

impl Permit {
    /// Takes a place. `None` puts the task at the end of the line for the next free one.
    ///
    /// A place must not be held over a wait for a connection: with as many idle listeners as places
    /// nobody could come in. So a listener takes one, looks into its queue, and gives it back, which
    /// wakes the next in line.
    pub(crate) fn poll(core: &Arc<Core>, cx: &mut Context<'_>) -> Option<Self> {
        // Held over both steps: a place that is freed in between finds us in line.
        let mut waiting = core.gate.waiting();
        waiting.retain(|waker| !waker.will_wake(cx.waker()));
        let permit = Self::now(core);
        if permit.is_none() {
            waiting.push_back(cx.waker().clone());
        }
        permit
    }

    /// Takes a place if there is one now.
    pub(crate) fn now(core: &Arc<Core>) -> Option<Self> {
        let limit = core.limits.max_connections();
        let open = &core.gate.open;
        let entered = open.try_update(SeqCst, SeqCst, |open| (open < limit).then_some(open + 1));
        entered.is_ok().then(|| Self(Arc::clone(core)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.gate.leave(&self.0.gate.open);
    }
}

/// Connections that are refused at once: more wait in the kernel's queue. Half of the descriptors that a daemon
/// keeps spare; as each has a second at most, 32 silent ones a second are refused, and thousands of others.
const MAX_REFUSING: usize = 32;

/// A place for a connection that is refused, of which there are few.
#[derive(Debug)]
pub(crate) struct Refusal(Arc<Core>);

impl Refusal {
    /// Whether one more connection is to be accepted and refused. Where not, a place that is given back
    /// wakes those in line as well.
    pub(crate) fn is_due(core: &Core) -> bool {
        core.limits.refuses() && core.gate.refusing.load(SeqCst) < MAX_REFUSING
    }

    /// Takes a place for one that was. Two listeners may do so at once for the last place, and both get one.
    pub(crate) fn take(core: &Arc<Core>) -> Self {
        core.gate.refusing.fetch_add(1, SeqCst);
        Self(Arc::clone(core))
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.0.gate.leave(&self.0.gate.refusing);
    }
}

/// How many connections each source has open. Its size is bounded by the connection limit, and its
/// hash is keyed (SipHash), so nobody can choose addresses that collide.
#[derive(Debug, Default)]
pub(crate) struct Sources(Mutex<HashMap<IpAddr, usize>>);

impl Sources {
    /// Counts `peer` for its source: `false` where it has none that is counted, an error when the
    /// source is at its limit.
    pub(crate) fn enter(&self, peer: Peer, limits: &LiveLimits) -> Result<bool, Error> {
        let Some(source) = peer.source() else { return Ok(false) };
        let (most, spare_loopback) = limits.per_source();
        if source.is_loopback() && spare_loopback {
            return Ok(false);
        }
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_insert(0);
        if *count >= most {
            return Err(Error::SourceLimit);
        }
        *count += 1;
        Ok(true)
    }

    /// Takes back what [`enter`](Self::enter) counted.
    pub(crate) fn leave(&self, peer: Peer) {
        let Some(source) = peer.source() else { return };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::task::Waker;

    use super::*;
    use crate::{Drain, Limits, Service};

    fn core(limits: Limits) -> Arc<Core> {
        Arc::clone(&Service::new(limits, Drain::new()).core)
    }

    #[test]
    fn the_limit_holds_and_a_place_comes_back() {
        let core =
            core(Limits { max_connections: NonZeroUsize::new(1).unwrap(), ..Limits::default() });
        let cx = &mut Context::from_waker(Waker::noop());
        let first = Permit::poll(&core, cx);
        assert!(first.is_some() && Permit::poll(&core, cx).is_none());
        drop(first);
        assert!(Permit::poll(&core, cx).is_some());
        assert_eq!(core.gate.open(), 0);
    }

    /// Fault 18: neither ports nor addresses within an IPv6 /64 make a new source.
    #[test]
    fn sources_are_prefixes_without_ports() {
        let of = |addr: &str| Peer::Tcp(addr.parse().unwrap()).source();
        assert_eq!(of("192.0.2.1:1"), of("192.0.2.1:2"));
        assert_eq!(of("[::ffff:192.0.2.1]:1"), of("192.0.2.1:2"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:ffff:ffff:ffff]:9"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(Peer::Unix.source(), None);
    }

    #[test]
    fn loopback_is_spared_unless_asked() {
        let limits = Limits { max_per_source: NonZeroUsize::MIN, ..Limits::default() };
        let loopback = Peer::Tcp("127.0.0.1:9".parse().unwrap());
        let sources = Sources::default();
        assert!(!sources.enter(loopback, &LiveLimits::new(&limits)).unwrap());
        let counted = LiveLimits::new(&Limits { spare_loopback: false, ..limits });
        assert!(sources.enter(loopback, &counted).unwrap());
        assert!(sources.enter(loopback, &counted).is_err());
        sources.leave(loopback);
        assert!(sources.0.lock().unwrap().is_empty());
    }
}

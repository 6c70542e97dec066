//! The counters of each listener's connections.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Ended, Ending};
use crate::LocalAddr;

/// What a connection is about at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing that decides the mode has come, or a handler of one's own has not received yet.
    Undecided,
    Raw,
    Framed,
    /// Its handler is done: what is unwritten goes out, then FIN, then the wait for the peer's end.
    Closing,
}

/// How many connections are open, by what they are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Open {
    /// Nothing that decides the mode has come yet.
    pub undecided: u64,
    /// Raw bytes.
    pub raw: u64,
    /// Frames.
    pub framed: u64,
    /// At their end: the rest goes out, then FIN, then the wait for the peer's end.
    pub closing: u64,
}

/// The counters of one listener's connections at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerSnapshot {
    /// The address it is bound to. `None` stands for those that ended long ago, all together.
    pub address: Option<LocalAddr>,
    /// Whether each of its connections begins with a handshake of TLS now.
    pub tls: bool,
    /// Connections accepted since the service's start.
    pub accepted: u64,
    /// Connections open now.
    pub open: Open,
    /// How they ended.
    pub ended: Ended,
}

/// The live counters of one listener.
#[derive(Debug)]
pub(crate) struct ListenerStats {
    address: LocalAddr,
    /// What its policy says now: a listener that is served may change that.
    tls: Mutex<Arc<AtomicBool>>,
    accepted: AtomicU64,
    open: [AtomicU64; 4],
    ended: [AtomicU64; 5],
}

impl ListenerStats {
    fn new(address: LocalAddr, tls: Arc<AtomicBool>) -> Self {
        Self {
            address,
            tls: Mutex::new(tls),
            accepted: AtomicU64::new(0),
            open: Default::default(),
            ended: Default::default(),
        }
    }

    pub(crate) fn address(&self) -> &LocalAddr {
        &self.address
    }

    fn policy(&self) -> MutexGuard<'_, Arc<AtomicBool>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.open[State::Undecided as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn moved(&self, from: State, to: State) {
        self.open[to as usize].fetch_add(1, Relaxed);
        self.left(from);
    }

    /// A connection in this state is gone. How it ended is told by [`ended`](Self::ended).
    pub(crate) fn left(&self, state: State) {
        self.open[state as usize].fetch_sub(1, Relaxed);
    }

    pub(crate) fn ended(&self, ending: Ending) {
        self.ended[ending as usize].fetch_add(1, Relaxed);
    }

    fn snapshot(&self) -> ListenerSnapshot {
        let open = |state: State| self.open[state as usize].load(Relaxed);
        let ended = |ending: Ending| self.ended[ending as usize].load(Relaxed);
        ListenerSnapshot {
            address: self.address.clone().into(),
            tls: self.policy().load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            open: Open {
                undecided: open(State::Undecided),
                raw: open(State::Raw),
                framed: open(State::Framed),
                closing: open(State::Closing),
            },
            ended: Ended {
                completed: ended(Ending::Completed),
                quiet: ended(Ending::Quiet),
                forced: ended(Ending::Forced),
                failed: ended(Ending::Failed),
                panicked: ended(Ending::Panicked),
            },
        }
    }
}

/// How many listeners that have ended are remembered each for itself.
const ENDED: usize = 64;

/// All listeners that a service has had. One that comes again at the same address goes on counting, unless
/// more than [`ENDED`] others have ended since it was new: those are counted together, so that reloads which
/// name ever new addresses take no memory.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    each: Vec<Arc<ListenerStats>>,
    /// The sums of those that are in `each` no more.
    others: Option<ListenerSnapshot>,
}

impl Listeners {
    /// The counters of the listener at `address`, which has TLS from the first byte on while `tls` says so.
    pub(crate) fn at(&self, address: &LocalAddr, tls: Arc<AtomicBool>) -> Arc<ListenerStats> {
        let mut known = self.lock();
        if let Some(again) = known.each.iter().find(|known| known.address == *address) {
            *again.policy() = tls;
            return Arc::clone(again);
        }
        known.fold_ended();
        let new = Arc::new(ListenerStats::new(address.clone(), tls));
        known.each.push(Arc::clone(&new));
        new
    }

    pub(crate) fn snapshot(&self) -> Vec<ListenerSnapshot> {
        let known = self.lock();
        known.each.iter().map(|it| it.snapshot()).chain(known.others.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Counts the oldest of those together that neither a listener nor a connection uses any more.
    fn fold_ended(&mut self) {
        let ended = self.each.iter_mut().filter_map(Arc::get_mut).count();
        let mut surplus = ended.saturating_sub(ENDED);
        self.each.retain_mut(|listener| {
            let Some(ended) = Arc::get_mut(listener).filter(|_| surplus > 0) else { return true };
            surplus -= 1;
            let it = ended.snapshot();
            let others = self.others.get_or_insert_default();
            others.accepted += it.accepted;
            others.ended = others.ended.plus(it.ended);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_comes_again_goes_on_counting() {
        let listeners = Listeners::default();
        let at = |address: &LocalAddr| listeners.at(address, Arc::default());
        at(&LocalAddr::Memory).accepted();
        at(&LocalAddr::Tcp(([127, 0, 0, 1], 7).into())).accepted();
        let again = at(&LocalAddr::Memory);
        again.accepted();
        again.moved(State::Undecided, State::Raw);
        again.moved(State::Raw, State::Closing);
        again.left(State::Closing);
        again.ended(Ending::Quiet);
        let [memory, tcp] = &listeners.snapshot()[..] else { panic!("two listeners") };
        assert_eq!((memory.accepted, tcp.accepted), (2, 1));
        assert_eq!(memory.open, Open { undecided: 1, ..Open::default() });
        assert_eq!(memory.ended, Ended { quiet: 1, ..Ended::default() });
    }

    /// Reloads that name ever new addresses take no memory, and no count is lost.
    #[test]
    fn listeners_that_ended_long_ago_are_counted_together() {
        let listeners = Listeners::default();
        let at =
            |port| listeners.at(&LocalAddr::Tcp(([127, 0, 0, 1], port).into()), Arc::default());
        let used = at(1);
        for port in 2..1000 {
            let listener = at(port);
            listener.accepted();
            listener.left(State::Undecided);
            listener.ended(Ending::Completed);
        }
        used.accepted();
        let all = listeners.snapshot();
        // The one in use, those that are remembered, the newest, and the sum of the others.
        assert_eq!(all.len(), 1 + ENDED + 1 + 1);
        assert_eq!(all[0].address.as_ref(), Some(used.address()));
        let others = all.last().unwrap();
        assert_eq!((others.address.as_ref(), others.open), (None, Open::default()));
        assert_eq!(others.accepted, 998 - ENDED as u64 - 1);
        assert_eq!(all.iter().map(|it| it.accepted).sum::<u64>(), 999);
        assert_eq!(all.iter().map(|it| it.ended.completed).sum::<u64>(), 998);
    }
}

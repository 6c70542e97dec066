//! The counters of each listener's connections.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerSnapshot {
    /// The address it is bound to.
    pub address: LocalAddr,
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
    accepted: AtomicU64,
    open: [AtomicU64; 4],
    ended: [AtomicU64; 5],
}

impl ListenerStats {
    fn new(address: LocalAddr) -> Self {
        Self {
            address,
            accepted: AtomicU64::new(0),
            open: Default::default(),
            ended: Default::default(),
        }
    }

    pub(crate) fn address(&self) -> &LocalAddr {
        &self.address
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
            address: self.address.clone(),
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

/// All listeners that a service has had. One that comes again at the same address goes on counting.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<Vec<Arc<ListenerStats>>>);

impl Listeners {
    /// The counters of the listener at `address`.
    pub(crate) fn at(&self, address: &LocalAddr) -> Arc<ListenerStats> {
        let mut listeners = self.lock();
        if let Some(known) = listeners.iter().find(|known| known.address == *address) {
            return Arc::clone(known);
        }
        let new = Arc::new(ListenerStats::new(address.clone()));
        listeners.push(Arc::clone(&new));
        new
    }

    pub(crate) fn snapshot(&self) -> Vec<ListenerSnapshot> {
        self.lock().iter().map(|listener| listener.snapshot()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<ListenerStats>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_comes_again_goes_on_counting() {
        let listeners = Listeners::default();
        listeners.at(&LocalAddr::Memory).accepted();
        listeners.at(&LocalAddr::Tcp(([127, 0, 0, 1], 7).into())).accepted();
        let again = listeners.at(&LocalAddr::Memory);
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
}

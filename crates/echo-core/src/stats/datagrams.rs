//! The counters of datagrams.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a datagram got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It was longer than what is answered.
    Truncated,
    /// It came from a port that is refused, or from one of ours.
    Port,
    /// It came from, or was sent to, an address that is no single host's, or is not what it says.
    Address,
    /// Its source has used up its rate.
    Rate,
    /// It may be in a loop between two servers, which ends without it.
    Loop,
    /// It is an answer itself.
    ProbeReply,
    /// Its sender has no name to answer to.
    Unnamed,
    /// The answer would have had to wait.
    Blocked,
    /// The answer could not be sent.
    Failed,
}

const REASONS: usize = 9;

/// What became of the datagrams of a service. Each that was received is in exactly one of `answered`
/// and the reasons for which it was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagrams {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams sent back.
    pub answered: u64,
    /// Longer than what is answered: Unix datagrams over
    /// [`max_datagram`](crate::Limits::max_datagram).
    pub truncated: u64,
    /// From a port that is refused, or from one of the service's own.
    pub refused_port: u64,
    /// From a broadcast, multicast, reserved or unspecified address, from a loopback address by way of
    /// another interface, or sent to a broadcast or multicast address. From a Unix path that is relative,
    /// leads through a link, is no socket, another user's or one of the service's own; from any path
    /// where openat2(2) or /proc is missing.
    pub refused_address: u64,
    /// Over the rate of their source.
    pub over_rate: u64,
    /// One after as many answered ones as the rate allows at once, from a UDP port below 32768, without a
    /// pause of a second: it may be in a loop between two servers, which ends without it.
    pub loop_guard: u64,
    /// PROBE datagrams that are answers themselves.
    pub probe_replies: u64,
    /// From a Unix socket that is not bound, so that nothing can be sent back.
    pub unnamed: u64,
    /// Whose answer did not fit into a send buffer, or the Unix peer's queue.
    pub blocked: u64,
    /// Whose answer the system did not take for another reason.
    pub failed: u64,
    /// Calls to receive that failed.
    pub receive_errors: u64,
    /// Datagrams whose source found no place in the table of rates, and shared one with others.
    pub rates_shared: u64,
    /// Batches that were full, so that others could run before more was received.
    pub batches_full: u64,
    /// Sockets whose queue was not empty at the end of what a drain answers.
    pub left_in_queue: u64,
    /// Datagrams that the kernel dropped because a socket's queue was full: counted when the queue is
    /// found empty, and when the socket is closed, if no datagram tells before.
    pub kernel_drops: u64,
}

impl Datagrams {
    /// Datagrams that were received and not answered.
    pub const fn unanswered(&self) -> u64 {
        self.truncated
            + self.refused_port
            + self.refused_address
            + self.over_rate
            + self.loop_guard
            + self.probe_replies
            + self.unnamed
            + self.blocked
            + self.failed
    }
}

/// What became of one batch.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) received: u32,
    pub(crate) answered: u32,
    unanswered: [u32; REASONS],
    any_unanswered: bool,
}

impl Tally {
    pub(crate) fn unanswered(&mut self, why: Unanswered, count: usize) {
        // At most a batch.
        self.unanswered[why as usize] += count as u32;
        self.any_unanswered = true;
    }
}

#[derive(Debug, Default)]
pub(crate) struct DatagramStats {
    received: AtomicU64,
    answered: AtomicU64,
    unanswered: [AtomicU64; REASONS],
    pub(crate) receive_errors: AtomicU64,
    pub(crate) rates_shared: AtomicU64,
    pub(crate) batches_full: AtomicU64,
    pub(crate) left_in_queue: AtomicU64,
    pub(crate) kernel_drops: AtomicU64,
}

impl DatagramStats {
    pub(crate) fn add(&self, tally: &Tally) {
        self.received.fetch_add(tally.received.into(), Relaxed);
        self.answered.fetch_add(tally.answered.into(), Relaxed);
        if tally.any_unanswered {
            for (counter, count) in self.unanswered.iter().zip(tally.unanswered) {
                counter.fetch_add(count.into(), Relaxed);
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Datagrams {
        let unanswered = |why: Unanswered| self.unanswered[why as usize].load(Relaxed);
        Datagrams {
            received: self.received.load(Relaxed),
            answered: self.answered.load(Relaxed),
            truncated: unanswered(Unanswered::Truncated),
            refused_port: unanswered(Unanswered::Port),
            refused_address: unanswered(Unanswered::Address),
            over_rate: unanswered(Unanswered::Rate),
            loop_guard: unanswered(Unanswered::Loop),
            probe_replies: unanswered(Unanswered::ProbeReply),
            unnamed: unanswered(Unanswered::Unnamed),
            blocked: unanswered(Unanswered::Blocked),
            failed: unanswered(Unanswered::Failed),
            receive_errors: self.receive_errors.load(Relaxed),
            rates_shared: self.rates_shared.load(Relaxed),
            batches_full: self.batches_full.load(Relaxed),
            left_in_queue: self.left_in_queue.load(Relaxed),
            kernel_drops: self.kernel_drops.load(Relaxed),
        }
    }
}

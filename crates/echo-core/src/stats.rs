//! Live counters, exact at any moment and all but free: what is counted per turn goes to the
//! worker's own cache line.

mod closed;
mod datagrams;
mod listeners;
mod service_time;
mod tls;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::Error;
use crate::listener::AcceptFault;

pub use closed::Closed;
pub(crate) use closed::Observer;
pub use datagrams::Datagrams;
pub(crate) use datagrams::{DatagramStats, Tally, Unanswered};
pub use listeners::{ListenerSnapshot, Open};
pub(crate) use listeners::{ListenerStats, Listeners, State};
pub use service_time::ServiceTime;
pub(crate) use service_time::{Histogram, Turns, is_due};
pub(crate) use tls::TlsStats;
pub use tls::{HandshakeFault, TlsCounts};

/// How a connection ended. Every connection ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// Both sides closed in order.
    Completed,
    /// We closed in order, the peer stayed silent and never closed.
    Quiet,
    /// We cut it: at the drain's deadline, or while the peer went on sending past our FIN.
    Forced,
    /// The peer or the path failed, or broke a limit or the protocol.
    Failed,
    /// The handler panicked.
    Panicked,
}

/// `completed` and so on.
impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Quiet => "quiet",
            Self::Forced => "forced",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
        })
    }
}

/// How many connections ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Both sides closed in order.
    pub completed: u64,
    /// We closed in order, the peer stayed silent and never closed.
    pub quiet: u64,
    /// We cut it: at the drain's deadline, or while the peer went on sending past our FIN.
    pub forced: u64,
    /// The peer or the path failed, or broke a limit or the protocol.
    pub failed: u64,
    /// The handler panicked.
    pub panicked: u64,
}

impl Ended {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.completed + self.quiet + self.forced + self.failed + self.panicked
    }

    pub(crate) fn add(&mut self, ending: Ending) {
        *match ending {
            Ending::Completed => &mut self.completed,
            Ending::Quiet => &mut self.quiet,
            Ending::Forced => &mut self.forced,
            Ending::Failed => &mut self.failed,
            Ending::Panicked => &mut self.panicked,
        } += 1;
    }

    /// The sums of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            completed: self.completed + other.completed,
            quiet: self.quiet + other.quiet,
            forced: self.forced + other.forced,
            failed: self.failed + other.failed,
            panicked: self.panicked + other.panicked,
        }
    }
}

/// All counters of a service at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Connections open now.
    pub active: usize,
    /// The limit on them.
    pub max_connections: usize,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// How they ended.
    pub ended: Ended,
    /// Frames answered, of every kind.
    pub frames: u64,
    /// Bytes read, from connections and in datagrams.
    pub bytes_in: u64,
    /// Bytes written, to connections and in datagrams.
    pub bytes_out: u64,
    /// How often a listener had to wait because the service was at its connection limit.
    pub gate_full: u64,
    /// Connections refused because the service was at its connection limit.
    pub busy: u64,
    /// Connections refused because their source was at its limit.
    pub source_refused: u64,
    /// Connections in a listener's queue that were reset by a drain.
    pub reset_in_queue: u64,
    /// Failed accepts that concern one connection only.
    pub accept_connection: u64,
    /// Failed accepts for want of descriptors or memory.
    pub accept_exhausted: u64,
    /// Failed accepts of a listener that is broken.
    pub accept_listener: u64,
    /// Drains that have begun, each of one listener.
    pub drains: u64,
    /// ECHO and PROBE frames over the limit.
    pub too_long: u64,
    /// Other control frames over 4 KiB.
    pub control_too_long: u64,
    /// Frames of a kind that has no place there.
    pub unexpected_kind: u64,
    /// Control frames that could not be read.
    pub malformed: u64,
    /// Frames from peers that had not authenticated where they must, and attempts that failed.
    pub denied: u64,
    /// Frames of users who may not send them.
    pub forbidden: u64,
    /// Connections that were not authenticated in time.
    pub login_timeouts: u64,
    /// Streams that ended inside a frame.
    pub truncated: u64,
    /// Connections closed after the idle timeout.
    pub idle: u64,
    /// Frames that did not arrive in time.
    pub frame_timeouts: u64,
    /// Peers that did not read in time.
    pub write_timeouts: u64,
    /// Peers that did not close in time, after us.
    pub linger_timeouts: u64,
    /// Connections cut at a drain's deadline, or by a hard stop.
    pub drain_timeouts: u64,
    /// Connections whose socket held more in a drain than the last pass takes.
    pub last_pass_full: u64,
    /// Times that replies had to wait since the peer did not read.
    pub writes_blocked: u64,
    /// Turns that were ended so that others could run.
    pub turns_full: u64,
    /// Times that a worker did without a pipe, which makes bulk slower.
    pub pipes_exhausted: u64,
    /// What became of handshakes, and of streams under TLS.
    pub tls: TlsCounts,
    /// What became of datagrams.
    pub datagrams: Datagrams,
    /// How long answers took on connections.
    pub service_time: ServiceTime,
    /// How long batches of datagrams took.
    pub datagram_service_time: ServiceTime,
}

/// Bytes and frames, counted by many workers at once. A line of its own for each: 128 bytes, since
/// processors fetch cache lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Traffic {
    frames: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    writes_blocked: AtomicU64,
    turns_full: AtomicU64,
}

/// More than the cores of most machines; beyond that two workers share a line, which is slower but
/// not wrong.
const SHARDS: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Stats {
    traffic: [Traffic; SHARDS],
    pub(crate) gate_full: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) source_refused: AtomicU64,
    pub(crate) reset_in_queue: AtomicU64,
    accept_connection: AtomicU64,
    accept_exhausted: AtomicU64,
    accept_listener: AtomicU64,
    pub(crate) drains: AtomicU64,
    too_long: AtomicU64,
    control_too_long: AtomicU64,
    unexpected_kind: AtomicU64,
    malformed: AtomicU64,
    denied: AtomicU64,
    forbidden: AtomicU64,
    login_timeouts: AtomicU64,
    truncated: AtomicU64,
    idle: AtomicU64,
    frame_timeouts: AtomicU64,
    write_timeouts: AtomicU64,
    pub(crate) linger_timeouts: AtomicU64,
    pub(crate) drain_timeouts: AtomicU64,
    pub(crate) last_pass_full: AtomicU64,
    pub(crate) pipes_exhausted: AtomicU64,
    pub(crate) tls: TlsStats,
    pub(crate) datagrams: DatagramStats,
    pub(crate) listeners: Listeners,
    pub(crate) service_time: Histogram,
    pub(crate) datagram_service_time: Histogram,
}

thread_local! {
    /// This thread's line, or `SHARDS` before it has one.
    static SHARD: Cell<usize> = const { Cell::new(SHARDS) };
}

#[cold]
fn take_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let shard = NEXT.fetch_add(1, Relaxed) % SHARDS;
    SHARD.set(shard);
    shard
}

impl Stats {
    #[inline(always)]
    fn shard(&self) -> &Traffic {
        self.traffic.get(SHARD.get()).unwrap_or_else(|| &self.traffic[take_shard()])
    }

    #[inline]
    pub(crate) fn read(&self, bytes: usize) {
        self.shard().bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    #[inline]
    pub(crate) fn wrote(&self, bytes: usize) {
        self.shard().bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    #[inline]
    pub(crate) fn answered(&self, frames: u64) {
        self.shard().frames.fetch_add(frames, Relaxed);
    }

    pub(crate) fn write_blocked(&self) {
        self.shard().writes_blocked.fetch_add(1, Relaxed);
    }

    pub(crate) fn turn_full(&self) {
        self.shard().turns_full.fetch_add(1, Relaxed);
    }

    pub(crate) fn accept_failed(&self, fault: AcceptFault) {
        match fault {
            AcceptFault::Connection => self.accept_connection.fetch_add(1, Relaxed),
            AcceptFault::Exhausted => self.accept_exhausted.fetch_add(1, Relaxed),
            // Ends `serve`, whose error says so.
            AcceptFault::Listener => self.accept_listener.fetch_add(1, Relaxed),
        };
    }

    /// Counts what went wrong on a connection, whether or not it ends by that.
    pub(crate) fn wrong(&self, error: &Error) {
        let counter = match error {
            Error::FrameTooLong { .. } => &self.too_long,
            Error::ControlTooLong { .. } => &self.control_too_long,
            Error::UnexpectedKind(_) => &self.unexpected_kind,
            Error::Malformed(_) => &self.malformed,
            Error::Denied => &self.denied,
            Error::Forbidden => &self.forbidden,
            Error::LoginTimedOut => &self.login_timeouts,
            Error::Truncated => &self.truncated,
            Error::Idle => &self.idle,
            Error::FrameTimedOut => &self.frame_timeouts,
            Error::WriteTimedOut => &self.write_timeouts,
            Error::SourceLimit => &self.source_refused,
            Error::DrainDeadline => &self.drain_timeouts,
            Error::Handshake(fault) => self.tls.failed(*fault),
            Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => &self.tls.broken,
            // Busy ones were counted when they were accepted.
            Error::Busy | Error::Unfinished | Error::Handler(_) | Error::Io(_) => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// All of them, but for what others know.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let sum = |field: fn(&Traffic) -> &AtomicU64| {
            self.traffic.iter().map(|shard| field(shard).load(Relaxed)).sum()
        };
        let listeners = self.listeners.snapshot();
        Snapshot {
            active: 0,
            max_connections: 0,
            accepted: listeners.iter().map(|listener| listener.accepted).sum(),
            ended: listeners.iter().fold(Ended::default(), |all, it| all.plus(it.ended)),
            frames: sum(|shard| &shard.frames),
            bytes_in: sum(|shard| &shard.bytes_in),
            bytes_out: sum(|shard| &shard.bytes_out),
            gate_full: self.gate_full.load(Relaxed),
            busy: self.busy.load(Relaxed),
            source_refused: self.source_refused.load(Relaxed),
            reset_in_queue: self.reset_in_queue.load(Relaxed),
            accept_connection: self.accept_connection.load(Relaxed),
            accept_exhausted: self.accept_exhausted.load(Relaxed),
            accept_listener: self.accept_listener.load(Relaxed),
            drains: self.drains.load(Relaxed),
            too_long: self.too_long.load(Relaxed),
            control_too_long: self.control_too_long.load(Relaxed),
            unexpected_kind: self.unexpected_kind.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            denied: self.denied.load(Relaxed),
            forbidden: self.forbidden.load(Relaxed),
            login_timeouts: self.login_timeouts.load(Relaxed),
            truncated: self.truncated.load(Relaxed),
            idle: self.idle.load(Relaxed),
            frame_timeouts: self.frame_timeouts.load(Relaxed),
            write_timeouts: self.write_timeouts.load(Relaxed),
            linger_timeouts: self.linger_timeouts.load(Relaxed),
            drain_timeouts: self.drain_timeouts.load(Relaxed),
            last_pass_full: self.last_pass_full.load(Relaxed),
            writes_blocked: sum(|shard| &shard.writes_blocked),
            turns_full: sum(|shard| &shard.turns_full),
            pipes_exhausted: self.pipes_exhausted.load(Relaxed),
            tls: self.tls.snapshot(),
            datagrams: self.datagrams.snapshot(),
            service_time: self.service_time.snapshot(),
            datagram_service_time: self.datagram_service_time.snapshot(),
        }
    }
}

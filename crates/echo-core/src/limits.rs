//! The bound on every resource that a peer can use. There is no "unlimited".

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::datagram::{PortRanges, PortSet};

/// What [`Limits::max_datagram`] can be: a worker holds one such datagram.
pub const MAX_DATAGRAM: u32 = 16 << 20;

/// What one service grants its peers. `Limits { max_frame: 1 << 16, ..Limits::default() }` changes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once, over all listeners (10,000). At the limit the kernel's queue
    /// holds. Keep it below `RLIMIT_NOFILE` minus a reserve.
    pub max_connections: NonZeroUsize,
    /// Whether connections beyond that are accepted and refused (false), instead of waiting in the kernel's
    /// queue: see [`Handler::turn_away`](crate::Handler::turn_away).
    pub refuse: bool,
    /// Connections open at once from one source: an IPv4 address or an IPv6 /64 (1,000).
    pub max_per_source: NonZeroUsize,
    /// Whether `max_per_source` spares loopback peers (true): a local proxy is one source.
    /// Unix sockets have no source and are never counted.
    pub spare_loopback: bool,
    /// The longest payload of a frame (1 MiB; at most [`MAX_PAYLOAD_LEN`](crate::MAX_PAYLOAD_LEN)).
    /// It costs no memory in [`Echo`](crate::Echo), where payloads stream through. A handler with
    /// [`recv`](crate::Connection::recv) has each connection hold up to a frame of this length, in a block of up to
    /// twice its size, and a peer may let it wait: such a service sets it, and
    /// [`max_connections`](Self::max_connections), by the memory there is.
    pub max_frame: u32,
    /// How long a connection may stay silent between frames (10 min).
    pub idle_timeout: Duration,
    /// How long a frame may take to arrive, plus its declared bytes at [`min_rate`](Self::min_rate)
    /// (10 s).
    pub frame_timeout: Duration,
    /// How long the peer may take to read, plus the unwritten bytes at
    /// [`min_rate`](Self::min_rate) (10 s).
    pub write_timeout: Duration,
    /// The slowest transfer that is not a stall, in bytes per second (1 KiB/s).
    pub min_rate: NonZeroU32,
    /// How many datagrams a second one source may send, and as many at once (10,000): an IPv4 address
    /// or an IPv6 /64, loopback too. What is over it is dropped. A listener may have
    /// [a rate of its own](crate::DatagramEcho::rate).
    pub udp_rate: NonZeroU32,
    /// Source ports of UDP that are not answered (0-1023): behind them are services that answer what
    /// they do not know.
    pub udp_refuse_ports: PortRanges,
    /// The longest Unix datagram that is answered (64 KiB; at most 16 MiB). UDP has a limit of its own
    /// just below that.
    pub max_datagram: u32,
    /// How long a closed connection is read and discarded for, so that the peer gets its last
    /// replies (5 s).
    pub linger: Duration,
    /// How long what is open has when the service drains (30 s): after
    /// [`serve_until`](crate::serve_until)'s stop, and when a listener has failed. Who calls
    /// [`Drain::start`](crate::Drain::start) says how long.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: const { NonZeroUsize::new(10_000).unwrap() },
            refuse: false,
            max_per_source: const { NonZeroUsize::new(1_000).unwrap() },
            spare_loopback: true,
            max_frame: 1 << 20,
            idle_timeout: Duration::from_secs(600),
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            min_rate: const { NonZeroU32::new(1 << 10).unwrap() },
            udp_rate: const { NonZeroU32::new(10_000).unwrap() },
            udp_refuse_ports: PortRanges::privileged(),
            max_datagram: 64 << 10,
            linger: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// [`Limits`] that can be swapped while connections read them, all at once: what is read together is of one
/// set, and nobody who has seen the new one sees the old one again. A read is a few loads and no lock, and
/// waits for no swap that is under way: that one fills the set that is not in force.
#[derive(Debug)]
pub(crate) struct LiveLimits {
    /// How often they were swapped. The last bit says which set is in force.
    swaps: AtomicU32,
    sets: [Set; 2],
    swapping: Mutex<()>,
}

#[derive(Debug, Default)]
struct Set {
    max_connections: AtomicUsize,
    refuse: AtomicBool,
    max_per_source: AtomicUsize,
    spare_loopback: AtomicBool,
    max_frame: AtomicU32,
    idle_ms: AtomicU64,
    frame_ms: AtomicU64,
    write_ms: AtomicU64,
    min_rate: AtomicU32,
    udp_rate: AtomicU32,
    udp_refuse_ports: PortSet,
    max_datagram: AtomicU32,
    linger_ms: AtomicU64,
    drain_ms: AtomicU64,
}

impl Set {
    fn store(&self, limits: &Limits) {
        self.max_connections.store(limits.max_connections.get(), Relaxed);
        self.refuse.store(limits.refuse, Relaxed);
        self.max_per_source.store(limits.max_per_source.get(), Relaxed);
        self.spare_loopback.store(limits.spare_loopback, Relaxed);
        self.max_frame.store(limits.max_frame.min(crate::frame::MAX_PAYLOAD_LEN), Relaxed);
        self.idle_ms.store(millis(limits.idle_timeout), Relaxed);
        self.frame_ms.store(millis(limits.frame_timeout), Relaxed);
        self.write_ms.store(millis(limits.write_timeout), Relaxed);
        self.min_rate.store(limits.min_rate.get(), Relaxed);
        self.udp_rate.store(limits.udp_rate.get(), Relaxed);
        self.udp_refuse_ports.store(&limits.udp_refuse_ports);
        self.max_datagram.store(limits.max_datagram.clamp(1, MAX_DATAGRAM), Relaxed);
        self.linger_ms.store(millis(limits.linger), Relaxed);
        self.drain_ms.store(millis(limits.drain_timeout), Relaxed);
    }

    /// How long `bytes` may take, beside a base time.
    fn at_min_rate(&self, base_ms: &AtomicU64, bytes: u32) -> Duration {
        // Never 0 in a set in force; one that is read while it is filled is read again.
        let rate = u64::from(self.min_rate.load(Relaxed)).max(1);
        Duration::from_millis(base_ms.load(Relaxed) + u64::from(bytes) * 1000 / rate)
    }
}

impl LiveLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        let live =
            Self { swaps: AtomicU32::new(0), sets: Default::default(), swapping: Mutex::new(()) };
        live.sets[0].store(limits);
        live
    }

    pub(crate) fn store(&self, limits: &Limits) {
        let _one_at_a_time = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.swaps.load(Relaxed).wrapping_add(1);
        // Who still reads this set and sees any of what is stored now sees the last swap after it too.
        fence(Release);
        self.set(next).store(limits);
        self.swaps.store(next, Release);
    }

    /// How often the limits were swapped: what was computed at the same number still holds.
    #[inline]
    pub(crate) fn swaps(&self) -> u32 {
        self.swaps.load(Acquire)
    }

    #[inline]
    fn set(&self, swaps: u32) -> &Set {
        &self.sets[(swaps & 1) as usize]
    }

    /// Reads from the set in force: again where it was swapped meanwhile, since it may be filled anew.
    #[inline]
    fn read<T>(&self, of: impl Fn(&Set) -> T) -> T {
        loop {
            let swaps = self.swaps();
            let value = of(self.set(swaps));
            fence(Acquire);
            if self.swaps.load(Relaxed) == swaps {
                return value;
            }
        }
    }

    pub(crate) fn max_connections(&self) -> usize {
        self.read(|set| set.max_connections.load(Relaxed))
    }

    pub(crate) fn refuses(&self) -> bool {
        self.read(|set| set.refuse.load(Relaxed))
    }

    /// Connections of one source, and whether loopback is spared.
    pub(crate) fn per_source(&self) -> (usize, bool) {
        self.read(|set| (set.max_per_source.load(Relaxed), set.spare_loopback.load(Relaxed)))
    }

    #[inline]
    pub(crate) fn max_frame(&self) -> u32 {
        self.read(|set| set.max_frame.load(Relaxed))
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.read(|set| set.idle_ms.load(Relaxed)))
    }

    /// How long a frame with `declared` bytes may take.
    pub(crate) fn frame(&self, declared: u32) -> Duration {
        self.read(|set| set.at_min_rate(&set.frame_ms, declared))
    }

    /// How long the peer may take to read `unwritten` bytes.
    pub(crate) fn write(&self, unwritten: u32) -> Duration {
        self.read(|set| set.at_min_rate(&set.write_ms, unwritten))
    }

    pub(crate) fn udp_rate(&self) -> NonZeroU32 {
        let rate = self.read(|set| set.udp_rate.load(Relaxed));
        NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN)
    }

    /// The ports in force now. A batch of datagrams is judged by them even where they are swapped meanwhile.
    pub(crate) fn udp_refuse_ports(&self) -> &PortSet {
        &self.set(self.swaps()).udp_refuse_ports
    }

    /// Bytes of the longest Unix datagram that is answered.
    pub(crate) fn max_datagram(&self) -> usize {
        self.read(|set| set.max_datagram.load(Relaxed)) as usize
    }

    pub(crate) fn linger(&self) -> Duration {
        Duration::from_millis(self.read(|set| set.linger_ms.load(Relaxed)))
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.read(|set| set.drain_ms.load(Relaxed)))
    }
}

/// The longest wait, about 30 years: a timer can still hold it, and the clock what is added to it.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(1_000_000_000_000);

/// Milliseconds, at least one.
fn millis(duration: Duration) -> u64 {
    duration.min(LONGEST_WAIT).as_millis().max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_its_base_plus_its_bytes_at_the_slowest_rate() {
        let live = LiveLimits::new(&Limits::default());
        assert_eq!(live.frame(1 << 20), Duration::from_secs(10 + 1024));
        assert_eq!(live.write(512), Duration::from_millis(10_500));
    }

    /// Whoever reads while they are swapped gets the old ones or the new, and never old ones after new.
    #[test]
    fn a_swap_is_seen_whole() {
        const SWAPS: u32 = 300;
        // Seconds of 1000 bytes: 1 + 1000, or 2000 + 1. Any other is a mixture.
        let rate = |rate| NonZeroU32::new(rate).unwrap();
        let numbered = |number: u32| Limits {
            frame_timeout: Duration::from_secs(if number.is_multiple_of(2) { 1 } else { 2000 }),
            min_rate: rate(if number.is_multiple_of(2) { 1 } else { 1000 }),
            max_per_source: NonZeroUsize::new(1 + number as usize).unwrap(),
            spare_loopback: number.is_multiple_of(2),
            max_frame: number,
            max_datagram: 1 + number,
            ..Limits::default()
        };
        let live = LiveLimits::new(&numbered(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while live.max_frame() < SWAPS {
                        let seconds = live.frame(1000).as_secs();
                        assert!(seconds == 1001 || seconds == 2001, "{seconds} s");
                        let (count, spare) = live.per_source();
                        assert_eq!(spare, (count - 1).is_multiple_of(2), "{count}");
                        // Read one after another, the later one is never the older.
                        let (first, second) = (live.max_datagram() - 1, live.max_frame() as usize);
                        assert!(first <= second, "{first} and then {second}");
                    }
                });
            }
            (1..=SWAPS).for_each(|number| live.store(&numbered(number)));
        });
    }

    /// Fault 35: absurd values are clamped, not multiplied into an overflow.
    #[test]
    fn absurd_limits_are_clamped() {
        let live = LiveLimits::new(&Limits {
            idle_timeout: Duration::MAX,
            frame_timeout: Duration::MAX,
            max_frame: u32::MAX,
            min_rate: NonZeroU32::MIN,
            ..Limits::default()
        });
        assert_eq!(live.max_frame(), crate::frame::MAX_PAYLOAD_LEN);
        let now = tokio::time::Instant::now();
        assert!(now.checked_add(live.frame(u32::MAX)).is_some());
        assert!(now.checked_add(live.idle()).is_some());
    }
}

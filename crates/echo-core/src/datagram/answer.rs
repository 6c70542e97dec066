//! Answering a batch: who gets an answer, and getting it out.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use echo_sys::{Batch, MAX_BATCH, Sending, Socket};
use rustix::io::Errno;
use tokio::time::Instant;

use super::peer;
use super::rate::{Rate, Taking};
use super::screen::{Screen, Sender, probe_mut};
use super::{DatagramEcho, DatagramSocket};
use crate::LocalAddr;
use crate::seldom::Seldom;
use crate::service::Core;
use crate::stats::{Tally, Turns, Unanswered};
use crate::waiting::LOOKS;

/// Datagrams that are asked for when one at a time comes: the second one is asked for in vain, but tells
/// that the queue is empty; more are there for when there are more.
const FEW: usize = 4;

/// What is logged of answers that could not be sent.
const DROPPED: &str = "answers to datagrams were dropped";

/// Bytes that a UDP datagram never reaches: its length has 16 bits.
const LONGEST_UDP: usize = 1 << 16;

/// What the answering of one socket's datagrams needs to know and keeps.
pub(super) struct Answering {
    core: Arc<Core>,
    echo: Arc<DatagramEcho>,
    udp: bool,
    sending: Sending,
    /// How many datagrams to ask for: a few more than came the last time.
    expected: usize,
    /// Errors since a datagram was received.
    errors: u32,
    /// The kernel's counter when it was last told.
    kernel_drops: u32,
    /// Whether datagrams have waited together since it was last asked for that: a queue of one is full
    /// at no sensible length.
    queued: bool,
    turns: Turns,
    /// Looks at the sockets that are left before the worker may sleep.
    looks: u8,
}

impl Answering {
    pub(super) fn new(socket: &DatagramSocket, core: Arc<Core>, echo: Arc<DatagramEcho>) -> Self {
        let (udp, every_address) = match socket.local_addr() {
            LocalAddr::Udp(addr) => (true, addr.ip().is_unspecified()),
            _ => (false, false),
        };
        Self {
            core,
            echo,
            udp,
            sending: Sending { from_arrival: every_address, segmented: udp, batched: true },
            expected: FEW,
            errors: 0,
            kernel_drops: 0,
            queued: false,
            turns: Turns::new(),
            looks: 0,
        }
    }

    /// The longest datagram that is answered.
    pub(super) fn longest(&self) -> usize {
        if self.udp { LONGEST_UDP } else { self.core.limits.max_datagram() }
    }

    /// How many datagrams to ask for. To ask for a whole batch takes longer than to answer one datagram.
    pub(super) fn expected(&self) -> usize {
        self.expected
    }

    /// Whether to look at the sockets once more before the worker sleeps. After every batch, however short:
    /// a peer that waits for its answer before it sends the next datagram is answered at 1.00 of the rate of
    /// a C loop that blocks in recvfrom(2), and at 0.93 by a worker that sleeps in between. It costs a lone
    /// datagram about 4 µs of processor time, and none where datagrams come faster.
    pub(super) fn looks_again(&mut self) -> bool {
        let left = self.looks > 0;
        self.looks = self.looks.saturating_sub(1);
        left
    }

    /// How many errors of receiving there were since a datagram came.
    pub(super) fn errors_in_a_row(&self) -> u32 {
        self.errors
    }

    /// Counts an error of receiving, and logs it if it is time for a line.
    pub(super) fn note_error(&mut self, error: &io::Error) {
        self.errors = self.errors.saturating_add(1);
        self.core.stats.datagrams.receive_errors.fetch_add(1, Relaxed);
        if let Some(muted) = speak(&self.echo.receive_trouble) {
            tracing::warn!(%error, muted, "cannot receive datagrams");
        }
    }

    /// Counts a batch that was full.
    pub(super) fn note_full_batch(&self) {
        self.core.stats.datagrams.batches_full.fetch_add(1, Relaxed);
    }

    /// Counts that a drain came to its bound before the queue was empty.
    pub(super) fn note_left_in_queue(&self) {
        self.core.stats.datagrams.left_in_queue.fetch_add(1, Relaxed);
    }

    /// Answers a batch that was just received. Returns how many answers went out.
    pub(super) fn answer(&mut self, socket: &Socket, batch: &mut Batch) -> u32 {
        self.errors = 0;
        self.looks = LOOKS;
        self.expected = (2 * batch.len()).max(FEW);
        let received = Instant::now();
        let mut tally = Tally::default();
        let mut which = [0; MAX_BATCH];
        let probes = !self.echo.is_raw();
        let count = self.screen(batch, received, probes, &mut which, &mut tally);
        let which = &which[..count];
        if probes {
            self.stamp(batch, which, received);
        }
        if self.udp {
            self.send(socket, batch, which, &mut tally);
        } else {
            self.send_to_paths(socket, batch, which, &mut tally);
        }
        self.core.stats.datagrams.add(&tally);
        if self.turns.is_due() && tally.answered > 0 {
            self.core.stats.datagram_service_time.observe(received.elapsed());
        }
        self.queued |= batch.len() > 1;
        batch.kernel_drops().into_iter().for_each(|drops| self.count_kernel_drops(drops));
        if !socket.has_batches() && !self.echo.said_one_by_one.swap(true, Relaxed) {
            tracing::warn!("this kernel receives and sends no batches: datagrams go one by one");
        }
        tally.answered
    }

    /// Picks those that may be answered; returns how many.
    fn screen(
        &self,
        batch: &Batch,
        now: Instant,
        probes: bool,
        which: &mut [u8; MAX_BATCH],
        tally: &mut Tally,
    ) -> usize {
        let core = &self.core;
        let screen = Screen {
            refused: core.limits.udp_refuse_ports(),
            own: &core.own,
            probes,
            buckets: &self.echo.buckets,
        };
        let rate = self.echo.own_rate().or_else(|| self.udp.then(|| core.limits.udp_rate()));
        let mut limited = rate.map(|rate| (self.echo.buckets.lock(), rate.into()));
        let now = core.stamp(now);
        let (mut count, mut bytes) = (0, 0);
        for index in 0..batch.len() {
            let datagram = batch.get(index);
            bytes += datagram.payload.len();
            let judged = screen.judge(&datagram).and_then(|sender| match &mut limited {
                Some((buckets, rate)) => may_be_answered(&sender, buckets, *rate, now),
                None => Ok(()),
            });
            match judged {
                Ok(()) => {
                    which[count] = index as u8; // Below MAX_BATCH.
                    count += 1;
                }
                Err(why) => tally.unanswered(why, 1),
            }
        }
        let shared = limited.map_or(0, |(buckets, _)| buckets.shared);
        if shared > 0 {
            core.stats.datagrams.rates_shared.fetch_add(shared.into(), Relaxed);
        }
        tally.received = batch.len() as u32;
        core.stats.read(bytes);
        count
    }

    fn stamp(&self, batch: &mut Batch, which: &[u8], received: Instant) {
        for index in which {
            if let Some(probe) = probe_mut(batch.payload_mut(usize::from(*index))) {
                let (received, sent) = (self.core.stamp(received), self.core.stamp(Instant::now()));
                crate::frame::mark_probe_reply(probe, received, sent);
            }
        }
    }

    /// Sends the answers of Unix peers, whose paths are looked at.
    fn send_to_paths(
        &mut self,
        socket: &Socket,
        batch: &mut Batch,
        mut which: &[u8],
        tally: &mut Tally,
    ) {
        while !which.is_empty() {
            let (these, rest) = which.split_at(peer::together(batch, which));
            match peer::open(batch, these, &self.core.own) {
                // Open until they are sent.
                Ok(_file) => self.send(socket, batch, these, tally),
                Err(errno) => {
                    tally.unanswered(self.why(errno), these.len());
                    self.log(errno);
                }
            }
            which = rest;
        }
    }

    /// Sends the answers, or drops them: nothing waits here for one peer that lets it wait.
    fn send(&mut self, socket: &Socket, batch: &Batch, mut which: &[u8], tally: &mut Tally) {
        let mut sending = self.sending;
        let (mut told_of_another, mut bytes) = (false, 0);
        while !which.is_empty() {
            let error = match socket.send(batch, which, sending) {
                Ok(sent) => {
                    let (out, rest) = which.split_at(sent);
                    let len = |index: &u8| batch.get(usize::from(*index)).payload.len();
                    bytes += out.iter().map(len).sum::<usize>();
                    tally.answered += sent as u32;
                    which = rest;
                    continue;
                }
                Err(error) => error,
            };
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            // Too long for the path in one piece, or a device that cannot cut it.
            if sending.segmented && !matches!(errno, Errno::AGAIN | Errno::NOBUFS) {
                sending.segmented = false;
                self.sending.segmented &= errno != Errno::IO;
                continue;
            }
            // What ICMP said of an earlier reply; this one was not tried.
            if self.udp && errno == Errno::CONNREFUSED && !told_of_another {
                told_of_another = true;
                continue;
            }
            let why = self.why(errno);
            // UDP has one send buffer for all peers: the others would not fit either. A Unix peer has a
            // queue.
            let dropped = if self.udp && why == Unanswered::Blocked { which.len() } else { 1 };
            tally.unanswered(why, dropped);
            which = &which[dropped..];
            told_of_another = false;
            self.log(errno);
        }
        self.core.stats.wrote(bytes);
    }

    /// What it means that an answer was not sent for `errno`.
    fn why(&self, errno: Errno) -> Unanswered {
        match errno {
            Errno::AGAIN | Errno::NOBUFS => Unanswered::Blocked,
            // Of UDP: a network's own broadcast address. Of Unix peers see `peer::open`.
            Errno::ACCESS | Errno::LOOP | Errno::NOTSOCK => Unanswered::Address,
            _ if self.no_descriptor_paths(errno) => Unanswered::Address,
            _ => Unanswered::Failed,
        }
    }

    /// Whether there is no openat2(2), or no /proc, of whose absence only sending to an open file tells.
    fn no_descriptor_paths(&self, errno: Errno) -> bool {
        !self.udp && matches!(errno, Errno::NOSYS | Errno::NOENT)
    }

    fn log(&self, error: Errno) {
        let text = match error {
            _ if self.no_descriptor_paths(error) => {
                "Unix peers with a path get no answers without openat2(2) and /proc"
            }
            // Firewall, device, memory: for the operator to know. The first one a Unix peer brings about
            // that is connected to another.
            Errno::PERM if self.udp => DROPPED,
            Errno::NOBUFS | Errno::NOMEM | Errno::IO | Errno::MFILE | Errno::NFILE => DROPPED,
            _ => return tracing::debug!(%error, "{DROPPED}"),
        };
        if let Some(muted) = speak(&self.echo.send_trouble) {
            tracing::warn!(%error, muted, "{text}");
        }
    }

    /// Asks for the drops of a queue that was found empty: no datagram may come that tells of them.
    pub(super) fn note_empty(&mut self, socket: &Socket) {
        if std::mem::take(&mut self.queued) {
            self.ask_kernel_drops(socket);
        }
    }

    /// Asks for the drops of a socket. Where the kernel does not tell (before Linux 4.12, or for a filter
    /// of system calls) the datagrams do.
    pub(super) fn ask_kernel_drops(&mut self, socket: &Socket) {
        socket.kernel_drops().into_iter().for_each(|drops| self.count_kernel_drops(drops));
    }

    /// Takes over the kernel's counter, which wraps; what a datagram tells is of when it came.
    fn count_kernel_drops(&mut self, drops: u32) {
        let new = drops.wrapping_sub(self.kernel_drops);
        if new <= u32::MAX / 2 {
            self.kernel_drops = drops;
            self.core.stats.datagrams.kernel_drops.fetch_add(new.into(), Relaxed);
        }
    }
}

/// Whether the source of a datagram has a token left, and it is not the end of a loop.
#[inline]
fn may_be_answered(
    sender: &Sender,
    buckets: &mut Taking<'_>,
    rate: Rate,
    now: u64,
) -> Result<(), Unanswered> {
    if !buckets.take(sender.source, rate, now) {
        return Err(Unanswered::Rate);
    }
    match sender.server {
        Some(port) if buckets.ends_loop(sender.source, port, rate, now) => Err(Unanswered::Loop),
        _ => Ok(()),
    }
}

fn speak(seldom: &Mutex<Seldom>) -> Option<u64> {
    seldom.lock().unwrap_or_else(PoisonError::into_inner).speak()
}

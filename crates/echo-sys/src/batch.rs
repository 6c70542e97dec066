//! Datagrams received together, and answered together.

mod slot;

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::control::{self, Arrival, CONTROL_LEN, SEND_CONTROL_LEN};
use slot::{NAME_LEN, Slot};

/// Datagrams in one batch: beyond that a system call's own cost is lost among theirs.
pub const MAX_BATCH: usize = 32;

/// Room for the payloads of one batch, unless a single datagram may be longer.
const ARENA_LEN: usize = MAX_BATCH * SLOT_UNIT;
/// Holds every UDP datagram, and a whole number of pages.
const SLOT_UNIT: usize = 64 << 10;

/// What one segmented message may hold: one byte less than an IP packet, less its headers.
const SEGMENTED_LEN: usize = 65_535 - 40 - 8;

/// Room for datagrams: received into, looked at, answered from.
///
/// Memory that no datagram has touched is not resident, so small datagrams cost a page each. It is
/// meant to be a thread's, used by one socket after the other.
#[derive(Debug)]
pub struct Batch {
    payloads: Vec<u8>,
    longest: usize,
    stride: usize,
    slots: Box<[Slot; MAX_BATCH]>,
    received: usize,
    /// How many were asked for.
    asked: usize,
}

/// One datagram of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// What arrived.
    pub payload: &'a [u8],
    /// Whether it was longer than what the batch takes: the payload is its beginning.
    pub truncated: bool,
    /// Who sent it.
    pub source: Source<'a>,
    /// Where it arrived; `None` but on IP sockets.
    pub arrival: Option<Arrival>,
    /// The user who sent it, if the kernel was asked ([`Socket::tell_users`]) when it came.
    ///
    /// [`Socket::tell_users`]: crate::Socket::tell_users
    pub user: Option<u32>,
}

/// Who sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// An IP peer, as the socket's family writes it.
    Ip(SocketAddr),
    /// A Unix peer: its path, or a zero byte and its abstract name.
    Unix(&'a [u8]),
    /// A Unix peer without a name, which cannot be answered.
    Unnamed,
}

/// How datagrams are sent.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Each from the address that it was received at. For sockets bound to every address.
    pub from_arrival: bool,
    /// Neighbours of one length from one peer as a single message, which the kernel cuts
    /// (UDP_SEGMENT).
    pub segmented: bool,
    /// Together in one system call; else one call for each message.
    pub batched: bool,
}

impl Default for Batch {
    fn default() -> Self {
        let slots = vec![Slot::default(); MAX_BATCH];
        Self {
            payloads: Vec::new(),
            longest: 0,
            stride: SLOT_UNIT,
            slots: slots.try_into().unwrap_or_else(|_| unreachable!()),
            received: 0,
            asked: 0,
        }
    }
}

impl Batch {
    /// Makes room for datagrams of up to `longest` bytes: 32 of up to 64 KiB, fewer of longer ones.
    pub fn fit(&mut self, longest: usize) {
        let stride = longest.next_multiple_of(SLOT_UNIT);
        let len = stride.max(ARENA_LEN);
        if self.payloads.len() < len {
            // Zeroed by the kernel, page by page when they are touched.
            self.payloads = vec![0; len];
        }
        (self.longest, self.stride) = (longest, stride);
        (self.received, self.asked) = (0, 0);
    }

    /// How many datagrams it takes.
    pub fn capacity(&self) -> usize {
        (self.payloads.len() / self.stride).min(MAX_BATCH)
    }

    /// How many were received last.
    pub fn len(&self) -> usize {
        self.received
    }

    /// Whether there may be more than were received last: as many as were asked for.
    pub fn is_full(&self) -> bool {
        self.received == self.asked
    }

    /// Whether none was received.
    pub fn is_empty(&self) -> bool {
        self.received == 0
    }

    /// The datagram at `index`.
    ///
    /// # Panics
    /// When there are not so many.
    #[inline]
    pub fn get(&self, index: usize) -> Datagram<'_> {
        let slot = &self.slots[..self.received][index];
        Datagram {
            payload: &self.payloads[index * self.stride..][..slot.len],
            truncated: slot.truncated,
            source: slot.source(),
            arrival: slot.told.arrival,
            user: slot.told.user,
        }
    }

    /// Has the datagram at `index` answered to `path`, and not to where it came from.
    ///
    /// # Panics
    /// When there are not so many, or the path is longer than a Unix address.
    pub fn answer_to(&mut self, index: usize, path: &[u8]) {
        self.slots[..self.received][index].answer_to(path);
    }

    /// The payload of the datagram at `index`, to be changed in place.
    ///
    /// # Panics
    /// When there are not so many.
    #[inline]
    pub fn payload_mut(&mut self, index: usize) -> &mut [u8] {
        let len = self.slots[..self.received][index].len;
        &mut self.payloads[index * self.stride..][..len]
    }

    /// How many datagrams the kernel had dropped on the socket when the last one came: a counter that
    /// wraps, told from the first drop on.
    pub fn kernel_drops(&self) -> Option<u32> {
        self.slots[..self.received].iter().rev().find_map(|slot| slot.told.kernel_drops)
    }

    /// Receives what is there, without waiting: at least one datagram, at most `most`. Asking for many
    /// takes as long as receiving one.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        most: usize,
        batched: bool,
    ) -> io::Result<usize> {
        let count = if batched { most.clamp(1, self.capacity()) } else { 1 };
        (self.received, self.asked) = (0, count);
        let mut vectors = [const { MaybeUninit::uninit() }; MAX_BATCH];
        let mut headers = [const { MaybeUninit::uninit() }; MAX_BATCH];
        let payloads = self.payloads.chunks_exact_mut(self.stride);
        let rows = headers[..count].iter_mut().zip(&mut vectors).zip(self.slots.iter_mut());
        for (((header, vector), slot), payload) in rows.zip(payloads) {
            let payload = &mut payload[..self.longest];
            let vector = vector.write(libc::iovec {
                iov_base: payload.as_mut_ptr().cast(),
                iov_len: payload.len(),
            });
            let header = header.write(empty_header());
            header.msg_hdr.msg_name = slot.name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME_LEN as _;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
        }
        // SAFETY: each of the first `count` was written: there are as many vectors, slots and
        // payloads.
        let headers = unsafe { headers[..count].assume_init_mut() };
        // SAFETY: each header points to a name, a vector and a control buffer of the lengths it gives,
        // and the vector to a payload of its length. They were borrowed mutably, are not touched
        // before the call returns, and hold bytes, of which any will do.
        self.received = unsafe { receive_messages(socket, headers, batched) }?;
        for (header, slot) in headers[..self.received].iter().zip(self.slots.iter_mut()) {
            slot.take(header);
        }
        Ok(self.received)
    }

    /// Sends the datagrams at the indices `which` back to where they came from, without waiting.
    /// Returns how many went out; an error is the first one's.
    ///
    /// # Panics
    /// When there is no datagram at an index, or more than [`MAX_BATCH`] are named.
    pub(crate) fn send(
        &self,
        socket: BorrowedFd<'_>,
        which: &[u8],
        how: Sending,
    ) -> io::Result<usize> {
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_BATCH];
        for (vector, index) in vectors[..which.len()].iter_mut().zip(which) {
            let payload = self.get(usize::from(*index)).payload;
            vector.write(libc::iovec {
                iov_base: payload.as_ptr().cast_mut().cast(),
                iov_len: payload.len(),
            });
        }
        let vectors = vectors.as_mut_ptr().cast::<libc::iovec>();
        let mut controls = [const { MaybeUninit::uninit() }; MAX_BATCH];
        let mut headers = [const { MaybeUninit::uninit() }; MAX_BATCH];
        let mut counts = [0; MAX_BATCH];
        let (mut messages, mut at) = (0, 0);
        for ((header, control), counted) in headers.iter_mut().zip(&mut controls).zip(&mut counts) {
            let Some(first) = which.get(at) else { break };
            let slot = &self.slots[usize::from(*first)];
            let count = if how.segmented { self.alike(&which[at..]) } else { 1 };
            let header = header.write(empty_header());
            header.msg_hdr.msg_name = slot.name.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = slot.name_len as _;
            header.msg_hdr.msg_iov = vectors.wrapping_add(at);
            header.msg_hdr.msg_iovlen = count as _;
            let arrival = slot.told.arrival.filter(|_| how.from_arrival);
            if count > 1 || arrival.is_some() {
                let control = control.write([0; SEND_CONTROL_LEN]);
                // `alike` keeps the length below 64 KiB.
                let segment = (count > 1).then_some(slot.len as u16);
                header.msg_hdr.msg_controllen = control::write(control, arrival, segment) as _;
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            }
            *counted = count;
            messages += 1;
            at += count;
            if !how.batched {
                break;
            }
        }
        // SAFETY: the first `messages` were written.
        let headers = unsafe { headers[..messages].assume_init_mut() };
        // SAFETY: each header points to a name and a control buffer of the lengths it gives and to as
        // many vectors as it counts, all written, which point to payloads of their lengths. None of it
        // moves before the call returns, and sending changes none of it.
        let sent = unsafe { send_messages(socket, headers, how.batched) }?;
        Ok(counts[..sent].iter().sum())
    }

    /// How many datagrams from the first one on go to the same peer, from the same address, and are as
    /// long as the first; the last of them may be shorter.
    fn alike(&self, which: &[u8]) -> usize {
        let Some((first, rest)) = which.split_first() else { return 0 };
        let first = &self.slots[usize::from(*first)];
        if first.len == 0 {
            return 1;
        }
        let mut total = first.len;
        let mut count = 1;
        for next in rest {
            let next = &self.slots[usize::from(*next)];
            total += next.len;
            if next.len > first.len
                || next.len == 0
                || total > SEGMENTED_LEN
                || next.name[..next.name_len] != first.name[..first.name_len]
                || next.told.arrival != first.told.arrival
            {
                break;
            }
            count += 1;
            if next.len < first.len {
                break;
            }
        }
        count
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: a header of integers and pointers, for which zero is a value. Some C libraries have
    // padding in it that has no name, so it cannot be written out.
    unsafe { mem::zeroed() }
}

/// recvmmsg(2), or recvmsg(2) for the first one.
///
/// # Safety
/// What the headers point to can be written to in the lengths they give.
unsafe fn receive_messages(
    socket: BorrowedFd<'_>,
    headers: &mut [libc::mmsghdr],
    batched: bool,
) -> io::Result<usize> {
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
    if batched {
        let (first, count) = (headers.as_mut_ptr(), headers.len());
        // SAFETY: the caller's.
        let received =
            unsafe { libc::recvmmsg(fd, first, count as _, flags as _, ptr::null_mut()) };
        return usize::try_from(received).map_err(|_| io::Error::last_os_error());
    }
    let Some(first) = headers.first_mut() else { return Ok(0) };
    // SAFETY: the caller's.
    let len = unsafe { libc::recvmsg(fd, &mut first.msg_hdr, flags) };
    first.msg_len = u32::try_from(len).map_err(|_| io::Error::last_os_error())?;
    Ok(1)
}

/// sendmmsg(2), or sendmsg(2) for the first one.
///
/// # Safety
/// What the headers point to can be read in the lengths they give.
unsafe fn send_messages(
    socket: BorrowedFd<'_>,
    headers: &mut [libc::mmsghdr],
    batched: bool,
) -> io::Result<usize> {
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    if batched {
        let (first, count) = (headers.as_mut_ptr(), headers.len());
        // SAFETY: the caller's.
        let sent = unsafe { libc::sendmmsg(fd, first, count as _, flags as _) };
        return usize::try_from(sent).map_err(|_| io::Error::last_os_error());
    }
    let Some(first) = headers.first() else { return Ok(0) };
    // SAFETY: the caller's.
    let sent = unsafe { libc::sendmsg(fd, &first.msg_hdr, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(1) }
}

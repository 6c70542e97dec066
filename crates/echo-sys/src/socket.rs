//! The socket: registered for reading, and nothing else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::batch::{Batch, Sending};

/// Where the counter of drops is in what SO_MEMINFO (Linux 4.12) tells: linux/sock_diag.h.
const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;

/// A bound datagram socket, UDP or Unix.
///
/// Registered for reading alone: a socket that is registered for writing as well, as Tokio's own are,
/// wakes the reactor once more for every reply that leaves the send buffer.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    /// Whether the kernel has recvmmsg and sendmmsg, and lets us call them.
    batches: AtomicBool,
    /// Whether the kernel cuts messages. One that does not know how (before Linux 4.18) would send
    /// several answers as a single one.
    segments: bool,
}

impl Socket {
    /// Takes over a socket that does not block.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open and stays the same descriptor as long as it lives, and the
        // AsyncFd keeps it as long as itself.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        // 0 asks for nothing, but only of who knows the option.
        let segments = set_option(fd.get_ref().as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0);
        Ok(Self { fd, batches: AtomicBool::new(true), segments: segments.is_ok() })
    }

    /// Asks the kernel to tell where each datagram was sent to ([`Datagram::arrival`]), and how many
    /// it has dropped ([`Batch::kernel_drops`]). For an IP socket, IPv6 if `ipv6`.
    ///
    /// What ICMP says of earlier replies it is asked not to tell: this is a socket for many peers.
    ///
    /// [`Datagram::arrival`]: crate::Datagram::arrival
    pub fn tell_arrivals(fd: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
        if ipv6 {
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0)?;
        }
        // On IPv6 sockets too, which may receive IPv4.
        set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        set_option(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 0)?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
    }

    /// Asks the kernel to tell which user sent each datagram ([`Datagram::user`]). For a Unix socket.
    ///
    /// [`Datagram::user`]: crate::Datagram::user
    pub fn tell_users(fd: BorrowedFd<'_>) -> io::Result<()> {
        set_option(fd, libc::SOL_SOCKET, libc::SO_PASSCRED, 1)
    }

    /// Receives a batch of at most `most` as soon as there is one.
    ///
    /// # Errors
    /// What recvmmsg(2) says. An error may be about one datagram only, or about none.
    pub fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            match self.receive_queued(batch, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                received => {
                    // A batch that is not full has found the queue empty, so what comes next is
                    // announced anew: no need to ask once more.
                    if received.is_ok() && !batch.is_full() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(received);
                }
            }
        }
    }

    /// Receives what is there, at most `most`. It asks the kernel, not the reactor, which may not have heard of it
    /// yet: in a process that was stopped, for example.
    ///
    /// # Errors
    /// As [`poll_receive`](Self::poll_receive), and `WouldBlock` when nothing is there.
    pub fn receive_queued(&self, batch: &mut Batch, most: usize) -> io::Result<usize> {
        // Of a receive a filter of system calls says EPERM as well; nothing else does.
        self.with_or_without_batches(&[libc::ENOSYS, libc::EPERM], |batched| {
            batch.receive(self.as_fd(), most, batched)
        })
    }

    /// Sends datagrams of `batch`, those at the indices `which`, back to where they came from,
    /// without waiting. Returns how many went out, which may be fewer.
    ///
    /// # Errors
    /// What the kernel said of the first one, which was not sent. Nor were the others.
    ///
    /// # Panics
    /// When there is no datagram at an index, or more than [`MAX_BATCH`](crate::MAX_BATCH) are named.
    pub fn send(&self, batch: &Batch, which: &[u8], how: Sending) -> io::Result<usize> {
        let segmented = how.segmented && self.segments;
        self.with_or_without_batches(&[libc::ENOSYS], |batched| {
            batch.send(self.as_fd(), which, Sending { batched, segmented, ..how })
        })
    }

    /// How many datagrams the kernel has dropped on this socket until now, which
    /// [`Batch::kernel_drops`] knows only of the time before a datagram came.
    pub fn kernel_drops(&self) -> io::Result<u32> {
        let mut info = [0_u32; DROPS + 1];
        let mut len = size_of_val(&info) as libc::socklen_t;
        let fd = self.as_fd().as_raw_fd();
        // SAFETY: both outlive the call, which writes at most `len` bytes of integers.
        let result = unsafe {
            let into = info.as_mut_ptr().cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, into, &raw mut len)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info[DROPS]) }
    }

    /// Whether datagrams are received and sent in batches; else one by one, since the kernel or a
    /// filter of system calls (seccomp) has no batches.
    pub fn has_batches(&self) -> bool {
        self.batches.load(Relaxed)
    }

    fn with_or_without_batches(
        &self,
        not_there: &[i32],
        mut call: impl FnMut(bool) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match call(self.batches.load(Relaxed)) {
            Err(error)
                if self.has_batches()
                    && error.raw_os_error().is_some_and(|errno| not_there.contains(&errno)) =>
            {
                self.batches.store(false, Relaxed);
                call(false)
            }
            result => result,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is an int that outlives the call, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! Bulk: payload that passes from a socket back into it through a pipe, without being copied.
//!
//! As in [`crate::echo`], nothing stays behind: the pipe is the worker's own, and empty again at the
//! end of each call. What the peer does not take is read out of it and kept as output.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::buffer::Buffer;
use crate::connection::{Connection, READ_BUFFER, with_scratch};

/// The shortest piece that is worth two more system calls: half of what one read takes. When shorter ones
/// come, bulk is over: the kernel holds each by the page it lies in, and counts only its bytes.
pub(crate) const WORTH: usize = 32 << 10;

/// Pipes in the process: two descriptors each, of the 64 that a daemon keeps spare. A worker that gets
/// none copies.
const MAX_PIPES: usize = 16;

/// What is read before such a payload: its header, and what little comes with it.
pub(crate) const HEAD: usize = 4 << 10;

thread_local! {
    static PIPE: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

/// A pipe of the usual 64 KiB, or less where the user has many, which bounds what a peer that does not
/// read can leave in it.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
}

static PIPES: AtomicUsize = AtomicUsize::new(0);

impl Pipe {
    /// The worker's pipe; a new one if there is none yet and one may be had.
    fn take() -> Option<Self> {
        PIPE.take().or_else(|| {
            PIPES.try_update(Relaxed, Relaxed, |n| (n < MAX_PIPES).then_some(n + 1)).ok()?;
            let made = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
            made.map(|(read, write)| Self { read, write }).inspect_err(|_| uncount()).ok()
        })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        uncount();
    }
}

fn uncount() {
    PIPES.fetch_sub(1, Relaxed);
}

impl Connection {
    /// Whether `len` bytes of payload that are still to come may go through the pipe: in a drain,
    /// what is read is counted first.
    #[inline]
    pub(crate) fn may_pass_bulk(&self, len: usize) -> bool {
        self.bulk && len >= WORTH && !self.ended && self.last_pass.is_none() && !self.is_draining()
    }

    /// Passes up to `len` bytes through, at most one read's worth, and says how many; `None` where only
    /// a read can tell what there is.
    pub(crate) fn pass_bulk(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
    ) -> io::Result<Option<usize>> {
        debug_assert!(self.output.is_empty(), "what came first goes out first");
        let Some(pipe) = Pipe::take() else {
            self.scope.core.stats.pipes_exhausted.fetch_add(1, Relaxed);
            self.bulk = false;
            return Ok(None);
        };
        let moved = match self.stream.splice_in(&pipe, len.min(READ_BUFFER)) {
            Ok(moved) if moved > 0 => moved,
            // Neither the end nor "nothing there" is to be believed: splice(2) says so at an urgent
            // mark as well.
            nothing => {
                PIPE.set(Some(pipe));
                self.bulk =
                    !nothing.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput);
                return Ok(None);
            }
        };
        self.has_read(moved);
        self.bulk = moved >= WORTH;
        if let Err(error) = self.empty(cx, &pipe, moved) {
            // The pipe goes with what is left in it.
            self.broken = true;
            return Err(error);
        }
        PIPE.set(Some(pipe));
        self.note_served(moved);
        Ok(Some(moved))
    }

    /// Writes what is in the pipe; what the peer does not take now is kept as output.
    fn empty(&mut self, cx: &mut Context<'_>, pipe: &Pipe, mut left: usize) -> io::Result<()> {
        while left > 0 {
            match self.stream.poll_splice_out(cx, pipe, left) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => {
                    self.has_written(sent);
                    left -= sent;
                }
                Poll::Ready(Err(error)) if !is_passing(&error) => return Err(error),
                Poll::Ready(Err(_)) | Poll::Pending => {
                    self.output = with_scratch(|scratch| take_out(pipe, &mut scratch[..left]))?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Whether a call may well succeed when it is made again, or when it is made as a read or a write: a
/// socket that knows no splice(2) says EINVAL.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::InvalidInput)
}

/// Reads what is left in the pipe.
fn take_out(pipe: &Pipe, rest: &mut [u8]) -> io::Result<Buffer> {
    let mut kept = 0;
    while kept < rest.len() {
        match rustix::io::read(&pipe.read, &mut rest[kept..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => kept += read,
        }
    }
    Ok(Buffer::from(&*rest))
}

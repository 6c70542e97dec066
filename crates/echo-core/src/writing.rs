//! Writing to a connection: at once, as far as the peer takes it, and the rest in turns.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::Error;
use crate::buffer::Buffer;
use crate::connection::Connection;
use crate::stats::is_due;
use crate::waiting::{CONTROL_COST, Writing, poll_budget};

impl Connection {
    /// Writes `bytes`; what the peer does not take now is kept as output.
    #[inline]
    pub(crate) fn write_through(
        &mut self,
        cx: &mut Context<'_>,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        debug_assert!(self.output.is_empty(), "what came first goes out first");
        while !bytes.is_empty() {
            match self.poll_write(cx, bytes) {
                Poll::Ready(written) => bytes = &bytes[written?..],
                Poll::Pending => {
                    self.output = Buffer::from(bytes);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Writes all output, and frees it. Parks while the peer does not read.
    #[inline]
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.output.is_empty() {
            self.output.release();
            return Poll::Ready(Ok(()));
        }
        self.poll_write_out(cx)
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.broken {
            ready!(poll_budget(cx));
        }
        while !self.output.is_empty() {
            if self.has_had_its_turn() {
                return self.yield_now(cx);
            }
            let output = std::mem::take(&mut self.output);
            let written = self.poll_write(cx, &output);
            self.output = output;
            match written {
                Poll::Ready(written) => {
                    let written = written?;
                    self.output.advance(written);
                    // A handler that only sends has its turns as well.
                    self.moved += written + CONTROL_COST;
                }
                Poll::Pending => return self.park(cx).map(Err),
            }
        }
        self.output.release();
        let now = Instant::now();
        match (self.writing, self.began) {
            // While we could not write we did not read: that time was not the frame's.
            (Writing::Blocked { since, .. }, Some(began)) => {
                self.began = Some(began + (now - since));
            }
            (Writing::Blocked { .. }, None) => {}
            _ if is_due() => self.scope.core.stats.service_time.observe(now - self.read_at),
            _ => {}
        }
        self.writing = Writing::Flushed { at: now };
        Poll::Ready(Ok(()))
    }

    #[inline(always)]
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            return match self.stream.poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => {
                    self.broken = true;
                    Poll::Ready(Err(io::ErrorKind::WriteZero.into()))
                }
                Poll::Ready(Ok(written)) => {
                    self.has_written(written);
                    Poll::Ready(Ok(written))
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Poll::Ready(Err(error)) => {
                    self.broken = true;
                    Poll::Ready(Err(error))
                }
                Poll::Pending => Poll::Pending,
            };
        }
    }

    /// Counts a write.
    #[inline(always)]
    pub(crate) fn has_written(&mut self, len: usize) {
        self.bytes_out += len as u64;
        self.scope.core.stats.wrote(len);
    }

    /// So many bytes of answers to a read were written: measures, now and then, what that took.
    #[inline(always)]
    pub(crate) fn note_served(&self, bytes: usize) {
        if is_due() && bytes > 0 && self.output.is_empty() {
            self.scope.core.stats.service_time.observe(self.read_at.elapsed());
        }
    }
}

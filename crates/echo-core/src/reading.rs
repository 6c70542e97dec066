//! Reading from a connection: in a turn, and in the last pass of a drain.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;

use crate::Error;
use crate::connection::{Connection, with_scratch};
use crate::waiting::poll_budget;

/// What the last pass of a drain reads at most: a sender that never pauses cannot hold it up.
const LAST_PASS: u64 = 1 << 20;

impl Connection {
    /// Reads into `buf`. 0 is the end: of the peer's stream, or in a drain of what may still be
    /// read, which is the last pass and then `rest`, the rest of a frame under way.
    #[inline(always)]
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        rest: usize,
    ) -> Poll<io::Result<usize>> {
        if self.ended || self.last_pass.is_some() || self.scope.is_draining() {
            return self.poll_read_last(cx, buf, rest);
        }
        self.poll_receive(cx, buf)
    }

    /// The same, once the end or the drain has come.
    #[cold]
    fn poll_read_last(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        rest: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.ended {
                ready!(poll_budget(cx));
                return Poll::Ready(Ok(0));
            }
            if self.held {
                return self.poll_receive(cx, buf);
            }
            let left = match self.last_pass {
                Some(left) => left,
                None => {
                    let queued = self.stream.queued().unwrap_or(LAST_PASS);
                    if queued > LAST_PASS {
                        self.scope.core.stats.last_pass_full.fetch_add(1, Relaxed);
                    }
                    *self.last_pass.insert(queued.min(LAST_PASS))
                }
            };
            let cap = match left {
                // Of an exchange that is under way the next frame may come, whenever it does.
                0 if self.is_login_under_way() => buf.len(),
                0 => rest.min(buf.len()),
                left => buf.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
            };
            if cap == 0 {
                ready!(poll_budget(cx));
                return Poll::Ready(Ok(0));
            }
            match self.poll_receive(cx, &mut buf[..cap]) {
                Poll::Pending if left > 0 && self.stream.is_drained() && has_budget_remaining() => {
                    self.last_pass = Some(0);
                }
                received => return received,
            }
        }
    }

    #[inline(always)]
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.poll_read(cx, buf) {
                Poll::Ready(Ok(read)) => {
                    self.has_read(read);
                    return Poll::Ready(Ok(read));
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // What came before is answered still.
                Poll::Ready(Err(_)) if self.stream.is_truncated() => {
                    self.scope.core.stats.tls.truncated.fetch_add(1, Relaxed);
                    self.has_read(0);
                    return Poll::Ready(Ok(0));
                }
                Poll::Ready(Err(error)) => {
                    self.broken = true;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Notes a read of `len` bytes.
    #[inline(always)]
    pub(crate) fn has_read(&mut self, len: usize) {
        self.read_at = Instant::now();
        self.ended = len == 0;
        if let Some(left) = &mut self.last_pass {
            *left = left.saturating_sub(len as u64);
        }
        self.moved += len;
        self.bytes_in += len as u64;
        self.scope.core.stats.read(len);
    }

    /// Appends what arrives to the input; `false` is the end, as in [`poll_read`](Self::poll_read).
    /// Parks while nothing comes.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        rest: usize,
    ) -> Poll<Result<bool, Error>> {
        if self.has_had_its_turn() {
            return self.yield_now(cx);
        }
        let read = with_scratch(|scratch| {
            let read = self.poll_read(cx, scratch, rest);
            if let Poll::Ready(Ok(read)) = read {
                self.input.put(&scratch[..read]);
            }
            read
        });
        match read {
            Poll::Ready(read) => Poll::Ready(Ok(read? > 0)),
            Poll::Pending => self.park(cx).map(Err),
        }
    }

    /// Waits for more, after a read that left nothing and whose answers were written: the next turn,
    /// but for what it would look at first.
    #[inline(always)]
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match self.stream.poll_readable(cx) {
            Poll::Ready(ready) => Poll::Ready(Ok(ready?)),
            // A plain read takes no more than the last pass has left, and so leaves its socket ready. Under
            // TLS only the next read knows that the pass is over.
            Poll::Pending if !self.stream.is_plain() && self.scope.is_draining() => {
                Poll::Ready(Ok(()))
            }
            Poll::Pending => self.park(cx).map(Err),
        }
    }
}

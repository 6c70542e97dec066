//! The end of a connection: everything written, FIN, then a read to the peer's end of stream.
//!
//! Closing a socket with unread input sends a reset, which destroys replies that are still on their
//! way. So we read and discard what comes, bounded by time alone: a bound in bytes would cut the
//! replies of a peer that has more in flight.

use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::Error;
use crate::connection::{Connection, Under, with_scratch};
use crate::deadline::{Wait, Why, deadline};
use crate::frame::Reason;
use crate::stats::{Ending, State};

impl Connection {
    /// Ends the connection after its handler. What cannot end in order is reset when dropped.
    pub(crate) async fn finish(&mut self, result: Result<(), Error>) -> Ending {
        self.enter(State::Closing);
        if let Err(error) = &result {
            self.note(error);
            self.scope.log(self.peer(), error);
        }
        let (reason, failed) = match &result {
            Ok(()) => (Reason::Drain, false),
            Err(Error::Idle) => (Reason::Idle, false),
            Err(Error::DrainDeadline) => return Ending::Forced,
            Err(Error::WriteTimedOut | Error::SourceLimit) => return Ending::Failed,
            Err(Error::FrameTimedOut | Error::LoginTimedOut) => (Reason::Stalled, true),
            Err(_) => (Reason::Error, true),
        };
        if self.broken || self.under == Under::Passing || self.owed > 0 {
            return Ending::Failed;
        }
        if !self.ended {
            self.say_goaway(reason);
        }
        let closed = self.close().await;
        if let Err(error) = &closed {
            self.note(error);
        }
        match closed {
            Ok(_) if failed => Ending::Failed,
            Ok(ending) => ending,
            Err(Error::DrainDeadline) => Ending::Forced,
            Err(_) => Ending::Failed,
        }
    }

    async fn close(&mut self) -> Result<Ending, Error> {
        self.flush().await?;
        // Nothing of ours is under way any more: what still comes is not ours to judge.
        self.input.clear();
        self.head_len = 0;
        self.under = Under::Nothing;
        let mut linger = Linger { began: Instant::now(), arrived: None };
        if self.ended && self.stream.is_plain() {
            self.finished = true;
            return Ok(Ending::Completed);
        }
        poll_fn(|cx| self.poll_fin(cx, &linger)).await?;
        if self.stream.is_truncated() {
            self.finished = true;
            return Ok(Ending::Failed);
        }
        let ending = poll_fn(|cx| self.poll_linger(cx, &mut linger)).await?;
        self.finished = ending != Ending::Forced;
        Ok(ending)
    }

    /// Ends our side, which under TLS takes a write.
    fn poll_fin(&mut self, cx: &mut Context<'_>, linger: &Linger) -> Poll<Result<(), Error>> {
        match self.stream.poll_shutdown(cx) {
            Poll::Ready(ended) => Poll::Ready(Ok(ended?)),
            Poll::Pending => {
                let wait = Wait::Linger { began: linger.began };
                let late = ready!(self.park_until(cx, wait, Instant::now()));
                self.note_expired(self.deadline(wait).1);
                Poll::Ready(Err(late))
            }
        }
    }

    fn poll_linger(
        &mut self,
        cx: &mut Context<'_>,
        linger: &mut Linger,
    ) -> Poll<Result<Ending, Error>> {
        let wait = Wait::Linger { began: linger.began };
        loop {
            if self.has_had_its_turn() {
                return self.yield_now(cx);
            }
            let read = match with_scratch(|scratch| self.stream.poll_discard(cx, scratch)) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    self.moved = 0;
                    ready!(self.park_until(cx, wait, Instant::now()));
                    self.note_expired(self.deadline(wait).1);
                    return Poll::Ready(Ok(self.expired(linger)));
                }
            };
            self.bytes_in += read as u64;
            self.scope.core.stats.read(read);
            if read == 0 {
                return Poll::Ready(Ok(Ending::Completed));
            }
            self.moved += read;
            let now = Instant::now();
            linger.arrived = Some(now);
            let (until, why) = self.deadline(wait);
            if until <= now {
                self.note_expired(why);
                return Poll::Ready(Ok(Ending::Forced));
            }
        }
    }

    fn deadline(&self, wait: Wait) -> (Instant, Why) {
        deadline(wait, &self.scope.core.limits, self.scope.drain.deadline())
    }

    fn note_expired(&self, why: Why) {
        let stats = &self.scope.core.stats;
        let counter = match why {
            Why::Drain => &stats.drain_timeouts,
            _ => &stats.linger_timeouts,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The peer has not closed in time: was it silent, or is it sending still?
    fn expired(&self, linger: &Linger) -> Ending {
        // A sender is caught between two bytes more often than not, so the last fifth counts.
        let recent = self.scope.core.limits.linger() / 5;
        let sending = linger.arrived.is_some_and(|at| at.elapsed() < recent)
            || self.stream.to_discard().is_some_and(|bytes| bytes > 0);
        if sending { Ending::Forced } else { Ending::Quiet }
    }
}

/// A read to the peer's end of stream.
struct Linger {
    began: Instant,
    /// When bytes last came.
    arrived: Option<Instant>,
}

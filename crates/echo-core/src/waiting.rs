//! How a connection waits: for its peer, its deadline and the drain, all at once, for the price of a
//! few comparisons.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::task::coop::{poll_proceed, unconstrained};
use tokio::time::Instant;

use crate::Error;
use crate::connection::{Connection, Under};
use crate::deadline::{Wait, Why, deadline};
use crate::frame::MAX_CONTROL_LEN;

/// Bytes that one turn of a connection moves before it lets others run.
pub(crate) const TURN: usize = 256 << 10;

/// What a control frame counts for in a turn: about as many bytes as pass through in the time that
/// it takes to answer one. Without it, 64 Ki empty HELLOs would be one turn.
pub(crate) const CONTROL_COST: usize = 1 << 10;

/// What a message counts for in a turn beyond its bytes.
pub(crate) const MESSAGE_COST: usize = 64;

/// Bytes in a turn that make its connection worth staying awake for: the copying of fewer takes no
/// longer than a few looks at the sockets.
const BULKY: usize = 8 << 10;

/// Looks at the sockets before a worker sleeps, while nothing comes after such a turn: about 10 µs. A peer
/// that is busy with what it got then finds the server awake, where each of its sends would have to wake
/// it: 0.92 of C's rate became 1.00 with 16 KiB over Unix sockets. 4 looks gained half of that, 64 no more.
pub(crate) const LOOKS: u8 = 16;

/// How the writing of output stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Writing {
    /// Nothing had to be kept yet.
    Unused,
    /// The peer lets us wait, for so many bytes.
    Blocked { since: Instant, unwritten: u32 },
    /// All output was written.
    Flushed { at: Instant },
}

impl Connection {
    /// Whether this connection has moved so much that others are due.
    #[inline]
    pub(crate) fn has_had_its_turn(&self) -> bool {
        self.moved >= TURN
    }

    /// Lets others run, and comes back after the next look at the sockets. Waking the task by itself
    /// would put it into the queue at once, and a worker that never runs out of tasks looks at the
    /// sockets once in hundreds of turns only: 128 MiB of bulk would pass by a small frame.
    pub(crate) fn yield_now<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        self.moved = 0;
        self.looks = LOOKS;
        self.scope.core.stats.turn_full();
        come_back(cx)
    }

    /// Goes to wait: sees to it that the task wakes at its deadline and when the drain starts, and
    /// fails when the deadline has passed.
    ///
    /// Timer and drain are polled only when they change, since the task's waker stays the same: a
    /// wait costs a few comparisons.
    #[inline]
    pub(crate) fn park(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.moved > 0 {
            self.looks = if self.moved < BULKY { 0 } else { LOOKS };
            if self.is_armed_for_traffic(cx) {
                self.moved = 0;
                self.input.release();
                return self.look_again(cx);
            }
        }
        match self.park_anew(cx) {
            Poll::Pending => self.look_again(cx),
            late => late,
        }
    }

    /// Keeps the worker awake for one more look at the sockets, while there are any left.
    #[inline]
    fn look_again<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        if self.looks > 0 && self.output.is_empty() {
            self.looks -= 1;
            return come_back(cx);
        }
        Poll::Pending
    }

    /// Whether this is a wait for traffic like the one before: the timer is armed for that one's
    /// deadline, which is earlier, and so will do.
    #[inline]
    fn is_armed_for_traffic(&self, cx: &Context<'_>) -> bool {
        self.armed_for_traffic == Some(self.scope.core.limits.swaps())
            && self.output.is_empty()
            && self.is_between_frames()
            && self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
            && self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed())
            && !self.scope.is_draining()
    }

    fn park_anew(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        // A turn that has read something has just looked at the clock. But a handler may have worked
        // for long between reading and writing.
        let fresh = std::mem::take(&mut self.moved) > 0 && self.output.is_empty();
        let now = if fresh { self.read_at } else { Instant::now() };
        let wait = self.wait(now);
        self.park_until(cx, wait, now)
    }

    fn wait(&mut self, now: Instant) -> Wait {
        // A peer that waited for our answer, or was busy reading it, was not silent.
        let active = match self.writing {
            Writing::Flushed { at } => at.max(self.read_at),
            _ => self.read_at,
        };
        let in_frame = !self.is_between_frames();
        if in_frame {
            self.began.get_or_insert(active);
        }
        if !self.output.is_empty() {
            let (began, unwritten) = match self.writing {
                Writing::Blocked { since, unwritten } => (since, unwritten),
                _ => {
                    self.scope.core.stats.write_blocked();
                    // A peer that does not read shall not hold more than what is left.
                    self.input.compact();
                    if self.output.spare() > MAX_CONTROL_LEN as usize {
                        self.output.compact();
                    }
                    (now, self.output.len() as u32)
                }
            };
            self.writing = Writing::Blocked { since: began, unwritten };
            return Wait::Write { began, unwritten };
        }
        self.input.release();
        match self.began {
            Some(began) if in_frame => Wait::Frame { began, declared: self.passage.declared },
            _ => Wait::Traffic { since: active },
        }
    }

    #[inline]
    fn is_between_frames(&self) -> bool {
        self.under == Under::Nothing && self.head_len == 0 && self.input.is_empty()
    }

    pub(crate) fn park_until(
        &mut self,
        cx: &mut Context<'_>,
        wait: Wait,
        now: Instant,
    ) -> Poll<Error> {
        let drain = if self.scope.is_draining() { self.scope.drain.deadline() } else { None };
        // Looked at first: limits that are swapped after it are not taken for those of the deadline.
        let swaps = self.scope.core.limits.swaps();
        let mut bound = deadline(wait, &self.scope.core.limits, drain);
        if let Some(login) = &mut self.login {
            bound = login.bound(bound, self.scope.is_draining(), now);
        }
        let (until, why) = bound;
        if until <= now {
            ready!(poll_budget(cx));
            return Poll::Ready(why.into());
        }
        self.armed_for_traffic = (why == Why::Idle).then_some(swaps);
        let same = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !same {
            self.waker = Some(cx.waker().clone());
            self.slot = Some(self.scope.register(self.slot, cx.waker()));
            if self.scope.is_draining() && self.last_pass.is_none() {
                cx.waker().wake_by_ref();
            }
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        let armed = timer.deadline();
        // It may have gone off while the handler waited for something else.
        if !same || timer.is_elapsed() || until < armed {
            if armed != until {
                timer.as_mut().reset(until);
            }
            // Out of the task's budget: a timer that was not polled would never wake it.
            let polled = Pin::new(&mut unconstrained(timer.as_mut()))
                .poll(&mut Context::from_waker(cx.waker()));
            if polled.is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

/// Wakes the task after the next look at the sockets.
pub(crate) fn come_back<T>(cx: &mut Context<'_>) -> Poll<T> {
    // Its first poll hands the waker to the scheduler and is never ready.
    let yielded = pin!(tokio::task::yield_now()).poll(cx);
    debug_assert!(yielded.is_pending());
    Poll::Pending
}

/// Takes a unit of the task's budget, as Tokio's own calls do. Due wherever the same is told at once, however
/// often it is asked: a handler that asks on after the end would keep its worker, and no drain could end it.
pub(crate) fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    poll_proceed(cx).map(|budget| budget.made_progress())
}

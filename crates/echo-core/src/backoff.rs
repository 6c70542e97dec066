//! Waiting for what the system is short of, so that a call that fails at once is not tried for ever.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

/// The pause between calls that fail for want of descriptors or memory.
#[derive(Default)]
pub(crate) struct Backoff {
    last: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Backoff {
    /// The first pause; it doubles.
    pub(crate) const MIN: Duration = Duration::from_millis(10);
    /// The longest pause: how late a service that has room again may notice.
    const MAX: Duration = Duration::from_secs(1);

    /// Waits from now on, twice as long as the last time.
    pub(crate) fn pause(&mut self) {
        self.last = (self.last * 2).clamp(Self::MIN, Self::MAX);
        self.timer = Some(Box::pin(tokio::time::sleep(self.last)));
    }

    /// Waits no longer: there may be room.
    pub(crate) fn retry_now(&mut self) {
        self.timer = None;
    }

    /// Is pending while it waits.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        Poll::Ready(())
    }
}

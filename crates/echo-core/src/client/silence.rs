//! How long nothing has come while something was due and somebody waited for it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A clock that runs while the caller waits. Its timer is armed once and only compared when it
/// fires: moving it with each read would go through the runtime's timer lock.
#[derive(Debug)]
pub(super) struct Silence {
    limit: Duration,
    /// What has run up before `since`.
    before: Duration,
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, before: Duration::ZERO, since: None, alarm: None }
    }

    /// How long it may last from now on.
    pub(super) fn allow(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Something came, or nothing is due.
    #[inline]
    pub(super) fn end(&mut self) {
        (self.before, self.since) = (Duration::ZERO, None);
    }

    /// The caller does not wait any longer: what follows is no silence of the server's.
    pub(super) fn pause(&mut self) {
        if let Some(since) = self.since.take() {
            self.before += Instant::now() - since;
        }
    }

    /// Ready when it has lasted too long. The clock runs from here.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let end = since + self.limit.saturating_sub(self.before);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if alarm.deadline() > end {
            alarm.as_mut().reset(end);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= end {
                return Poll::Ready(self.limit);
            }
            alarm.as_mut().reset(end);
        }
        Poll::Pending
    }
}

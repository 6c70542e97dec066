//! The drain: one trigger, one deadline, seen by everything under it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Stops a service: first gently with a deadline, then at once. Cheap to clone; [`child`]s let one
/// listener be drained while the others go on. It stays started: what is to be served anew takes a new one.
///
/// [`child`]: Self::child
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Node>);

#[derive(Debug, Default)]
struct Node {
    parent: Option<Drain>,
    started: CancellationToken,
    cut: CancellationToken,
    deadline: OnceLock<Instant>,
}

impl Drain {
    /// A drain that has not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// A drain that starts with this one, or before it on its own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(Arc::new(Node {
            parent: Some(self.clone()),
            started: self.0.started.child_token(),
            cut: self.0.cut.child_token(),
            deadline: OnceLock::new(),
        }))
    }

    /// Starts the drain: what is open then has until `timeout` from now. Only the first call
    /// counts.
    pub fn start(&self, timeout: Duration) {
        // A timer holds about 30 years; nobody waits for more.
        let timeout = timeout.min(Duration::from_secs(1_000_000_000));
        self.0.deadline.get_or_init(|| Instant::now() + timeout);
        self.0.started.cancel();
    }

    /// Ends everything now: what is still open is reset.
    pub fn cut(&self) {
        self.start(Duration::ZERO);
        self.0.cut.cancel();
    }

    /// Whether the drain has started.
    pub fn is_started(&self) -> bool {
        self.0.started.is_cancelled()
    }

    /// When what is left is cut, once the drain has started.
    pub fn deadline(&self) -> Option<Instant> {
        let parents = self.0.parent.as_ref().and_then(Self::deadline);
        match (self.0.deadline.get().copied(), parents) {
            (Some(own), Some(parents)) => Some(own.min(parents)),
            (own, parents) => own.or(parents),
        }
    }

    /// Waits until the drain has started.
    ///
    /// # Cancel safety
    /// Cancel safe: the state is a level, not an edge.
    pub async fn started(&self) {
        self.0.started.cancelled().await;
    }

    /// Waits until one more of the drains above this one starts, which may move the deadline.
    pub(crate) async fn hurried(&self) {
        let mut above = self.0.parent.as_ref();
        while let Some(drain) = above {
            // One further up starts this one too.
            if !drain.is_started() {
                return drain.started().await;
            }
            above = drain.0.parent.as_ref();
        }
        std::future::pending::<()>().await;
    }

    /// Whether there is still time for what may last until `until`: a drain above this one may bring the deadline
    /// forward, and a cut ends all.
    pub(crate) fn has_time(&self, until: Instant) -> bool {
        let until = self.deadline().map_or(until, |deadline| until.min(deadline));
        Instant::now() < until && !self.is_cut_off()
    }

    /// Whether everything is to end now.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.0.cut.is_cancelled()
    }

    /// Waits until everything is to end now.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn cut_off(&self) {
        self.0.cut.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_child_follows_its_parent_but_not_the_reverse() {
        let all = Drain::new();
        let (one, other) = (all.child(), all.child());
        one.start(Duration::from_secs(60));
        assert!(one.is_started() && !all.is_started() && !other.is_started());
        all.start(Duration::from_secs(5));
        other.started().await;
        assert_eq!(one.deadline(), all.deadline(), "the earlier deadline counts");
        all.start(Duration::from_secs(1));
        assert_eq!(all.deadline(), Some(Instant::now() + Duration::from_secs(5)));
        all.cut();
        one.cut_off().await;
    }
}

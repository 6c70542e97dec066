//! Whether to send this server new connections: what `/readyz` says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use echo_core::Service;

/// Set by the daemon, read by the admin endpoint. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(Arc<Mutex<Phase>>);

#[derive(Debug)]
enum Phase {
    Starting,
    Ready,
    Ending(String),
}

impl Readiness {
    /// Of a server that starts.
    pub(crate) fn starting() -> Self {
        Self(Arc::new(Mutex::new(Phase::Starting)))
    }

    /// Every socket is bound and served.
    pub(crate) fn ready(&self) {
        let mut phase = self.lock();
        if matches!(*phase, Phase::Starting) {
            *phase = Phase::Ready;
        }
    }

    /// No new connections, please, because of `why`. It stays so.
    pub(crate) fn ending(&self, why: String) {
        let mut phase = self.lock();
        if !matches!(*phase, Phase::Ending(_)) {
            *phase = Phase::Ending(why);
        }
    }

    /// Why `service` is not ready, or that it is.
    pub(crate) fn check(&self, service: &Service) -> Result<(), String> {
        let open = service.stats().active;
        match &*self.lock() {
            Phase::Ending(why) => Err(format!("draining: {why}; {open} connections are open")),
            // Whoever has started it.
            _ if service.drain().is_started() => {
                Err(format!("draining; {open} connections are open"))
            }
            Phase::Starting => Err("starting: not every socket is bound yet".to_owned()),
            Phase::Ready => Ok(()),
        }
    }

    /// Nothing panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ready_between_start_and_drain() {
        let (readiness, service) = (Readiness::starting(), Service::default());
        assert!(readiness.check(&service).unwrap_err().starts_with("starting"));
        readiness.ready();
        assert_eq!(readiness.check(&service), Ok(()));
        readiness.ending("SIGTERM".to_owned());
        readiness.ready();
        readiness.ending("later".to_owned());
        assert_eq!(
            readiness.check(&service).unwrap_err(),
            "draining: SIGTERM; 0 connections are open"
        );
    }

    #[test]
    fn a_drain_that_nobody_announced_is_one() {
        let (readiness, service) = (Readiness::starting(), Service::default());
        readiness.ready();
        service.drain().start(Duration::ZERO);
        assert!(readiness.check(&service).unwrap_err().starts_with("draining"));
    }
}

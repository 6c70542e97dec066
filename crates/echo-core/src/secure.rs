//! The handshake of a connection that begins with one: on its own task, under one deadline.

use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::connection::Connection;
use crate::stream::Stream;
use crate::tls::{HANDSHAKE, Policy, Server, Session};
use crate::{Error, HandshakeFault};

/// Handshakes that are under way at once, in a service; more wait for a place, within their deadline. Each
/// holds up to 64 KiB of messages that have not come to an end.
pub(crate) const MAX_HANDSHAKES: usize = 512;

/// What a handshake has at most when a drain begins.
const IN_DRAIN: Duration = Duration::from_secs(5);

impl Connection {
    /// Whether this connection's listener knows of TLS.
    pub(crate) fn may_be_secured(&self) -> bool {
        self.scope.tls.is_some()
    }

    /// Puts TLS under the connection, where its listener and its first byte want that.
    pub(crate) async fn secure(&mut self) -> Result<(), Error> {
        let policy = self.scope.tls.as_ref().map(crate::tls::Port::policy).unwrap_or_default();
        match policy {
            Policy::Plain => Ok(()),
            Policy::Always(server) => self.shake(&server).await,
            Policy::Detect(server) => {
                // What ends before it begins is the handler's.
                if poll_fn(|cx| self.poll_fill(cx, 0)).await?
                    && self.input.first() == Some(&HANDSHAKE)
                {
                    return self.shake(&server).await;
                }
                Ok(())
            }
        }
    }

    async fn shake(&mut self, server: &Server) -> Result<(), Error> {
        let scope = Arc::clone(&self.scope);
        let core = &scope.core;
        let own = Instant::now() + core.limits.frame(0);
        let begun = mem::take(&mut self.input);
        let inner = mem::replace(&mut self.stream, Stream::Nothing);
        let session = Box::new(Session::server(inner, server, &begun)?);
        drop(begun);
        self.stream = Stream::Tls(session);
        let Stream::Tls(session) = &mut self.stream else { return Ok(()) };
        let shaken = {
            let mut shaking = pin!(async {
                let _place = match core.handshakes.try_acquire() {
                    Ok(place) => Some(place),
                    Err(_) => {
                        core.stats.tls.waited.fetch_add(1, Relaxed);
                        // The places are never closed.
                        core.handshakes.acquire().await.ok()
                    }
                };
                poll_fn(|cx| session.poll_handshake(cx)).await
            });
            let mut until = own;
            let mut late = pin!(sleep_until(until));
            let mut drains = false;
            loop {
                tokio::select! {
                    biased;
                    shaken = &mut shaking => break Some(shaken),
                    () = &mut late => break None,
                    () = scope.drain.started(), if !drains => {
                        drains = true;
                        let drain = scope.drain.deadline().unwrap_or(until);
                        until = until.min(drain).min(Instant::now() + IN_DRAIN);
                        late.as_mut().reset(until);
                    }
                }
            }
        };
        self.read_at = Instant::now();
        let fault = match shaken {
            Some(Ok(())) => {
                core.stats.tls.handshakes.fetch_add(1, Relaxed);
                return Ok(());
            }
            Some(Err(error)) => HandshakeFault::of(&error),
            None => HandshakeFault::TimedOut,
        };
        Err(Error::Handshake(fault))
    }
}

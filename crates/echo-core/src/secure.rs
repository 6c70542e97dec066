//! The handshake of a connection that begins with one: on its own task, each part of it under a deadline.

mod places;

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::connection::Connection;
use crate::service::Scope;
use crate::stream::Stream;
use crate::tls::{HANDSHAKE, Policy, Server, Session};
use crate::{Error, HandshakeFault};

pub(crate) use places::Places;

/// What a handshake has at most when a drain begins.
const IN_DRAIN: Duration = Duration::from_secs(5);

/// For how long a place is nobody else's: two round trips across the world, and a segment sent again. After
/// it, a place that others wait for is theirs.
const UNDISTURBED: Duration = Duration::from_secs(2);

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
        let shaken = self.shake_in_time(server, &scope).await;
        self.read_at = Instant::now();
        match shaken {
            Ok(()) => {
                scope.core.stats.tls.handshakes.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(fault) => Err(Error::Handshake(fault)),
        }
    }

    async fn shake_in_time(
        &mut self,
        server: &Server,
        scope: &Scope,
    ) -> Result<(), HandshakeFault> {
        let core = &scope.core;
        let mut time = Time { scope, in_drain: None };
        let mut begun = mem::take(&mut self.input);
        if begun.is_empty() {
            // A peer that says nothing costs nothing but its connection; what it says stays in its socket.
            let mut first = [0];
            let read = time.give(poll_fn(|cx| self.stream.poll_read(cx, &mut first))).await?;
            match read.map_err(|error| HandshakeFault::of(&error))? {
                0 => return Err(HandshakeFault::Ended),
                _ => begun.put(&first),
            }
        }
        let source = core.handshakes.source(self.peer(), &core.limits);
        let _place = time.give(source.enter(&core.stats.tls)).await?;
        let inner = mem::replace(&mut self.stream, Stream::Nothing);
        let session = Session::server(inner, server, &begun);
        let session = Box::new(session.map_err(|error| HandshakeFault::of(&error))?);
        drop(begun);
        self.stream = Stream::Tls(session);
        let Stream::Tls(session) = &mut self.stream else { return Ok(()) };
        let displaced = async {
            loop {
                sleep(UNDISTURBED).await;
                if source.is_awaited() {
                    break;
                }
            }
        };
        // Its own time begins here: that of waiting was not the peer's.
        let shaking = time.give(poll_fn(|cx| session.poll_handshake(cx)));
        tokio::select! {
            biased;
            shaken = shaking => shaken?.map_err(|error| HandshakeFault::of(&error)),
            () = displaced => Err(HandshakeFault::Displaced),
        }
    }
}

/// What the parts of one handshake have.
struct Time<'a> {
    scope: &'a Scope,
    /// When all of it is over, once a drain has begun.
    in_drain: Option<Instant>,
}

impl Time<'_> {
    /// Gives a part its time: the base of a frame's, whatever trickles in, and what a drain leaves.
    async fn give<T>(&mut self, part: impl Future<Output = T>) -> Result<T, HandshakeFault> {
        let drain = &self.scope.drain;
        let mut until = Instant::now() + self.scope.core.limits.frame(0);
        until = self.in_drain.map_or(until, |in_drain| until.min(in_drain));
        let mut part = pin!(part);
        let mut late = pin!(sleep_until(until));
        loop {
            tokio::select! {
                biased;
                output = &mut part => return Ok(output),
                () = &mut late => return Err(HandshakeFault::TimedOut),
                () = drain.started(), if self.in_drain.is_none() => {
                    let end = Instant::now() + IN_DRAIN;
                    let end = drain.deadline().map_or(end, |deadline| deadline.min(end));
                    self.in_drain = Some(end);
                    until = until.min(end);
                    late.as_mut().reset(until);
                }
            }
        }
    }
}

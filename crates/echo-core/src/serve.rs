//! The accept loop: lets connections in, runs each on its own task, and ends them all.
//!
//! Stop order: stop accepting, tell the connections, take in what the listener's queue holds, close
//! the listener, wait for the connections until the drain's deadline, cut what is left, report.

mod report;
mod task;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::Error;
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::gate::{Permit, Refusal};
use crate::listener::{AcceptFault, Listener};
use crate::pulse::Pulse;
use crate::seldom::Seldom;
use crate::service::{Core, Scope, Service};
use crate::stats::Ending;
use crate::stream::{Peer, Stream};

pub use report::{Report, ServeError};

/// How long a drain goes on taking in what the listener's queue holds: a full queue takes 2 cores
/// about 0.2 s while its connections are served as well.
const QUEUE_TIME: Duration = Duration::from_secs(1);
/// How much later than the drain's deadline a handler is aborted: connections that wait in
/// [`Connection`] end by themselves at the deadline, and know in which way.
const ABORT_GRACE: Duration = Duration::from_millis(150);

/// What a service does with one connection.
///
/// A connection is one task's, and has no halves: who has something to say unasked waits for both.
/// [`recv`](Connection::recv) may be dropped at any time, and flushes.
///
/// ```
/// use echo_core::{Connection, Error, Handler};
/// use tokio::sync::watch;
///
/// struct Prices(watch::Receiver<u64>);
///
/// impl Handler for Prices {
///     async fn run(&self, connection: &mut Connection) -> Result<(), Error> {
///         let mut price = self.0.clone();
///         loop {
///             tokio::select! {
///                 asked = connection.recv() => match asked? {
///                     Some(question) => connection.send(&question).await?,
///                     None => return Ok(()),
///                 },
///                 Ok(()) = price.changed() => {
///                     let news = price.borrow_and_update().to_be_bytes();
///                     connection.send(&news).await?;
///                 }
///             }
///         }
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Serves one connection, which is lent: when this returns, [`serve`] flushes and closes it in
    /// order, so an early return loses nothing that was sent.
    ///
    /// It should end when [`Connection::recv`] returns `None`, and when a call fails: then the connection is at its
    /// end. The limits bound what it waits for in [`Connection`], nothing else. In a drain it is aborted
    /// at the deadline, where it waits: one that blocks its thread is waited for.
    fn run(&self, connection: &mut Connection) -> impl Future<Output = Result<(), Error>> + Send;

    /// Looks at a connection that was just accepted and may begin with a handshake: what is due of it counts from
    /// here.
    fn accepted(&self, connection: &mut Connection) {
        let _ = connection;
    }

    /// Tells a peer for which there is no place, where [`Limits::refuse`](crate::Limits::refuse) asks for
    /// that; then the connection is closed in order. It has a second for both. Without a definition of its
    /// own it says nothing.
    fn turn_away(
        &self,
        connection: &mut Connection,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = connection;
        async { Ok(()) }
    }
}

/// Serves `listener` until the service's drain has ended every connection.
///
/// All that a peer or the system can cause is counted ([`Service::stats`]) and ends in the
/// [`Report`]; the only error is a listening socket that is itself broken, which starts the drain
/// of `service` (of [its own](Service::child), where it has one).
///
/// The runtime may be of either kind; it needs I/O and time, without which each connection's task panics.
///
/// # Cancel safety
/// Dropping the future aborts everything: the listener closes, open connections are reset.
pub async fn serve<H: Handler>(
    mut listener: Listener,
    service: Service,
    handler: Arc<H>,
) -> Result<Report, ServeError> {
    let mut connections = Connections {
        scope: Arc::new(Scope::new(&service, &listener)),
        handler,
        tasks: JoinSet::new(),
        report: Report::default(),
        draining: false,
        panics: Seldom::default(),
        pulse: service.core.loops.join(),
    };
    let accepting = accept_until_drained(&mut listener, &mut connections).await;
    if accepting.is_err() {
        service.drain.start(service.core.limits.drain());
    }
    let began = Instant::now();
    connections.start_drain();
    listener.unlink();
    if accepting.is_ok() && !listener.is_inherited() {
        accept_queued(&mut listener, &mut connections).await;
    }
    // From here on a connect is refused.
    drop(listener);
    connections.wait().await;
    let report = Report { took: began.elapsed(), ..connections.report };
    match accepting {
        Ok(()) => Ok(report),
        Err(source) => Err(ServeError { source, report }),
    }
}

/// Serves `listener` until `stop` is ready, then drains the service: what is open has
/// [`Limits::drain_timeout`](crate::Limits::drain_timeout) to end. For services with one listener and
/// nothing else to do.
///
/// # Errors
/// As [`serve`].
///
/// # Cancel safety
/// As [`serve`].
pub async fn serve_until<H: Handler>(
    listener: Listener,
    service: Service,
    handler: Arc<H>,
    stop: impl Future<Output = ()>,
) -> Result<Report, ServeError> {
    let mut serving = pin!(serve(listener, service.clone(), handler));
    tokio::select! {
        failed = &mut serving => return failed,
        () = stop => service.drain.start(service.core.limits.drain()),
    }
    serving.await
}

enum Event {
    Drain,
    Ended(Result<Ending, JoinError>),
    Accepted(Place, io::Result<(Stream, Peer)>),
}

/// What an accept is made with.
enum Place {
    Open(Permit),
    Refused(Refusal),
}

/// Accepts until the drain starts, or the listener fails.
async fn accept_until_drained<H: Handler>(
    listener: &mut Listener,
    connections: &mut Connections<H>,
) -> io::Result<()> {
    let scope = Arc::clone(&connections.scope);
    let mut started = pin!(scope.drain.started());
    let mut backoff = Backoff::default();
    let mut trouble = Seldom::default();
    let mut full = false;
    let _line = LeavesLine(&scope.core);
    loop {
        let event = poll_fn(|cx| {
            if started.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Drain);
            }
            connections.pulse.poll(cx);
            // Reaping is finite, as nothing is spawned without an accept.
            if let Poll::Ready(Some(ended)) = connections.tasks.poll_join_next(cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            ready!(backoff.poll(cx));
            let Some(permit) = Permit::poll(&scope.core, cx) else {
                if !std::mem::replace(&mut full, true) {
                    scope.core.stats.gate_full.fetch_add(1, Relaxed);
                }
                if !Refusal::is_due(&scope.core) {
                    return Poll::Pending;
                }
                let accepted = ready!(listener.poll_accept(cx));
                let place = Place::Refused(Refusal::take(&scope.core));
                return Poll::Ready(Event::Accepted(place, accepted));
            };
            full = false;
            listener.poll_accept(cx).map(|it| Event::Accepted(Place::Open(permit), it))
        });
        match event.await {
            Event::Drain => return Ok(()),
            Event::Ended(ended) => {
                connections.reap(ended);
                backoff.retry_now();
            }
            Event::Accepted(place, Ok((stream, peer))) => {
                backoff = Backoff::default();
                connections.spawn(stream, peer, place);
            }
            Event::Accepted(_, Err(error)) => {
                let fault = AcceptFault::of(&error);
                scope.core.stats.accept_failed(fault);
                match fault {
                    AcceptFault::Connection => {}
                    AcceptFault::Exhausted => {
                        backoff.pause();
                        if let Some(muted) = trouble.speak() {
                            tracing::warn!(
                                %error,
                                muted,
                                "cannot accept: raise the limit on open files, or lower the connection limit"
                            );
                        }
                    }
                    AcceptFault::Listener => {
                        tracing::error!(%error, "the listener failed: its service is drained");
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// Passes on a free place that a listener which is gone was woken for.
struct LeavesLine<'a>(&'a Core);

impl Drop for LeavesLine<'_> {
    fn drop(&mut self) {
        self.0.gate.wake();
    }
}

/// Takes in what the kernel had queued before the drain: those peers see a connection, and would see
/// a reset. What finds no place is reset here, where it is counted.
async fn accept_queued<H: Handler>(listener: &mut Listener, connections: &mut Connections<H>) {
    let until = Instant::now() + QUEUE_TIME;
    let drain = connections.scope.drain.clone();
    let core = Arc::clone(&connections.scope.core);
    for _ in 0..listener.backlog() {
        connections.pulse.answer_now();
        match listener.accept_queued() {
            Ok(Some((stream, peer))) => match Permit::now(&core) {
                Some(permit) if drain.has_time(until) => {
                    connections.spawn(stream, peer, Place::Open(permit));
                }
                _ => {
                    stream.reset_on_close();
                    connections.report.reset_in_queue += 1;
                    core.stats.reset_in_queue.fetch_add(1, Relaxed);
                }
            },
            Ok(None) => return,
            Err(error) => match AcceptFault::of(&error) {
                AcceptFault::Connection => {}
                // Descriptors come back as connections end.
                AcceptFault::Exhausted if drain.has_time(until) => {
                    tokio::time::sleep(Backoff::MIN).await;
                }
                AcceptFault::Exhausted | AcceptFault::Listener => return,
            },
        }
        tokio::task::coop::consume_budget().await;
    }
}

/// The connections of one listener.
struct Connections<H> {
    scope: Arc<Scope>,
    handler: Arc<H>,
    tasks: JoinSet<Ending>,
    report: Report,
    draining: bool,
    panics: Seldom,
    pulse: Pulse,
}

impl<H: Handler> Connections<H> {
    fn spawn(&mut self, stream: Stream, peer: Peer, place: Place) {
        self.report.accepted += 1;
        self.scope.listener.accepted();
        let connection =
            |permit| Box::new(Connection::new(stream, peer, Arc::clone(&self.scope), permit));
        let handler = Arc::clone(&self.handler);
        match place {
            Place::Open(permit) => self.tasks.spawn(task::run(connection(Some(permit)), handler)),
            Place::Refused(place) => {
                self.scope.core.stats.busy.fetch_add(1, Relaxed);
                self.tasks.spawn(task::refuse(connection(None), handler, place))
            }
        };
    }

    fn reap(&mut self, ended: Result<Ending, JoinError>) {
        let ending = ended.unwrap_or_else(|error| {
            if !error.is_panic() {
                self.scope.core.stats.drain_timeouts.fetch_add(1, Relaxed);
                return Ending::Forced;
            }
            if let Some(muted) = self.panics.speak() {
                tracing::error!(muted, "a handler panicked; its connection was reset");
            }
            Ending::Panicked
        });
        self.scope.listener.ended(ending);
        if self.draining {
            self.report.drained.add(ending);
        }
    }

    fn start_drain(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            // It ended before the drain began.
            self.reap(ended);
        }
        tracing::debug!(open = self.tasks.len(), "draining");
        self.scope.core.stats.drains.fetch_add(1, Relaxed);
        self.draining = true;
        self.scope.start_drain();
    }

    /// Waits for every connection, and cuts what is left at the deadline.
    async fn wait(&mut self) {
        // Once more: the deadline may have moved while the queue was taken in.
        self.scope.start_drain();
        let drain = self.scope.drain.clone();
        let deadline = || drain.deadline().unwrap_or_else(Instant::now) + ABORT_GRACE;
        let mut out_of_time = pin!(tokio::time::sleep_until(deadline()));
        let mut cut = pin!(drain.cut_off());
        loop {
            tokio::select! {
                biased;
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => self.reap(ended),
                    None => return,
                },
                () = &mut cut => break,
                () = self.pulse.answer() => {}
                // The drain of all may have less patience than this listener's own.
                () = drain.hurried() => {
                    out_of_time.as_mut().reset(deadline());
                    self.scope.start_drain();
                }
                () = &mut out_of_time => break,
            }
        }
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            self.reap(ended);
        }
    }
}

//! The listeners at work: added, changed, drained.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::mem;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;

use echo_core::tls::{Policy, Port};
use echo_core::{
    Connection, DatagramEcho, Datagrams, Drain, Echo, Endpoint, Error, Handler, Limits, Report,
    ServeError, Service, serve, serve_datagrams,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::bind::Bound;
use crate::end::End;
use crate::extension::Extension;
use crate::notify::Notify;
use crate::passed::{self, Passed};
use crate::protection::Protection;
use crate::signals::Stop;
use crate::tls::Secured;

/// How long a hard stop waits for tasks to see it.
const HARD_STOP: Duration = Duration::from_millis(150);

/// All listeners, each of their sockets in a task of its own.
pub(crate) struct Serving<'a> {
    service: Service,
    extension: Extension,
    notify: &'a Notify,
    listening: Vec<Listening>,
    /// Of what is no longer listened on, the sockets that may be open yet.
    closing: Vec<Open>,
    tasks: JoinSet<Result<Report, ServeError>>,
    end: End,
    /// A listener has failed, and is drained.
    failing: bool,
}

/// One `--listen`.
struct Listening {
    /// As it was announced.
    uri: String,
    /// The name under which a service manager has its sockets stored, if it has.
    stored: String,
    endpoint: Endpoint,
    drain: Drain,
    streams: Arc<Streams>,
    port: Port,
    /// Where it has datagram sockets: their table of rates is large.
    datagrams: Option<Arc<DatagramEcho>>,
    protection: Protection,
    open: Open,
}

/// Sockets, each with a task that ends when it is closed.
type Open = JoinSet<()>;

impl<'a> Serving<'a> {
    /// Serves nothing yet.
    pub(crate) fn new(service: Service, extension: Extension, notify: &'a Notify) -> Self {
        Self {
            service,
            extension,
            notify,
            listening: Vec::new(),
            closing: Vec::new(),
            tasks: JoinSet::new(),
            end: End::default(),
            failing: false,
        }
    }

    /// Where it listens, and peers find it.
    pub(crate) fn endpoints(&self, passed: &Passed) -> impl Iterator<Item = &Endpoint> {
        let found = |it: &&Listening| !passed.is_lost(&it.endpoint.address, &it.stored);
        self.listening.iter().filter(found).map(|it| &it.endpoint)
    }

    /// Starts to serve what was bound.
    pub(crate) fn add(&mut self, bound: Vec<Bound>, greeting: &str, secured: Option<&Secured>) {
        let mut futures = Vec::new();
        for Bound { uri, endpoint, sockets, adopted } in bound {
            let stored = passed::stored_name(&uri, endpoint.perm, sockets.addresses().next());
            if !adopted {
                self.notify.store(&stored, &sockets.fds());
            }
            let service = self.service.child();
            let protection = Protection::new(sockets.addresses());
            let streams = echo(&endpoint, greeting, &self.extension);
            let streams = Arc::new(Streams(RwLock::new(streams)));
            let port = Port::new(policy(&endpoint, secured));
            let mut open = Open::new();
            for listener in sockets.listeners {
                open.spawn(listener.closed());
                let listener = listener.secured(port.clone());
                self.tasks.spawn(serve(listener, service.clone(), Arc::clone(&streams)));
            }
            let datagrams = (!sockets.datagrams.is_empty()).then(|| {
                let echo = DatagramEcho::new(endpoint.mode.unwrap_or_default());
                Arc::new(echo.rate(endpoint.rate))
            });
            for (socket, echo) in sockets.datagrams.into_iter().zip(datagrams.iter().cycle()) {
                let serving = serve_datagrams(socket, service.clone(), Arc::clone(echo));
                let (guard, dropped) = oneshot::channel::<Infallible>();
                open.spawn(async { _ = dropped.await });
                futures.push(async {
                    let _guard = guard;
                    serving.await
                });
            }
            let drain = service.drain().clone();
            let listening = Listening {
                uri,
                stored,
                endpoint,
                drain,
                streams,
                port,
                datagrams,
                protection,
                open,
            };
            self.listening.push(listening);
        }
        // Now that the service knows all its ports, none of which it talks to.
        futures.into_iter().for_each(|serving| drop(self.tasks.spawn(serving)));
    }

    /// Says in the log how what others can reach by UDP is protected, where that is news.
    pub(crate) fn say_protection(&mut self, limits: &Limits) {
        for Listening { uri, endpoint, protection, .. } in &mut self.listening {
            protection.say(uri, endpoint, limits);
        }
    }

    /// Gives what listens on one of the `wanted` addresses the mode, rate, greeting and certificate to speak
    /// with from now on, and drains the others. Returns how many those were.
    pub(crate) fn keep(
        &mut self,
        wanted: &[Endpoint],
        greeting: &str,
        secured: Option<&Secured>,
        patience: Duration,
    ) -> usize {
        let mut wanted: Vec<_> = wanted.iter().collect();
        let before = self.listening.len();
        for mut listening in mem::take(&mut self.listening) {
            let found = wanted.iter().position(|it| it.address == listening.endpoint.address);
            match found {
                Some(index) => {
                    listening.change(wanted.remove(index), greeting, &self.extension, secured);
                    self.listening.push(listening);
                }
                None => {
                    tracing::info!("{} is no longer listened on: it is drained", listening.uri);
                    self.notify.forget(&listening.stored);
                    listening.drain.start(patience);
                    self.closing.push(listening.open);
                }
            }
        }
        before - self.listening.len()
    }

    /// Waits until what is no longer listened on is closed: a second at most, in which what waits in its queues is
    /// taken in, and until the service manager holds it no longer. Dropped, it waits for none of that again.
    pub(crate) async fn closed(&mut self) {
        if self.closing.is_empty() {
            return;
        }
        for mut open in self.closing.drain(..) {
            while open.join_next().await.is_some() {}
        }
        self.notify.settled().await;
    }

    /// Waits until a listener has failed, which starts its drain: its connections have not ended by then.
    /// Those that were drained end by themselves. Cancel safe.
    pub(crate) async fn failed(&mut self) {
        let mut failing: Vec<_> =
            self.listening.iter().map(|it| Box::pin(it.drain.started())).collect();
        let mut any =
            poll_fn(|cx| match failing.iter_mut().any(|it| it.as_mut().poll(cx).is_ready()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
        loop {
            let ended = tokio::select! {
                ended = self.tasks.join_next() => ended,
                () = &mut any => return self.failing = true,
            };
            match ended {
                // The connections that were open when all is drained do not count this one's.
                Some(Ok(Ok(report))) => {
                    tracing::info!(ended = ?report.drained, "a listener is gone");
                }
                Some(failure) => return self.end.add(failure),
                // Not while there is a listener, of which there is always one.
                None => return std::future::pending().await,
            }
        }
    }

    /// The names under which a service manager may have their sockets stored.
    pub(crate) fn stored(&self) -> Vec<String> {
        self.listening.iter().map(|it| it.stored.clone()).collect()
    }

    /// Drains all listeners after `delay` and waits for their ends. Cancel safe.
    pub(crate) async fn drain(&mut self, delay: Duration, timeout: Duration) {
        if !self.failing && self.end.failure.is_none() && !delay.is_zero() {
            sleep(delay).await;
        }
        // A stop wants the queues empty and the sockets closed, as without a manager.
        self.listening.iter().for_each(|it| self.notify.forget(&it.stored));
        self.service.drain().start(timeout);
        while let Some(ended) = self.tasks.join_next().await {
            self.end.add(ended);
        }
    }

    /// Ends everything now.
    pub(crate) async fn cut(&mut self, stop: Stop) {
        self.end.stopped_hard = Some(stop);
        self.service.drain().cut();
        let deadline = Instant::now() + HARD_STOP;
        let all = self.drain(Duration::ZERO, Duration::ZERO);
        if timeout_at(deadline, all).await.is_err() {
            let left = self.service.stats().active as u64;
            tracing::error!("{left} connections did not see the hard stop in time");
            self.end.report.drained.forced += left;
        }
    }

    /// How it ended, with the books checked.
    pub(crate) fn end(self) -> End {
        let stats = self.service.stats();
        if stats.accepted != stats.ended.total() + stats.active as u64 {
            tracing::error!(?stats, "the ends of connections do not add up, which is a defect");
        }
        let Datagrams { received, answered, .. } = stats.datagrams;
        if received != answered + stats.datagrams.unanswered() {
            tracing::error!(?stats, "the ends of datagrams do not add up, which is a defect");
        }
        if received > 0 {
            tracing::info!("datagrams: {}", counted(&stats.datagrams));
        }
        self.end
    }
}

impl Listening {
    fn change(
        &mut self,
        wanted: &Endpoint,
        greeting: &str,
        extension: &Extension,
        secured: Option<&Secured>,
    ) {
        let mode = wanted.mode.unwrap_or_default();
        let echo = echo(wanted, greeting, extension);
        *self.streams.0.write().unwrap_or_else(PoisonError::into_inner) = echo;
        self.port.set(policy(wanted, secured));
        if let Some(datagrams) = &self.datagrams {
            datagrams.set_mode(mode);
            datagrams.set_rate(wanted.rate);
        }
        self.endpoint = wanted.clone();
    }
}

fn policy(endpoint: &Endpoint, secured: Option<&Secured>) -> Policy {
    secured.map_or(Policy::Plain, |secured| secured.policy(endpoint))
}

fn echo(endpoint: &Endpoint, greeting: &str, extension: &Extension) -> Arc<Echo<Extension>> {
    // SIGPIPE is ignored: std has seen to it before main.
    let echo = Echo::new(endpoint.mode.unwrap_or_default()).greeting(greeting).splice(true);
    Arc::new(echo.extended(extension.at(endpoint)))
}

/// The echo of a listener's connections. Swapped, it is that of connections to come.
struct Streams(RwLock<Arc<Echo<Extension>>>);

impl Streams {
    fn echo(&self) -> Arc<Echo<Extension>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Handler for Streams {
    fn accepted(&self, connection: &mut Connection) {
        self.echo().accepted(connection);
    }

    fn run(&self, connection: &mut Connection) -> impl Future<Output = Result<(), Error>> + Send {
        let echo = self.echo();
        async move { echo.run(connection).await }
    }

    async fn turn_away(&self, connection: &mut Connection) -> Result<(), Error> {
        self.echo().turn_away(connection).await
    }
}

/// The counters that are not 0, as `name=count`.
fn counted(datagrams: &Datagrams) -> String {
    let counters = [
        ("received", datagrams.received),
        ("answered", datagrams.answered),
        ("truncated", datagrams.truncated),
        ("refused_port", datagrams.refused_port),
        ("refused_address", datagrams.refused_address),
        ("over_rate", datagrams.over_rate),
        ("loop_guard", datagrams.loop_guard),
        ("probe_replies", datagrams.probe_replies),
        ("unnamed", datagrams.unnamed),
        ("blocked", datagrams.blocked),
        ("failed", datagrams.failed),
        ("receive_errors", datagrams.receive_errors),
        ("kernel_drops", datagrams.kernel_drops),
        ("sockets_left_with_a_queue", datagrams.left_in_queue),
    ];
    let counted = counters.iter().filter(|(_, count)| *count > 0);
    counted.map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use echo_core::{Limits, Listener, SocketOptions};
    use socket2::SockRef;

    use super::*;
    use crate::passed::Sockets;

    /// The moment it fails, and not when its last connection has ended.
    #[tokio::test]
    async fn a_listener_that_fails_is_heard_of_at_once() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let broken = socket.try_clone().unwrap();
        let address = socket.local_addr().unwrap();
        let service = Service::new(Limits::default(), Drain::new());
        let notify = Notify::default();
        let mut serving = Serving::new(service.clone(), Extension::default(), &notify);
        let uri = format!("tcp://{address}");
        let listener = Listener::inherited(socket.into(), &SocketOptions::default()).unwrap();
        let sockets = Sockets { listeners: vec![listener], datagrams: Vec::new() };
        let endpoint = uri.parse().unwrap();
        serving.add(vec![Bound { uri, endpoint, sockets, adopted: true }], "", None);
        let mut peer = TcpStream::connect(address).unwrap();
        // Half a frame keeps it open in the drain.
        peer.write_all(&[0, 0, 0, 9, 1]).unwrap();
        while service.stats().active == 0 {
            tokio::task::yield_now().await;
        }
        SockRef::from(&broken).shutdown(Shutdown::Both).unwrap();
        timeout_at(Instant::now() + Duration::from_secs(5), serving.failed()).await.unwrap();
        assert!(!service.drain().is_started());
        serving.drain(Duration::from_secs(3600), Duration::ZERO).await;
        assert_eq!(serving.end().code(), crate::exit::IO);
    }
}

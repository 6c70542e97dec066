//! The admin endpoint: `/metrics`, `/healthz` and `/readyz` over HTTP/1.1, whatever becomes of the
//! service beside it.
//!
//! A thread of its own, since it has to answer when all workers are busy, and to the end of a drain. None of
//! the service's limits count here; its own are below.

mod answer;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use echo_core::{AcceptFault, Drain, Endpoint, EndpointError, Listener, LocalAddr, SocketOptions};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use crate::bind;
use crate::exit::Failure;
use crate::metrics::Metrics;
use answer::Answers;

/// Connections at once. At the bound the oldest that is not being answered makes room for the next, so nobody
/// who slowly sends nothing keeps others out.
const CONNECTIONS: usize = 16;
/// How long each may stay at least. Who has waited in the queue has sent its request by then.
const GRACE: Duration = Duration::from_millis(10);
/// What a connection has for everything, from its accept to its end.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest request, all headers included. The least that hyper can be told.
const REQUEST: usize = 8 << 10;
/// Header lines of a request: twice what browsers send.
const HEADERS: usize = 32;
/// Descriptors kept for connections that come when the service has used up all others.
const SPARES: usize = 4;
/// How long to wait where descriptors have run out: accept then fails whether somebody waits or not, so that the
/// socket has to be looked at. A thousandth of a core.
const PAUSE: Duration = Duration::from_millis(20);

/// Where to answer: `HOST:PORT`, `unix:PATH` or the like URI.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint, String> {
    let uri = match text.contains("://") || text.starts_with("unix:") {
        true => text.to_owned(),
        false if text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) => {
            return Err("no port: HOST:PORT or unix:PATH is needed".to_owned());
        }
        false => format!("tcp://{text}"),
    };
    let endpoint: Endpoint = uri.parse().map_err(|error: EndpointError| error.to_string())?;
    match endpoint {
        Endpoint { tls: true, .. } => {
            Err("the admin endpoint speaks no TLS: write HOST:PORT".to_owned())
        }
        Endpoint { ref address, .. } if address.is_datagram() => {
            Err("HTTP needs a stream: HOST:PORT or unix:PATH".to_owned())
        }
        Endpoint { mode: None, rate: None, ref options, .. } if options.is_empty() => Ok(endpoint),
        _ => Err("perm is the only option there is".to_owned()),
    }
}

/// The endpoint at work. It ends when this is dropped.
pub(crate) struct Admin {
    stop: Drain,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Binds `endpoint` and answers there from here on.
    ///
    /// # Cancel safety
    /// Dropped, it leaves a thread behind that ends once its name has resolved.
    pub(crate) async fn start(endpoint: Endpoint, metrics: Metrics) -> Result<Self, Failure> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::cannot_start(&error))?;
        let answers = Answers { metrics };
        let stop = Drain::new();
        let stopped = stop.clone();
        let (tell, bound) = oneshot::channel();
        let work = move || {
            runtime.block_on(async move {
                match bind(&endpoint).await {
                    Ok(listener) => {
                        if tell.send(Ok(())).is_err() {
                            // Nobody waits for it any more.
                            return;
                        }
                        serve(listener, Arc::new(answers), stopped).await;
                    }
                    Err(failure) => drop(tell.send(Err(failure))),
                }
            });
        };
        let thread = thread::Builder::new().name("admin".into()).spawn(work);
        let thread = thread.map_err(|error| Failure::cannot_start(&error))?;
        match bound.await {
            Ok(Ok(())) => Ok(Self { stop, thread: Some(thread) }),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::defect()),
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cut();
        if let Some(thread) = self.thread.take() {
            // A panic in there was logged.
            let _ = thread.join();
        }
    }
}

/// Why it cannot be had.
fn failure(endpoint: &Endpoint, error: &io::Error) -> Failure {
    bind::failure(&format!("--admin {endpoint}"), &endpoint.address, error)
}

async fn bind(endpoint: &Endpoint) -> Result<Listener, Failure> {
    let bound = Listener::bind(endpoint, &SocketOptions::default()).await;
    let bound = bound.map_err(|error| failure(endpoint, &error))?;
    // A name with several addresses: the first.
    let listener = bound.into_iter().next().ok_or_else(Failure::defect)?;
    match listener.local_addr() {
        LocalAddr::Tcp(address) => tracing::info!("admin: http://{address}/metrics"),
        address => tracing::info!("admin: /metrics on unix:{address}"),
    }
    Ok(listener)
}

/// Answers until `stop`.
async fn serve(mut listener: Listener, answers: Arc<Answers>, stop: Drain) {
    let mut connections = JoinSet::new();
    let mut slots = Slots::default();
    let mut spares = Spares::default();
    spares.fill();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.started() => return,
            Some(ended) = connections.join_next() => {
                spares.keep(ended);
                continue;
            }
            // Where none is, it will be after a while, or ends.
            accepted = listener.accept(), if slots.have_room() => accepted,
            () = sleep(GRACE), if slots.are_full() => continue,
        };
        let error = match accepted {
            Ok((stream, _)) => {
                if slots.are_full() {
                    slots.make_room(&answers);
                }
                let busy = Arc::new(AtomicBool::new(false));
                let work = converse(stream, Arc::clone(&answers), Arc::clone(&busy));
                slots.add(connections.spawn(work), busy);
                continue;
            }
            Err(error) => error,
        };
        match AcceptFault::of(&error) {
            AcceptFault::Connection => continue,
            AcceptFault::Listener => {
                tracing::error!(%error, "the admin endpoint failed; the service goes on");
                return stop.started().await;
            }
            // The next try takes it.
            _ if is_waited_for(&listener) && spares.give_up_one() => continue,
            _ if is_waited_for(&listener) => slots.make_room(&answers),
            _ => spares.fill(),
        }
        tokio::select! {
            () = stop.started() => return,
            Some(ended) = connections.join_next() => spares.keep(ended),
            () = sleep(PAUSE) => {}
        }
    }
}

/// Whether a connection waits in the queue: without a descriptor for it accept(2) fails before it has looked.
fn is_waited_for(listener: &Listener) -> bool {
    let Some(fd) = listener.fd() else { return true };
    let now = Timespec::default();
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now))
        .is_ok_and(|ready| ready > 0)
}

/// The connections, from the oldest on.
#[derive(Default)]
struct Slots(VecDeque<Slot>);

struct Slot {
    since: Instant,
    /// Whether its whole request has come, and not all of the answer has gone.
    busy: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Slots {
    fn add(&mut self, task: AbortHandle, busy: Arc<AtomicBool>) {
        self.0.push_back(Slot { since: Instant::now(), busy, task });
    }

    fn are_full(&mut self) -> bool {
        self.0.retain(|slot| !slot.task.is_finished());
        self.0.len() >= CONNECTIONS
    }

    /// Whether one more can be taken, if need be in the place of another.
    fn have_room(&mut self) -> bool {
        !self.are_full() || self.idle().is_some()
    }

    /// The oldest that may be ended.
    fn idle(&self) -> Option<usize> {
        let is_idle = |slot: &Slot| slot.since.elapsed() >= GRACE && !slot.busy.load(Relaxed);
        self.0.iter().position(is_idle)
    }

    /// Ends one, if there is one that may be.
    fn make_room(&mut self, answers: &Answers) {
        if let Some(slot) = self.idle().and_then(|index| self.0.remove(index)) {
            slot.task.abort();
            answers.metrics.admin.evicted.fetch_add(1, Relaxed);
        }
    }
}

/// One connection: one request, its answer, the end; all before the deadline. What is left is its descriptor.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    answers: Arc<Answers>,
    busy: Arc<AtomicBool>,
) -> Option<Descriptor> {
    let deadline = Instant::now() + DEADLINE;
    let ended = timeout_at(deadline, exchange(stream, &answers, &busy)).await;
    if ended.is_err() {
        answers.metrics.admin.late.fetch_add(1, Relaxed);
    }
    ended.ok()
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    answers: &Arc<Answers>,
    busy: &AtomicBool,
) -> Descriptor {
    let answer = service_fn(|request| {
        busy.store(true, Relaxed);
        let answers = Arc::clone(answers);
        Box::pin(async move { answers.answer(&request).await })
    });
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .header_read_timeout(None) // The deadline is all there is.
        .max_buf_size(REQUEST)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), answer);
    // What cannot be read as a request has its answer as well, where one can be given.
    if let Err(error) = poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        && error.is_parse_too_large()
    {
        answers.metrics.admin.too_long.fetch_add(1, Relaxed);
    }
    let mut stream = connection.into_parts().io.into_inner();
    // A close with something unread would be a reset, which destroys the answer on its way.
    let shut = stream.shutdown().await;
    // All of the answer is with the kernel, which delivers it whatever becomes of us.
    busy.store(false, Relaxed);
    if shut.is_ok() {
        let mut discarded = [0; 1024];
        while stream.read(&mut discarded).await.is_ok_and(|read| read > 0) {}
    }
    Box::new(stream)
}

/// Something that holds a descriptor.
type Descriptor = Box<dyn Send>;

/// Descriptors held in reserve. That of a connection which has ended is kept as it is: were it closed and another
/// one opened, the service, which waits for descriptors too, would be faster one day.
#[derive(Default)]
struct Spares(Vec<Descriptor>);

impl Spares {
    /// Takes what can be had.
    fn fill(&mut self) {
        while self.0.len() < SPARES {
            let Ok(spare) = File::open("/dev/null") else { return };
            self.0.push(Box::new(spare));
        }
    }

    /// Keeps what a connection has left, if it is needed. (A panic was logged, an abort is ours.)
    fn keep(&mut self, ended: Result<Option<Descriptor>, JoinError>) {
        if let Ok(Some(descriptor)) = ended
            && self.0.len() < SPARES
        {
            self.0.push(descriptor);
        }
    }

    /// Frees one for an accept; false if there is none.
    fn give_up_one(&mut self) -> bool {
        self.0.pop().is_some()
    }
}

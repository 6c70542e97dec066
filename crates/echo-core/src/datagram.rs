//! Datagrams: each comes back whole, from the address it was sent to, to whoever may have sent it.
//!
//! A datagram's source address may be forged, so this side of the service has nobody to talk to, only
//! bytes to return: never more than came in, to no port that answers by itself, and to nobody more
//! often than its rate.

mod answer;
mod own;
mod peer;
mod ports;
mod rate;
mod screen;
mod socket;
mod table;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use echo_sys::{Batch, MAX_BATCH};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::listener::AcceptFault;
use crate::pulse::Pulse;
use crate::seldom::Seldom;
use crate::serve::{Report, ServeError};
use crate::waiting::come_back;
use crate::{Drain, Mode, Service};
use answer::Answering;
pub(crate) use own::OwnSockets;
use own::Registered;
pub(crate) use ports::PortSet;
pub use ports::{BadPortRange, PortRanges};
use rate::Buckets;
pub(crate) use screen::probe;
pub use socket::{DatagramOptions, DatagramSocket};

/// How long a drain goes on answering what a socket's queue holds, and how many datagrams of it: more
/// than fit into a receive buffer of 32 MiB. Only somebody who goes on sending gets there.
const QUEUE_TIME: Duration = Duration::from_secs(1);
const QUEUE_LEN: usize = 1 << 16;

/// How many errors in a row it takes until receiving pauses. One is about an earlier reply, and gone
/// with the call that told it.
const ERRORS_IN_A_ROW: u32 = 8;

/// How datagrams are answered: shared by all sockets of one listener.
#[derive(Debug)]
pub struct DatagramEcho {
    raw: AtomicBool,
    /// 0 where there is none.
    rate: AtomicU32,
    buckets: Buckets,
    /// Log lines are the listener's, however many sockets it has.
    receive_trouble: Mutex<Seldom>,
    send_trouble: Mutex<Seldom>,
    said_one_by_one: AtomicBool,
}

impl DatagramEcho {
    /// Sends back what comes. Unless `mode` is raw, a PROBE is stamped, and one that is an answer
    /// itself is dropped.
    pub fn new(mode: Mode) -> Self {
        Self {
            raw: AtomicBool::new(mode == Mode::Raw),
            rate: AtomicU32::new(0),
            buckets: Buckets::default(),
            receive_trouble: Mutex::default(),
            send_trouble: Mutex::default(),
            said_one_by_one: AtomicBool::new(false),
        }
    }

    /// Lets each source send so many datagrams a second, and as many at once, instead of
    /// [`udp_rate`](crate::Limits::udp_rate). Without a rate of their own, Unix peers have none.
    #[must_use]
    pub fn rate(self, rate: Option<NonZeroU32>) -> Self {
        self.set_rate(rate);
        self
    }

    /// Sets another mode, for datagrams to come.
    pub fn set_mode(&self, mode: Mode) {
        self.raw.store(mode == Mode::Raw, Relaxed);
    }

    /// Sets another [`rate`](Self::rate), for datagrams to come.
    pub fn set_rate(&self, rate: Option<NonZeroU32>) {
        self.rate.store(rate.map_or(0, NonZeroU32::get), Relaxed);
    }

    fn is_raw(&self) -> bool {
        self.raw.load(Relaxed)
    }

    fn own_rate(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.rate.load(Relaxed))
    }
}

/// Answers the datagrams of `socket` until the service's drain starts, then those that its queue holds
/// at that moment, and closes it.
///
/// All that a peer or the system can cause is counted ([`Snapshot::datagrams`]); the only error is a
/// socket that is itself broken, which starts the drain of `service` (of [its own](Service::child),
/// where it has one). The report counts what was answered in the drain; datagrams are no connections.
///
/// [`Snapshot::datagrams`]: crate::Snapshot::datagrams
///
/// From the call on, not only from the first poll, and until the socket is closed, its port, name or
/// file is one of the service's own, whose datagrams are refused.
///
/// # Cancel safety
/// Dropping the future closes the socket; what its queue holds is lost.
pub fn serve_datagrams(
    socket: DatagramSocket,
    service: Service,
    echo: Arc<DatagramEcho>,
) -> impl Future<Output = Result<Report, ServeError>> + Send {
    let own = Registered::new(Arc::clone(&service.core), socket.known_by());
    serve(socket, service, echo, own)
}

async fn serve(
    mut socket: DatagramSocket,
    service: Service,
    echo: Arc<DatagramEcho>,
    own: Registered,
) -> Result<Report, ServeError> {
    let mut answering = Answering::new(&socket, Arc::clone(&service.core), echo);
    let mut pulse = service.core.loops.join();
    let answered = until_drained(&socket, &mut answering, &service.drain, &mut pulse).await;
    if answered.is_err() {
        service.drain.start(service.core.limits.drain());
    }
    let began = Instant::now();
    socket.unlink();
    let mut report = Report::default();
    if answered.is_ok() {
        report.datagrams = answer_queued(&socket, &mut answering, &service.drain, &mut pulse).await;
    }
    answering.ask_kernel_drops(&socket.socket);
    drop(socket);
    drop(own);
    report.took = began.elapsed();
    match answered {
        Ok(()) => Ok(report),
        Err(source) => Err(ServeError { source, report }),
    }
}

thread_local! {
    /// Used within one turn, so that sockets that wait hold none.
    static BATCH: RefCell<Batch> = RefCell::default();
}

enum Event {
    Drain,
    Failed(io::Error),
}

/// Answers until the drain starts, or the socket fails.
async fn until_drained(
    socket: &DatagramSocket,
    answering: &mut Answering,
    drain: &Drain,
    pulse: &mut Pulse,
) -> io::Result<()> {
    let mut started = pin!(drain.started());
    let mut backoff = Backoff::default();
    loop {
        let event = poll_fn(|cx| {
            let turn = match backoff.poll(cx) {
                Poll::Ready(()) => {
                    BATCH.with_borrow_mut(|batch| poll_turn(socket, answering, batch, cx))
                }
                Poll::Pending => Poll::Pending,
            };
            // Both after the turn, which is short: the answers do not wait for them.
            pulse.poll(cx);
            match started.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Event::Drain),
                Poll::Pending => turn.map(Event::Failed),
            }
        });
        let error = match event.await {
            Event::Drain => return Ok(()),
            Event::Failed(error) => error,
        };
        answering.note_error(&error);
        if answering.errors_in_a_row() == 1 {
            backoff = Backoff::default();
        }
        match fault(&error) {
            AcceptFault::Listener => {
                tracing::error!(%error, "a datagram socket failed: its service is drained");
                return Err(error);
            }
            AcceptFault::Connection if answering.errors_in_a_row() < ERRORS_IN_A_ROW => {}
            AcceptFault::Connection | AcceptFault::Exhausted => backoff.pause(),
        }
    }
}

/// Answers what is there, at most about one whole batch before others run.
fn poll_turn(
    socket: &DatagramSocket,
    answering: &mut Answering,
    batch: &mut Batch,
    cx: &mut Context<'_>,
) -> Poll<io::Error> {
    batch.fit(answering.longest());
    let mut received = 0;
    while received < MAX_BATCH {
        match socket.socket.poll_receive(cx, batch, answering.expected()) {
            Poll::Ready(Ok(count)) => received += count,
            Poll::Ready(Err(error)) => return Poll::Ready(error),
            Poll::Pending => {
                answering.note_empty(&socket.socket);
                return if answering.looks_again() { come_back(cx) } else { Poll::Pending };
            }
        }
        answering.answer(&socket.socket, batch);
    }
    answering.note_full_batch();
    come_back(cx)
}

/// Answers what the socket's queue holds, whatever the reactor knows of it. Returns how many that were.
async fn answer_queued(
    socket: &DatagramSocket,
    answering: &mut Answering,
    drain: &Drain,
    pulse: &mut Pulse,
) -> u64 {
    let until = Instant::now() + QUEUE_TIME;
    let (mut received, mut answered) = (0, 0);
    while received < QUEUE_LEN && drain.has_time(until) {
        pulse.answer_now();
        let turn = BATCH.with_borrow_mut(|batch| {
            batch.fit(answering.longest());
            received += socket.socket.receive_queued(batch, MAX_BATCH)?;
            answered += u64::from(answering.answer(&socket.socket, batch));
            io::Result::Ok(())
        });
        if let Err(error) = turn {
            if error.kind() == io::ErrorKind::WouldBlock {
                return answered;
            }
            answering.note_error(&error);
            match fault(&error) {
                AcceptFault::Connection if answering.errors_in_a_row() < ERRORS_IN_A_ROW => {}
                AcceptFault::Connection | AcceptFault::Exhausted => {
                    tokio::time::sleep(Backoff::MIN).await;
                }
                AcceptFault::Listener => return answered,
            }
        }
        tokio::task::coop::consume_budget().await;
    }
    if holds_some(&socket.socket) {
        answering.note_left_in_queue();
    }
    answered
}

/// Whether a datagram is in the socket's queue, where it stays.
fn holds_some(socket: &echo_sys::Socket) -> bool {
    recv(socket, &mut [0_u8], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok()
}

/// What an error of receiving means for the loop.
fn fault(error: &io::Error) -> AcceptFault {
    match Errno::from_io_error(error) {
        // What ICMP said of an earlier reply.
        Some(Errno::CONNREFUSED | Errno::MSGSIZE) => AcceptFault::Connection,
        _ => AcceptFault::of(error),
    }
}

//! The client side of datagrams: what was sent, what of it came back, and what did not.
//!
//! Nothing is sent twice and nothing is promised: a datagram or its reply may be lost, doubled, late or
//! overtaken on its way, and each of that is told. The kernel hands over only what comes from the
//! address that was asked.

mod event;
mod pairing;
mod socket;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Error, Options, PushError, Reply};
use crate::endpoint::Endpoint;
use crate::waiting::poll_budget;
use event::Told;
use pairing::{Judged, PROBE_HEAD, Pairing};
use socket::{Opened, State, is_too_long, open, why_unsent};

pub use event::DatagramEvent;

/// Bytes to receive into at least: more than any UDP datagram has.
const LEAST_BUFFER: usize = 1 << 16;

/// More datagrams than wait in any socket: each takes 768 bytes of its buffer at least.
const QUEUE: u32 = 1 << 16;

/// A client of an echo server for datagrams: `udp://HOST:PORT` or `unixgram:PATH`.
///
/// ```no_run
/// use std::time::Duration;
///
/// use echo_core::client::{DatagramClient, DatagramEvent, Options};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let options = Options { timeout: Duration::from_secs(1), ..Options::default() };
/// let mut client = DatagramClient::connect(&"udp://127.0.0.1:7777".parse()?, options).await?;
/// for number in 0..100u32 {
///     client.push(&number.to_be_bytes())?;
/// }
/// client.finish();
/// while let Some(event) = client.next().await? {
///     match event {
///         DatagramEvent::Reply { reply, .. } => println!("{}: {:?}", reply.seq, reply.round_trip()),
///         DatagramEvent::Lost { seq, .. } => println!("{seq}: no reply"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// Each message is one datagram, and a plain one is nothing but the message, so that any RFC 862 server
/// answers it. Then its content is all that tells which request a reply belongs to: of equal messages
/// without a reply the first one is taken for answered, and a late reply to one that is lost for the reply
/// to an equal one. [`push_probe`](Self::push_probe) sends 36 bytes before the message, by which each is
/// known, and which come back from any echo server.
///
/// Of the [`Options`], `family`, `source`, `connect_timeout` (for the name), `timeout` and `window`
/// count; `timeout` is how long a reply may take before its request is lost. Memory is bounded by
/// `window`, by the longest datagram, and by 64 KiB for what was answered or lost before.
///
/// It is no task: what came waits in the socket until somebody awaits [`next`](Self::next), and a
/// reply that waits there is not lost. Dropped, it closes its socket.
#[derive(Debug)]
pub struct DatagramClient {
    place: String,
    options: Options,
    state: State,
    /// Once the socket is open.
    max_datagram: Option<u32>,
    pairing: Pairing,
    finishing: bool,
    /// Since when the socket has taken nothing more.
    blocked: Option<Instant>,
    /// Datagrams received since the oldest request has been overdue.
    behind: u32,
    /// Armed once, and only compared when it fires.
    alarm: Option<Pin<Box<Sleep>>>,
    /// What ends it, told behind all that came before.
    fault: Option<Error>,
    buffer: Vec<u8>,
    told: Told,
}

impl DatagramClient {
    /// A client whose socket [`next`](Self::next) opens and tells of.
    pub fn new(endpoint: &Endpoint, options: Options) -> Self {
        let options = options.bounded();
        Self {
            place: endpoint.to_string(),
            state: State::Opening(Box::pin(open(endpoint.clone(), options.clone()))),
            options,
            max_datagram: None,
            pairing: Pairing::new(),
            finishing: false,
            blocked: None,
            behind: 0,
            alarm: None,
            fault: None,
            buffer: Vec::new(),
            told: Told::Opened { peer: None, max_datagram: 0 },
        }
    }

    /// A client with an open socket. A UDP server need not be there for that; a Unix one must.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it leaves nothing open; a name may be looked up to the end.
    ///
    /// # Errors
    ///
    /// The name has no address, or this host no way there.
    pub async fn connect(endpoint: &Endpoint, options: Options) -> Result<Self, Error> {
        let mut client = Self::new(endpoint, options);
        client.next().await?;
        Ok(client)
    }

    /// Whether the socket is open.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// How many requests wait for their reply, or to be sent.
    pub fn unanswered(&self) -> usize {
        self.pairing.unanswered()
    }

    /// How many bytes of payload [`push`](Self::push) takes now; [`push_probe`](Self::push_probe)
    /// takes 36 less. Where nothing is unanswered, a longer message is taken too.
    pub fn room(&self) -> usize {
        self.pairing.room(self.options.window)
    }

    /// Queues a message as a datagram, and says its number: 0 for the first, then 1.
    /// [`next`](Self::next) sends it.
    ///
    /// # Errors
    ///
    /// The message was not taken.
    pub fn push(&mut self, payload: &[u8]) -> Result<u64, PushError> {
        self.admit(payload.len(), 0)?;
        Ok(self.pairing.push(payload))
    }

    /// Queues a message behind the 36 bytes that make it a PROBE: its reply is told from any other, and
    /// says how long it was with the server if that stamps it.
    ///
    /// # Errors
    ///
    /// The message was not taken.
    pub fn push_probe(&mut self, body: &[u8]) -> Result<u64, PushError> {
        self.admit(body.len(), PROBE_HEAD)?;
        Ok(self.pairing.push_probe(body))
    }

    fn admit(&self, len: usize, head: usize) -> Result<(), PushError> {
        if self.finishing || matches!(self.state, State::Over) {
            return Err(PushError::Finished);
        }
        let Some(max) = self.max_datagram else { return Err(PushError::NotConnected) };
        let max = max - head as u32;
        if len > max as usize {
            return Err(PushError::DatagramTooLong { len, max });
        }
        if !self.pairing.fits(len + head, self.options.window) {
            return Err(PushError::Full);
        }
        Ok(())
    }

    /// Asks nothing more: [`next`](Self::next) ends with `None` once all is answered or lost.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Waits for what happens next; sends and receives meanwhile. `None` is the end that
    /// [`finish`](Self::finish) asked for.
    ///
    /// With nothing due it waits for what comes by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has lost nothing: it may stand in a `select!`.
    ///
    /// # Errors
    ///
    /// Why the client is at its end: nobody listens at that port ([`Error::Refused`], which a host says
    /// by ICMP if it likes), or there is no way there.
    pub async fn next(&mut self) -> Result<Option<DatagramEvent<'_>>, Error> {
        let goes_on =
            poll_fn(|cx| self.poll(cx)).await.inspect_err(|_| self.state = State::Over)?;
        Ok(goes_on.then(|| self.told.event(&self.buffer)))
    }

    /// Sends one message and waits for its reply. What else happens goes untold.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has queued the message, which stays under way like any that was
    /// [pushed](Self::push): [`next`](Self::next) sends it if need be, and tells its reply or loss.
    ///
    /// # Errors
    ///
    /// As of [`next`](Self::next); [`Error::Lost`] and [`Error::Unsent`] leave the client going on.
    pub async fn echo(&mut self, payload: &[u8]) -> Result<Reply<'_>, Error> {
        let asked = self.push(payload)?;
        loop {
            match self.next().await? {
                None => return Err(Error::Over),
                Some(DatagramEvent::Reply { reply, .. }) if reply.seq == asked => break,
                Some(DatagramEvent::Lost { seq, len, waited }) if seq == asked => {
                    return Err(Error::Lost { len, waited });
                }
                Some(DatagramEvent::Unsent { seq, why, .. }) if seq == asked => {
                    return Err(why.into());
                }
                Some(_) => {}
            }
        }
        match self.told.event(&self.buffer) {
            DatagramEvent::Reply { reply, .. } => Ok(reply),
            _ => Err(Error::Over),
        }
    }

    /// Goes on until something has happened; `false` is the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        if let State::Opening(opening) = &mut self.state {
            let Opened { socket, peer, max_datagram } = ready!(opening.as_mut().poll(cx))?;
            if let Some(peer) = peer {
                self.place = peer.to_string();
            }
            self.max_datagram = Some(max_datagram);
            self.state = State::Open(socket);
            self.told = Told::Opened { peer, max_datagram };
            return Poll::Ready(Ok(true));
        }
        if matches!(self.state, State::Over) {
            ready!(poll_budget(cx));
        }
        loop {
            if self.fault.is_none() && self.send(cx)? {
                return Poll::Ready(Ok(true));
            }
            // Before the clock is looked at: what has come is not lost.
            if self.behind < QUEUE && self.receive(cx, false)? {
                return Poll::Ready(Ok(true));
            }
            let now = Instant::now();
            let (lost, stuck) =
                (self.overdue(self.pairing.oldest(), now), self.overdue(self.blocked, now));
            if lost || stuck {
                // A task that has had its turn gets nothing from a socket, whatever is there.
                ready!(poll_budget(cx));
            }
            if lost {
                if self.behind < QUEUE && self.receive(cx, true)? {
                    return Poll::Ready(Ok(true));
                }
                self.behind = 0;
            }
            let waited = self.options.timeout;
            if lost && let Some(request) = self.pairing.take_oldest() {
                self.told = Told::Lost(request, waited);
                return Poll::Ready(Ok(true));
            }
            if stuck && let Some(request) = self.pairing.take_unsent() {
                self.told = Told::Unsent(request, PushError::Blocked { waited });
                return Poll::Ready(Ok(true));
            }
            if self.finishing && self.pairing.unanswered() == 0 {
                ready!(poll_budget(cx));
                return Poll::Ready(Ok(false));
            }
            ready!(self.poll_alarm(cx));
        }
    }

    fn overdue(&self, since: Option<Instant>, now: Instant) -> bool {
        since.is_some_and(|since| now >= since + self.options.timeout)
    }

    /// Sends what the socket takes. Whether that is worth an event.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let State::Open(socket) = &self.state else { return Err(Error::Over) };
        while let Some(request) = self.pairing.unsent() {
            let now = Instant::now();
            let mut sent = socket.poll_send(cx, &request.datagram);
            if matches!(&sent, Poll::Ready(Err(error)) if is_too_long(error)) {
                // It may have been about an earlier one, which a router found too long.
                sent = socket.poll_send(cx, &request.datagram);
            }
            match sent {
                Poll::Ready(Ok(_)) => {
                    self.pairing.sent(now);
                    self.blocked = None;
                }
                Poll::Pending => {
                    self.blocked.get_or_insert(now);
                    return Ok(false);
                }
                Poll::Ready(Err(error)) => {
                    let Some(why) = why_unsent(&error, request.datagram.len()) else {
                        self.fault = Some(Error::connecting(&self.place, error));
                        return Ok(false);
                    };
                    if let Some(request) = self.pairing.take_unsent() {
                        self.told = Told::Unsent(request, why);
                    }
                    return Ok(true);
                }
            }
        }
        self.blocked = None;
        Ok(false)
    }

    /// Receives one datagram, and one `unheard` of by the reactor if so wanted. Whether one came.
    fn receive(&mut self, cx: &mut Context<'_>, unheard: bool) -> Result<bool, Error> {
        let State::Open(socket) = &mut self.state else { return Err(Error::Over) };
        // One more, so that what is longer than asked is seen to be.
        let len = LEAST_BUFFER.max(self.pairing.longest() + 1);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        // Each error is about an earlier datagram, and told once: what has come waits behind them.
        let mut errors = 0..=self.pairing.unanswered();
        let len = loop {
            let received = match &self.fault {
                None if !unheard => socket.poll_receive(cx, &mut self.buffer),
                _ => Poll::Ready(socket.receive_queued(&mut self.buffer)),
            };
            match received {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(len)) => break len,
                // What a router said: that one is lost, the next ones are cut to fit.
                Poll::Ready(Err(error)) if is_too_long(&error) && errors.next().is_some() => {}
                Poll::Ready(Err(error)) => {
                    let nothing = error.kind() == io::ErrorKind::WouldBlock;
                    if nothing && self.fault.is_none() {
                        return Ok(false);
                    }
                    let fault = self.fault.take();
                    let fault = fault.unwrap_or_else(|| Error::connecting(&self.place, error));
                    if nothing || errors.next().is_none() {
                        return Err(fault);
                    }
                    self.fault = Some(fault);
                }
            }
        };
        let received = Instant::now();
        let behind = self.overdue(self.pairing.oldest(), received);
        self.behind = if behind { self.behind + 1 } else { 0 };
        self.told = match self.pairing.judge(&self.buffer[..len], received) {
            Judged::Reply { request, stamps, overtaken } => {
                Told::Reply { request, stamps, overtaken, received }
            }
            judged => Told::Judged(judged, len),
        };
        Ok(true)
    }

    /// Ready when a deadline may have passed.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = [self.pairing.oldest(), self.blocked].into_iter().flatten().min();
        let Some(since) = since else { return Poll::Pending };
        let end = since + self.options.timeout;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(end)));
        // Later is soon enough: it fires, and is set anew.
        if alarm.deadline() > end || alarm.is_elapsed() {
            alarm.as_mut().reset(end);
        }
        alarm.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests;

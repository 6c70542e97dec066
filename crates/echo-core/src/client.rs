//! The client side of a connection: requests pipelined, every byte of every reply compared, and what
//! a lost connection left unanswered asked again on the next one.
//!
//! A [`Client`] is no task and needs none: it is driven by whoever awaits [`Client::next`], which
//! writes and reads at the same time and brings what happens, one [`Event`] after the other.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use echo_core::Endpoint;
//! use echo_core::client::{Client, Event, Options};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options { retry: Duration::from_secs(30), ..Options::default() };
//! let mut client = Client::connect(Endpoint::target("127.0.0.1:7777")?, options).await?;
//! for number in 0..100u32 {
//!     client.push(&number.to_be_bytes())?; // queued: nothing waits for the reply before
//! }
//! client.finish();
//! while let Some(event) = client.next().await? {
//!     match event {
//!         Event::Reply(reply) => println!("{}: {:?}", reply.seq, reply.round_trip()),
//!         Event::Lost(why) => println!("{why}: going on with another connection"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Nothing is lost, nothing comes twice.** Requests wait in one bounded queue until their reply has
//! come. When a connection ends (GOAWAY, end of stream, reset, silence) and [`Options::retry`] allows
//! it, another one is made and all that is unanswered goes out again, in order; echo has no effect, so
//! that is safe. The caller sees each reply once.
//!
//! **It cannot deadlock.** Reading never waits for a write, whatever the sizes: what does not fit into
//! the socket waits in the queue, and [`Client::room`] says how much more fits there.

mod datagrams;
mod dial;
mod dialogue;
mod drive;
mod error;
mod establish;
mod event;
mod hello;
mod login;
mod requests;
mod retry;
mod silence;

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use drive::Driver;
use requests::Requests;

use crate::endpoint::Endpoint;
use crate::frame::{Features, Kind, MAX_PAYLOAD_LEN, PROBE_MIN_LEN};
use crate::limits::LONGEST_WAIT;
use crate::listener::Connector;

pub use datagrams::{DatagramClient, DatagramEvent};
pub use dialogue::Dialogue;
pub use error::{ClosedEarly, Error, Fault, PushError};
pub use event::{Dialect, Event, Refusal, Reply, Session, Stamps, Unexpected};
pub use login::{Exchange, Login};

/// How a client behaves. No wait is longer than about 30 years, whatever is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which addresses of a name count. Only TCP has families.
    pub family: Family,
    /// The address of this host to connect from; it decides the family where that is open.
    pub source: Option<IpAddr>,
    /// How long one attempt to connect may take, over all addresses of the name (5 s).
    pub connect_timeout: Duration,
    /// How long the server may be silent while an answer is due (30 s). Only time spent in
    /// [`Client::next`] counts, but for the answer to HELLO, which is due within so long of the
    /// connection.
    pub timeout: Duration,
    /// How long to keep trying to connect, at the start and after a loss (0). 0 is one try, and then
    /// a lost connection is the end.
    pub retry: Duration,
    /// How many bytes of requests may be without a reply (1 MiB), 68 bytes more for each request. A
    /// single request may be longer. Memory is up to twice as much.
    pub window: usize,
    /// Whether replies come in parts as well, as they arrive, and [`Event::Sent`] tells when the
    /// socket wants more (false): for streams of bytes.
    pub parts: bool,
    /// Whom a `tls://` server must be, and what it is shown. Without it no `tls://` target is connected to.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Client>,
    /// Whether HELLO is said (true). Without it a server is believed to speak frames, its limits are
    /// not known, and it sends no GOAWAY.
    pub hello: bool,
    /// Who the client is (nobody). Every connection authenticates before anything else is sent on it,
    /// for which HELLO has to be said.
    pub login: Option<Arc<dyn Login>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            family: Family::Any,
            source: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            retry: Duration::ZERO,
            window: 1 << 20,
            parts: false,
            #[cfg(feature = "tls")]
            tls: None,
            hello: true,
            login: None,
        }
    }
}

impl Options {
    /// The same with waits that a timer can hold.
    fn bounded(self) -> Self {
        Self {
            connect_timeout: self.connect_timeout.min(LONGEST_WAIT),
            timeout: self.timeout.min(LONGEST_WAIT),
            retry: self.retry.min(LONGEST_WAIT),
            ..self
        }
    }
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// All of them.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where a client connects to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Target {
    /// A socket of this host's or another's. `mode=raw` does without HELLO, `mode=framed` takes no
    /// server that echoes it.
    Endpoint(Endpoint),
    /// A [listener in memory](crate::Listener::memory).
    Memory(Connector),
}

impl From<Endpoint> for Target {
    fn from(endpoint: Endpoint) -> Self {
        Self::Endpoint(endpoint)
    }
}

impl From<&Endpoint> for Target {
    fn from(endpoint: &Endpoint) -> Self {
        Self::Endpoint(endpoint.clone())
    }
}

impl From<Connector> for Target {
    fn from(connector: Connector) -> Self {
        Self::Memory(connector)
    }
}

/// A client of an echo server. Dropped, it closes its connection.
#[derive(Debug)]
pub struct Client {
    driver: Driver,
}

impl Client {
    /// A client without a connection. [`next`](Self::next) makes one and tells of it.
    pub fn new(target: impl Into<Target>, options: Options) -> Self {
        Self { driver: Driver::new(target.into(), options.bounded()) }
    }

    /// A client with a connection.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it gives up the connection with the client. To keep what has been
    /// tried, await [`next`](Self::next) of a [`new`](Self::new) one.
    ///
    /// # Errors
    ///
    /// What hinders the last attempt that [`Options::retry`] allows.
    pub async fn connect(target: impl Into<Target>, options: Options) -> Result<Self, Error> {
        let mut client = Self::new(target, options);
        while client.session().is_none() {
            client.next().await?;
        }
        Ok(client)
    }

    /// What the first exchange said, on the connection in use or the last one. `None` before the
    /// first.
    pub fn session(&self) -> Option<&Session> {
        self.driver.session.as_ref()
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.driver.is_up()
    }

    /// How many bytes of payload [`push`](Self::push) takes now; [`push_probe`](Self::push_probe)
    /// takes 32 less. Where nothing is unanswered, a longer message is taken too.
    pub fn room(&self) -> usize {
        self.requests().room(self.driver.options.window)
    }

    /// How many bytes wait for the socket: what is queued beyond them is of no use to anybody yet.
    pub fn unsent(&self) -> usize {
        self.requests().unsent().len()
    }

    /// How many requests have had no answer yet.
    pub fn unanswered(&self) -> usize {
        self.requests().unanswered()
    }

    /// Payload bytes that came back, over all connections: never fewer than before, though part of a
    /// reply that was cut comes again.
    pub fn bytes_answered(&self) -> u64 {
        self.requests().came_bytes()
    }

    /// Queues a message, and says its number: 0 for the first, then 1. [`next`](Self::next) sends it.
    ///
    /// # Errors
    ///
    /// The message was not taken.
    pub fn push(&mut self, payload: &[u8]) -> Result<u64, PushError> {
        let raw = self.session().is_some_and(|session| session.dialect == Dialect::Raw);
        self.admit(payload.len())?;
        if raw && payload.is_empty() {
            return Err(PushError::Empty);
        }
        Ok(self.driver.requests.push(Kind::ECHO, &[], payload))
    }

    /// Queues a PROBE, whose reply says how long it was with the server. `body` is what it carries
    /// behind its first 32 bytes.
    ///
    /// # Errors
    ///
    /// The message was not taken, or the server does not answer PROBE.
    pub fn push_probe(&mut self, body: &[u8]) -> Result<u64, PushError> {
        self.admit(body.len() + PROBE_MIN_LEN as usize).map_err(|error| match error {
            PushError::TooLong { max, .. } => PushError::ProbeTooLong { len: body.len(), max },
            error => error,
        })?;
        if !self.session().is_some_and(|session| session.features.contains(Features::PROBE)) {
            return Err(PushError::NoProbe);
        }
        Ok(self.driver.requests.push(Kind::PROBE, &[0; PROBE_MIN_LEN as usize], body))
    }

    fn admit(&self, len: usize) -> Result<(), PushError> {
        if !self.driver.is_open() {
            return Err(PushError::Finished);
        }
        let Some(session) = self.session() else { return Err(PushError::NotConnected) };
        let max = match session.dialect {
            Dialect::Framed => session.max_frame,
            // In one piece no longer than a frame.
            Dialect::Raw => MAX_PAYLOAD_LEN,
        };
        if len > max as usize {
            return Err(PushError::TooLong { len, max });
        }
        if len > self.room() && self.unanswered() > 0 {
            return Err(PushError::Full);
        }
        Ok(())
    }

    /// Asks nothing more: our end of stream follows the last request, and [`next`](Self::next) ends
    /// with `None` once all is answered and the server has ended its side.
    pub fn finish(&mut self) {
        self.driver.finish();
    }

    /// Wants a connection, though nothing is due that would need one.
    pub fn reconnect(&mut self) {
        self.driver.wanted = true;
    }

    /// Waits for what happens next; connects, writes and reads meanwhile. `None` is the end that
    /// [`finish`](Self::finish) asked for, however often it is asked then.
    ///
    /// With nothing to do it waits for what the server does by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has lost nothing: it may stand in a `select!`.
    ///
    /// # Errors
    ///
    /// Why the client is at its end. Everything that came before was brought before.
    pub async fn next(&mut self) -> Result<Option<Event<'_>>, Error> {
        // What a read brought is told without another look at the socket, or a wait's book-keeping.
        if !self.driver.take_ready() {
            let wait = Wait(&mut self.driver);
            if !poll_fn(|cx| wait.0.poll(cx)).await? {
                return Ok(None);
            }
        }
        Ok(Some(self.driver.event()))
    }

    /// What the last read brought and [`next`](Self::next) has not: without waiting, and without a
    /// look at the socket. `None` may hide an error, which [`next`](Self::next) tells.
    pub fn ready(&mut self) -> Option<Event<'_>> {
        self.driver.take_ready().then(|| self.driver.event())
    }

    /// Sends one message and waits for its reply. What else happens, replies of earlier requests
    /// too, goes untold.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it leaves its request queued: a later [`next`](Self::next) brings the
    /// reply, and another call sends the message again and lets that reply go untold.
    ///
    /// # Errors
    ///
    /// As of [`next`](Self::next); [`Error::Unsent`] if the message was not taken, and
    /// [`Error::Rejected`] if the server refused it, after which the client goes on.
    pub async fn echo(&mut self, payload: &[u8]) -> Result<Reply<'_>, Error> {
        let pushed = self.push(payload);
        self.exchange(pushed).await
    }

    /// The same with a PROBE.
    ///
    /// # Cancel safety
    ///
    /// As of [`echo`](Self::echo).
    ///
    /// # Errors
    ///
    /// As of [`echo`](Self::echo).
    pub async fn probe(&mut self, body: &[u8]) -> Result<Reply<'_>, Error> {
        let pushed = self.push_probe(body);
        self.exchange(pushed).await
    }

    async fn exchange(&mut self, pushed: Result<u64, PushError>) -> Result<Reply<'_>, Error> {
        let asked = pushed?;
        loop {
            let answered = match self.next().await? {
                None => return Err(Error::Over),
                Some(Event::Reply(reply)) => reply.seq == asked,
                Some(Event::Refused(refusal)) if refusal.seq == asked => return Err(refusal.into()),
                Some(_) => false,
            };
            if answered {
                break;
            }
        }
        match self.driver.event() {
            Event::Reply(reply) => Ok(reply),
            _ => Err(Error::Over),
        }
    }

    fn requests(&self) -> &Requests {
        &self.driver.requests
    }
}

/// A call of [`Client::next`]: what it waits is the server's time, what follows is the caller's.
struct Wait<'a>(&'a mut Driver);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.silence.pause();
    }
}

#[cfg(test)]
mod tests;

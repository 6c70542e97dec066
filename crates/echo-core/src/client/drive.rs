//! What drives a client: one state machine that connects, writes, reads, and connects again.
//!
//! ```text
//!            due, wanted, or the start           connected, HELLO answered
//!   DOWN ─────────────▶ PAUSING ──▶ CONNECTING ───────────────────────────▶ UP
//!    ▲                     ▲            │ failed, time left                 │
//!    │                     └────────────┘                                   │ GOAWAY, end, reset,
//!    └──────────────────────────────────────────────────────────────────────┘ silence
//!   anywhere: a defect of the server's, no time left, or all is done ──▶ OVER
//! ```
//!
//! What came before something is always told before it: [`Driver::poll`] goes on only when nothing
//! is ready to be told.

mod loss;
mod tell;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep};

use super::establish::{Up, establish};
use super::requests::Requests;
use super::retry::Retry;
use super::silence::Silence;
use super::{Error, Options, Session, Target};
use crate::connection::with_scratch;
use crate::stream::Stream;
use crate::waiting::poll_budget;
use loss::End;
use tell::Happened;

/// The state under a [`Client`](super::Client).
#[derive(Debug)]
pub(super) struct Driver {
    target: Target,
    pub(super) options: Options,
    pub(super) session: Option<Session>,
    link: Link,
    pub(super) requests: Requests,
    finishing: bool,
    fin_sent: bool,
    /// All that was queued has been sent since that was told last.
    all_sent: bool,
    /// The socket takes no more. What the server sent before it closed can still be read, and may
    /// say why.
    broken: Option<io::Error>,
    /// How the connection ended, and what is wrong with what came: told behind all that came before.
    ended: Option<End>,
    fault: Option<Error>,
    told_goaway: bool,
    pub(super) wanted: bool,
    happened: Happened,
    read_at: Instant,
    retry: Retry,
    pub(super) silence: Silence,
}

enum Link {
    Down,
    Pausing(Pin<Box<Sleep>>),
    Connecting(Pin<Box<dyn Future<Output = Result<Up, Error>> + Send>>),
    Up(Stream),
    Over { finished: bool },
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "Down",
            Self::Pausing(_) => "Pausing",
            Self::Connecting(_) => "Connecting",
            Self::Up(_) => "Up",
            Self::Over { .. } => "Over",
        })
    }
}

impl Driver {
    pub(super) fn new(target: Target, options: Options) -> Self {
        Self {
            link: Link::Down,
            session: None,
            requests: Requests::new(),
            finishing: false,
            fin_sent: false,
            all_sent: false,
            broken: None,
            ended: None,
            fault: None,
            told_goaway: false,
            wanted: true,
            happened: Happened::Nothing,
            read_at: Instant::now(),
            retry: Retry::new(options.retry),
            silence: Silence::new(options.timeout),
            target,
            options,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Whether more may be asked.
    pub(super) fn is_open(&self) -> bool {
        !self.finishing && !matches!(self.link, Link::Over { .. })
    }

    pub(super) fn finish(&mut self) {
        self.finishing = true;
    }

    /// Goes on until something has happened; `false` is the end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        loop {
            if self.take_ready() {
                return Poll::Ready(Ok(true));
            }
            match ready!(self.poll_link(cx)) {
                Ok(None) => {}
                Ok(Some(happened)) => {
                    self.happened = happened;
                    return Poll::Ready(Ok(true));
                }
                Err(error) => {
                    let finished = matches!(self.link, Link::Over { finished: true });
                    self.link = Link::Over { finished };
                    return Poll::Ready(if finished { Ok(false) } else { Err(error) });
                }
            }
        }
    }

    /// One step of the connection. The error of a client that is over is not looked at if it has
    /// finished.
    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Happened>, Error>> {
        if let Some(fault) = self.fault.take() {
            return Poll::Ready(Err(fault));
        }
        if let Some(ended) = self.ended.take() {
            return Poll::Ready(self.lose(ended).map(Some));
        }
        match &mut self.link {
            Link::Up(_) => match self.poll_exchange(cx) {
                Poll::Pending if self.options.parts && std::mem::take(&mut self.all_sent) => {
                    Poll::Ready(Ok(Some(Happened::Sent)))
                }
                exchanged => exchanged.map(|()| Ok(None)),
            },
            Link::Connecting(attempt) => match ready!(attempt.as_mut().poll(cx)) {
                Ok(up) => Poll::Ready(self.go_up(up).map(Some)),
                Err(error) => Poll::Ready(self.try_again(error).map(Some)),
            },
            Link::Pausing(pause) => {
                ready!(pause.as_mut().poll(cx));
                self.connect();
                Poll::Ready(Ok(None))
            }
            Link::Down => {
                if self.requests.is_due() || self.wanted {
                    return Poll::Ready(self.rise().map(|()| None));
                }
                if self.finishing {
                    return Poll::Ready(Err(self.finished()));
                }
                Poll::Pending
            }
            Link::Over { .. } => {
                ready!(poll_budget(cx));
                Poll::Ready(Err(Error::Over))
            }
        }
    }

    /// Ends well.
    fn finished(&mut self) -> Error {
        self.link = Link::Over { finished: true };
        Error::Over
    }

    /// Writes what waits, then reads once.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Link::Up(stream) = &mut self.link else { return Poll::Ready(()) };
        while self.broken.is_none() && !self.requests.unsent().is_empty() {
            let now = Instant::now();
            match stream.poll_write(cx, self.requests.unsent()) {
                Poll::Ready(Ok(0)) => self.broken = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(len)) => {
                    self.requests.mark_sent(len, now);
                    self.all_sent = self.requests.unsent().is_empty();
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => self.broken = Some(error),
                Poll::Pending => {
                    // What is out in part may be answered before all of it is out.
                    let len = stream.claim();
                    if len > 0 {
                        self.requests.mark_sent(len, now);
                        self.all_sent = self.requests.unsent().is_empty();
                    }
                    break;
                }
            }
        }
        if self.broken.is_none()
            && self.requests.unsent().is_empty()
            && let Poll::Ready(Err(error)) = stream.poll_flush(cx)
        {
            self.broken = Some(error);
        }
        if self.finishing
            && !self.fin_sent
            && self.broken.is_none()
            && self.requests.unsent().is_empty()
            && let Poll::Ready(sent) = stream.poll_shutdown(cx)
        {
            self.fin_sent = true;
            self.broken = sent.err();
        }
        let (requests, fault) = (&mut self.requests, &mut self.fault);
        let read = with_scratch(|scratch| {
            stream.poll_read(cx, scratch).map_ok(|len| {
                *fault = requests.receive(&scratch[..len]).err();
                len
            })
        });
        match read {
            Poll::Ready(Ok(0)) => self.ended = Some(End::Fin),
            Poll::Ready(Ok(_)) => {
                self.read_at = Instant::now();
                self.silence.end();
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Poll::Ready(Err(error)) => self.ended = Some(End::Failed(error)),
            Poll::Pending if self.requests.is_due() || self.finishing => {
                self.ended = Some(End::Silent(ready!(self.silence.poll(cx))));
            }
            Poll::Pending => {
                self.silence.end();
                self.requests.release();
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Starts to connect: at once at the start, after a pause when a connection was lost.
    fn rise(&mut self) -> Result<(), Error> {
        if self.session.is_none() {
            self.connect();
            return Ok(());
        }
        match self.retry.pause() {
            Some(pause) => {
                self.link = Link::Pausing(Box::pin(sleep(pause)));
                Ok(())
            }
            None => Err(self.retry.give_up(None)),
        }
    }

    fn connect(&mut self) {
        self.retry.begin();
        let (target, options) = (self.target.clone(), self.options.clone());
        self.link = Link::Connecting(Box::pin(async move { establish(&target, &options).await }));
    }

    fn try_again(&mut self, error: Error) -> Result<Happened, Error> {
        self.link = Link::Down;
        if !self.retry.is_allowed() || !error.may_pass() {
            return Err(error);
        }
        let Some(pause) = self.retry.pause() else { return Err(self.retry.give_up(Some(error))) };
        self.retry.failed = Some(error);
        self.link = Link::Pausing(Box::pin(sleep(pause)));
        Ok(Happened::Retrying(pause))
    }

    fn go_up(&mut self, up: Up) -> Result<Happened, Error> {
        let Up { stream, session, asked, input } = up;
        let dialect = session.dialect;
        if self.session.as_ref().is_some_and(|before| before.dialect != dialect) {
            let text = "the server spoke frames and now echoes HELLO itself";
            return Err(Error::Rejected(text.to_owned()));
        }
        let resent = self.requests.start_over(dialect, asked);
        (self.fin_sent, self.broken, self.told_goaway, self.wanted) = (false, None, false, false);
        self.silence.end();
        self.retry.connected(self.requests.is_due());
        self.read_at = Instant::now();
        self.fault = self.requests.receive(&input).err();
        self.session = Some(session);
        self.link = Link::Up(stream);
        Ok(Happened::Connected { resent })
    }
}

#[cfg(test)]
#[cfg(feature = "tls")]
mod tests;

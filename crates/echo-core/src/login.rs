//! What a connection knows of authentication: what may be done before it, by when it must have happened,
//! and whether it is under way, for which a drain waits a little.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::Error;
use crate::connection::Connection;
use crate::deadline::Why;
use crate::frame::{HEADER_LEN, Header, Kind};

/// What a connection may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Whatever is offered.
    #[default]
    Full,
    /// Nothing but HELLO and AUTH, for a limited time; everything else is denied.
    Login,
    /// No ECHO and no PROBE: they are forbidden.
    NoEcho,
}

impl Access {
    /// Why a frame of that kind is refused, if it is.
    pub(crate) fn refusal(self, kind: Kind) -> Option<Error> {
        let echo = kind == Kind::ECHO || kind == Kind::PROBE;
        match self {
            Self::Login if echo || kind.is_extension() && kind != Kind::AUTH => Some(Error::Denied),
            Self::NoEcho if echo => Some(Error::Forbidden),
            _ => None,
        }
    }
}

/// What a drain leaves an exchange that is under way, unless its own deadline is nearer.
const GRACE: Duration = Duration::from_secs(5);

/// Kept in a box by the few connections that need it: most know nothing of users.
#[derive(Debug, Default)]
pub(crate) struct Login {
    /// By when the peer must have authenticated, where it must and has not.
    by: Option<Instant>,
    /// How long answers were held back, which is not the peer's time.
    held: Duration,
    /// An exchange is under way.
    under_way: bool,
    /// Until when a drain waits for it.
    grace: Option<Instant>,
    user: Option<Arc<str>>,
}

impl Login {
    /// The nearer of that deadline and the login's own.
    pub(crate) fn bound(
        &mut self,
        until: (Instant, Why),
        draining: bool,
        now: Instant,
    ) -> (Instant, Why) {
        if draining && self.under_way {
            self.grace.get_or_insert(now + GRACE);
        }
        let own = [self.by, self.grace].into_iter().flatten().min();
        own.filter(|own| *own < until.0).map_or(until, |own| (own, Why::Login))
    }
}

impl Connection {
    /// Nothing goes on before the peer has authenticated, and there is a deadline for that: the time of
    /// a frame, from the accept on, and what answers were held back.
    pub(crate) fn require_login(&mut self, required: bool) {
        let held = self.login.as_ref().map_or(Duration::ZERO, |login| login.held);
        let by = required.then(|| self.accepted_at + self.scope.core.limits.frame(0) + held);
        if required || self.login.is_some() {
            self.login.get_or_insert_default().by = by;
            // The timer may be armed for a later moment.
            self.armed_for_traffic = None;
        }
    }

    pub(crate) fn is_login_under_way(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.under_way)
    }

    /// Says whether an exchange is under way that takes more frames of the peer's. A drain waits for
    /// its end, but at most 5 s.
    pub fn set_login_under_way(&mut self, under_way: bool) {
        if under_way || self.login.is_some() {
            let login = self.login.get_or_insert_default();
            login.under_way = under_way;
            login.grace = None;
        }
    }

    /// Says who is at the other end, for who is told of the connection's end
    /// ([`Closed::user`](crate::Closed)).
    pub fn set_user(&mut self, user: Arc<str>) {
        self.login.get_or_insert_default().user = Some(user);
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.login.as_ref()?.user.as_deref()
    }

    /// The next header that is not to be passed; `None` at the end. Unless it `passes` anything, that is
    /// the next one of all.
    pub(crate) fn poll_framed(
        &mut self,
        cx: &mut Context<'_>,
        passes: bool,
    ) -> Poll<Result<Option<Header>, Error>> {
        if passes { self.poll_pass_frames(cx) } else { self.poll_header(cx) }
    }

    /// Reads a header, whatever it says.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Header>, Error>> {
        self.unstash_head();
        if self.has_had_its_turn() {
            return self.yield_now(cx);
        }
        loop {
            if let Some(head) = self.input.first_chunk() {
                let header = Header::parse(*head);
                self.input.advance(HEADER_LEN);
                self.begin(header);
                return Poll::Ready(Ok(Some(header)));
            }
            ready!(self.poll_flush(cx))?;
            if !ready!(self.poll_fill(cx, 0))? {
                return Poll::Ready(Ok(None));
            }
        }
    }

    /// Answers the peer later, to slow it down, but not in a drain. What was queued is not written before. It
    /// takes nothing of the time to authenticate, whose deadline moves: who calls this sees to it that it does not so
    /// for ever.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn pause(&mut self, pause: Duration) {
        let began = Instant::now();
        tokio::select! {
            () = sleep_until(began + pause) => {}
            () = self.scope.drain.started() => {}
        }
        if let Some(login) = &mut self.login {
            let held = began.elapsed();
            login.held += held;
            login.by = login.by.map(|by| by + held);
        }
    }
}

//! The echo handler: its modes, and the pass-through that is its hot path.
//!
//! No payload is ever collected. A turn reads into the worker's buffer, approves headers where the
//! stream is framed, and writes the very same bytes back; only an unwritten rest or up to three bytes
//! of a header stay with the connection.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, ready};

use crate::buffer::Buffer;
use crate::bulk;
use crate::connection::{Connection, READ_BUFFER, Under, with_scratch};
use crate::conversation::Offer;
use crate::endpoint::Mode;
use crate::frame::{Features, HEADER_LEN, Header, Kind, MAX_CONTROL_LEN, Stop};
use crate::login::Access;
use crate::stats::State;
use crate::{Error, Handler};

/// Echoes what comes, in one of three [`Mode`]s; frames of other kinds go to the extension `E`.
#[derive(Clone, Debug, Default)]
pub struct Echo<E = ()> {
    mode: Mode,
    greeting: String,
    splice: bool,
    extension: E,
}

impl Echo {
    /// An echo without extension.
    pub fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }
}

impl<E> Echo<E> {
    /// Text for people: a line of its own at the start of each raw connection (in [`Mode::Raw`]
    /// only, so that every byte sent comes back first in the other modes), and part of the answer to
    /// HELLO.
    #[must_use]
    pub fn greeting(self, greeting: impl Into<String>) -> Self {
        Self { greeting: greeting.into(), ..self }
    }

    /// Lets long payloads pass through a pipe of the worker's (splice(2)), without being copied. Off
    /// unless said.
    ///
    /// The process must ignore SIGPIPE, as Rust programs do from their start: splice(2) raises it where
    /// a peer has left. It takes two descriptors a worker, 32 at most.
    #[must_use]
    pub fn splice(self, splice: bool) -> Self {
        Self { splice, ..self }
    }

    /// Hands AUTH and file frames to `extension`.
    pub fn extended<Other: Extension>(self, extension: Other) -> Echo<Other> {
        Echo { mode: self.mode, greeting: self.greeting, splice: self.splice, extension }
    }
}

/// What a daemon adds to the conversation: answers to AUTH and file frames
/// ([`Kind::is_extension`]).
pub trait Extension: Send + Sync + 'static {
    /// What one connection's conversation remembers.
    type Session: Default + Send;

    /// What the answer to HELLO says on top of [`Features::PROBE`].
    fn features(&self) -> Features;

    /// What is known of a connection before its first byte, as by the certificate that its peer has shown
    /// (`Connection::peer_certificate`, with the feature `tls`).
    fn begin(&self, connection: &mut Connection) -> Self::Session {
        let _ = connection;
        Self::Session::default()
    }

    /// What the connection may do now. Asked at its start, and after each frame that is no ECHO. Where
    /// that is no ECHO, there is no raw mode either.
    fn access(&self, session: &Self::Session) -> Access {
        let _ = session;
        Access::Full
    }

    /// Answers one frame: reads its payload with [`Connection::chunk`], sends exactly one answer
    /// with [`Connection::send_frame`] or [`Connection::send_header`]. Payload that it leaves is
    /// discarded. An error ends the connection.
    fn frame(
        &self,
        session: &mut Self::Session,
        header: Header,
        connection: &mut Connection,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// No extension: its frames get an ERROR.
impl Extension for () {
    type Session = ();

    fn features(&self) -> Features {
        Features::default()
    }

    async fn frame(&self, (): &mut (), header: Header, _: &mut Connection) -> Result<(), Error> {
        Err(Error::UnexpectedKind(header.kind))
    }
}

impl<E: Extension> Handler for Echo<E> {
    #[allow(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice, and a task's size is paid by every idle connection"
    )]
    fn run(&self, connection: &mut Connection) -> impl Future<Output = Result<(), Error>> + Send {
        async move {
            connection.may_splice = self.splice && connection.stream.is_socket();
            let mut session = self.extension.begin(connection);
            let access = self.extension.access(&session);
            connection.require_login(access == Access::Login);
            let mode = match self.mode {
                Mode::Auto => poll_fn(|cx| connection.poll_detect(cx)).await?,
                mode => Some(mode),
            };
            match mode {
                Some(Mode::Raw) => {
                    if let Some(error) = access.refusal(Kind::ECHO) {
                        return Err(error);
                    }
                    connection.enter(State::Raw);
                    self.greet(connection);
                    poll_fn(|cx| connection.poll_pass_raw(cx)).await
                }
                Some(_) => {
                    connection.enter(State::Framed);
                    let mut passes = access == Access::Full;
                    while let Some(header) =
                        poll_fn(|cx| connection.poll_framed(cx, passes)).await?
                    {
                        // Boxed: rare, and larger than all the rest of a connection's future.
                        Box::pin(self.other(&mut session, header, connection)).await?;
                        let access = self.extension.access(&session);
                        connection.require_login(access == Access::Login);
                        passes = access == Access::Full;
                    }
                    Ok(())
                }
                None => Ok(()),
            }
        }
    }

    /// A peer that must authenticate has its time for that from here on, whatever it is silent about.
    fn accepted(&self, connection: &mut Connection) {
        let access = self.extension.access(&E::Session::default());
        connection.require_login(access == Access::Login);
    }

    async fn turn_away(&self, connection: &mut Connection) -> Result<(), Error> {
        connection.turn_away(self.mode).await
    }
}

impl<E: Extension> Echo<E> {
    fn greet(&self, connection: &mut Connection) {
        if self.mode == Mode::Raw && !self.greeting.is_empty() {
            connection.output.put(self.greeting.as_bytes());
            connection.output.put(b"\n");
        }
    }

    async fn other(
        &self,
        session: &mut E::Session,
        header: Header,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        if let Some(error) = self.extension.access(session).refusal(header.kind) {
            return connection.refuse(error).await;
        }
        let features = self.extension.features();
        let offered = match header.kind {
            Kind::AUTH => features.contains(Features::AUTH),
            kind => kind.is_extension() && features.contains(Features::FILES),
        };
        if offered && header.kind == Kind::AUTH && header.len > MAX_CONTROL_LEN {
            return connection.refuse(Error::ControlTooLong { len: header.len }).await;
        }
        if offered {
            // Until it has ended it may have answered or not.
            connection.miscounted = true;
            self.extension.frame(session, header, connection).await?;
            connection.check_finished().await?;
            connection.miscounted = false;
            connection.count_answered(1);
            return connection.discard().await;
        }
        let offer = Offer { features: Features::PROBE.with(features), greeting: &self.greeting };
        connection.answer(offer).await
    }
}

/// What [`Connection::poll_pass`] came to.
pub(crate) enum Step {
    /// Bytes went through.
    Passed,
    /// A header that is not to be passed; its payload comes next.
    Other(Header),
    /// Nothing more is to be read.
    End,
}

impl Connection {
    /// Decides between raw and framed by the first bytes; `None` when nothing that decides comes
    /// before the end.
    pub(crate) fn poll_detect(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Mode>, Error>> {
        loop {
            match (self.input.first(), self.input.first_chunk::<HEADER_LEN>()) {
                (Some(0x00 | 0x80 | 0x83), Some(head)) => {
                    let Header { kind, len } = Header::parse(*head);
                    let max = if kind == Kind::HELLO { MAX_CONTROL_LEN } else { self.max_frame() };
                    return Poll::Ready(Ok(Some(if len <= max {
                        Mode::Framed
                    } else {
                        Mode::Raw
                    })));
                }
                (None | Some(0x00 | 0x80 | 0x83), _) => {}
                _ => return Poll::Ready(Ok(Some(Mode::Raw))),
            }
            if !ready!(self.poll_fill(cx, 0))? {
                let raw = self.ended && !self.input.is_empty();
                return Poll::Ready(Ok(raw.then_some(Mode::Raw)));
            }
        }
    }

    /// Passes everything through, to the end.
    fn poll_pass_raw(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            self.output.put(&input);
        }
        loop {
            ready!(self.poll_flush(cx))?;
            if self.has_had_its_turn() {
                return self.yield_now(cx);
            }
            if self.may_pass_bulk(usize::MAX) && self.pass_bulk(cx, usize::MAX)?.is_some() {
                continue;
            }
            let read = with_scratch(|scratch| {
                let read = ready!(self.poll_read(cx, scratch, 0));
                Poll::Ready(read.and_then(|read| {
                    self.write_through(cx, &scratch[..read])?;
                    self.note_served(read);
                    Ok(read)
                }))
            });
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(READ_BUFFER)) => self.bulk = self.may_splice,
                Poll::Ready(read) => {
                    read?;
                    ready!(self.poll_more(cx))?;
                }
                Poll::Pending => return self.park(cx).map(Err),
            }
        }
    }

    /// Passes ECHO frames through until another header comes; `None` at the end.
    pub(crate) fn poll_pass_frames(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Header>, Error>> {
        loop {
            match ready!(self.poll_pass(cx, usize::MAX))? {
                Step::Passed => {}
                Step::Other(header) => return Poll::Ready(Ok(Some(header))),
                Step::End => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Passes at most `cap` bytes of ECHO frames through: first what was read already, then what one
    /// read brings.
    pub(crate) fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        cap: usize,
    ) -> Poll<Result<Step, Error>> {
        if self.has_had_its_turn() {
            return self.yield_now(cx);
        }
        if !self.input.is_empty() {
            if self.holds_too_much() {
                ready!(self.poll_flush(cx))?;
            }
            return Poll::Ready(Ok(self.pass_input(cap)));
        }
        ready!(self.poll_flush(cx))?;
        let payload = self.rest().min(cap);
        if self.may_pass_bulk(payload)
            && let Some(passed) = self.pass_bulk(cx, payload)?
        {
            self.passage.remaining -= passed as u32;
            if self.passage.remaining == 0 {
                self.count_answered(1);
                self.frame_done();
            }
            return Poll::Ready(Ok(Step::Passed));
        }
        let passed = with_scratch(|scratch| {
            let held = usize::from(self.head_len);
            if held > 0 {
                scratch[..held].copy_from_slice(&self.head[..held]);
            }
            let room = if self.bulk { self.rest() + bulk::HEAD } else { scratch.len() };
            let end = scratch.len().min(room).min(held.saturating_add(cap));
            let read = ready!(self.poll_read(cx, &mut scratch[held..end], self.rest()))?;
            if read == 0 {
                return Poll::Ready(Ok((Step::End, false)));
            }
            self.head_len = 0;
            let step = self.pass_chunk(cx, &scratch[..held + read])?;
            self.bulk = self.may_splice
                && held + read == end
                && self.passage.declared as usize >= bulk::WORTH;
            Poll::Ready(io::Result::Ok((step, held + read < end)))
        });
        match passed {
            Poll::Ready(Ok((Step::Passed, true))) => {
                ready!(self.poll_more(cx))?;
                Poll::Ready(Ok(Step::Passed))
            }
            Poll::Ready(Ok((Step::End, _))) if self.under == Under::Passing => {
                Poll::Ready(Err(Error::Truncated))
            }
            Poll::Ready(passed) => Poll::Ready(Ok(passed?.0)),
            Poll::Pending => self.park(cx).map(Err),
        }
    }

    #[inline]
    fn pass_chunk(&mut self, cx: &mut Context<'_>, chunk: &[u8]) -> io::Result<Step> {
        let (pass, stop) = self.scan(chunk);
        self.write_through(cx, &chunk[..pass])?;
        self.note_served(pass);
        let rest = &chunk[pass..];
        Ok(match stop {
            Stop::Exhausted => {
                if !rest.is_empty() {
                    self.stash_head(rest);
                }
                Step::Passed
            }
            Stop::Header(header) => {
                self.input = Buffer::from(&rest[HEADER_LEN..]);
                self.begin(header);
                Step::Other(header)
            }
        })
    }

    fn pass_input(&mut self, cap: usize) -> Step {
        let mut input = std::mem::take(&mut self.input);
        let (pass, stop) = self.scan(&input[..input.len().min(cap)]);
        self.output.put(&input[..pass]);
        input.advance(pass);
        match stop {
            Stop::Exhausted if input.len() < HEADER_LEN && cap == usize::MAX => {
                self.stash_head(&input);
            }
            Stop::Exhausted => self.input = input,
            Stop::Header(header) => {
                input.advance(HEADER_LEN);
                self.input = input;
                self.begin(header);
                return Step::Other(header);
            }
        }
        Step::Passed
    }

    #[inline]
    fn scan(&mut self, chunk: &[u8]) -> (usize, Stop) {
        let max = self.max_frame();
        let scan = self.passage.scan(chunk, max);
        if scan.frames > 0 {
            self.count_answered(scan.frames);
            self.began = None;
        }
        self.under = if self.passage.remaining > 0 {
            Under::Passing
        } else {
            // A header that is waited for has no bytes that would give it time.
            self.passage.declared = 0;
            Under::Nothing
        };
        (scan.pass, scan.stop)
    }
}

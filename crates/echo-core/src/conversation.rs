//! The control side of a framed connection: HELLO, PROBE, and what to say to the rest.

use std::borrow::Cow;
use std::future::poll_fn;

use tokio::time::Instant;

use crate::Error;
use crate::connection::{Connection, Under};
use crate::endpoint::Mode;
use crate::frame::{
    ErrorCode, ErrorFrame, Features, Goaway, HEADER_LEN, Header, Hello, HelloReply, Kind,
    MAX_CONTROL_LEN, PROBE_MIN_LEN, Passage, Reason, VERSION, mark_probe_reply,
};
use crate::waiting::CONTROL_COST;

/// What a HELLO is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    pub(crate) features: Features,
    pub(crate) greeting: &'a str,
}

impl Default for Offer<'_> {
    fn default() -> Self {
        Self { features: Features::PROBE, greeting: "" }
    }
}

impl Connection {
    /// A header has been read: its payload is under way.
    pub(crate) fn begin(&mut self, header: Header) {
        self.under = Under::Taken;
        self.kind = header.kind;
        self.passage = Passage { remaining: header.len, declared: header.len };
        self.began = None;
        self.wants_control |= header.kind.asks_for_control();
        self.moved += CONTROL_COST;
    }

    /// Tells whoever has asked for control, within the first frame, that there is no place. `mode` is the
    /// listener's.
    pub(crate) async fn turn_away(&mut self, mode: Mode) -> Result<(), Error> {
        let mode = match mode {
            Mode::Auto => poll_fn(|cx| self.poll_detect(cx)).await?,
            mode => Some(mode),
        };
        if mode != Some(Mode::Framed) {
            return Ok(());
        }
        while self.input.first_chunk::<HEADER_LEN>().is_none() {
            if !poll_fn(|cx| self.poll_fill(cx, 0)).await? {
                return Ok(());
            }
        }
        if let Some(head) = self.input.first_chunk() {
            self.begin(Header::parse(*head));
            self.say_error(&Error::Busy, true);
        }
        Ok(())
    }

    /// Answers the frame whose header was read last, and which is not an ECHO within the limit.
    /// Cancelled, it may be called again.
    pub(crate) async fn answer(&mut self, offer: Offer<'_>) -> Result<(), Error> {
        if self.holds_too_much() {
            self.flush().await?;
        }
        let max = self.max_frame();
        let header = Header { kind: self.kind, len: self.passage.declared };
        match header.kind {
            Kind::HELLO if header.len <= MAX_CONTROL_LEN => self.hello(header, offer).await,
            Kind::HELLO => self.refuse(Error::ControlTooLong { len: header.len }).await,
            Kind::PROBE if header.len < PROBE_MIN_LEN => {
                self.refuse(Error::Malformed(header.kind)).await
            }
            Kind::ECHO | Kind::PROBE if header.len > max => {
                self.refuse(Error::FrameTooLong { len: header.len, max }).await
            }
            Kind::PROBE => self.probe(header).await,
            kind => {
                self.say_error(&Error::UnexpectedKind(kind), true);
                Err(Error::UnexpectedKind(kind))
            }
        }
    }

    async fn hello(&mut self, header: Header, offer: Offer<'_>) -> Result<(), Error> {
        let payload = self.collect(header.len).await?;
        let Ok(hello) = Hello::parse(&payload) else {
            return self.refuse(Error::Malformed(header.kind)).await;
        };
        let reply = HelloReply {
            version: hello.version.clamp(1, VERSION),
            max_frame: self.max_frame(),
            features: offer.features,
            greeting: Cow::Borrowed(offer.greeting),
        };
        self.queue_control(Kind::HELLO, |payload| reply.put(payload));
        self.said_hello = true;
        self.count_answered(1);
        self.frame_done();
        Ok(())
    }

    /// Stamps the first bytes; the rest passes through.
    async fn probe(&mut self, header: Header) -> Result<(), Error> {
        let received = self.read_at;
        let prefix = self.collect(PROBE_MIN_LEN).await?;
        let mut stamped = [0; PROBE_MIN_LEN as usize];
        stamped.copy_from_slice(&prefix);
        mark_probe_reply(&mut stamped, self.stamp(received), self.stamp(Instant::now()));
        self.output.put(&header.to_bytes());
        self.output.put(&stamped);
        self.under = Under::Passing;
        if self.rest() == 0 {
            self.count_answered(1);
            self.frame_done();
        }
        Ok(())
    }

    /// Says that the frame under way is refused, and discards it; fails where nothing can be said.
    pub(crate) async fn refuse(&mut self, error: Error) -> Result<(), Error> {
        if !self.wants_control {
            return Err(error);
        }
        self.say_error(&error, false);
        self.note(&error);
        self.discard().await
    }

    /// Queues an ERROR frame, which answers the frame under way, for those who want control.
    fn say_error(&mut self, error: &Error, closes: bool) {
        if !self.wants_control {
            return;
        }
        let code = match error {
            Error::FrameTooLong { .. } | Error::ControlTooLong { .. } => ErrorCode::TooLong,
            Error::Busy => ErrorCode::Busy,
            Error::UnexpectedKind(_) => ErrorCode::UnexpectedKind,
            Error::Denied => ErrorCode::Denied,
            Error::Forbidden => ErrorCode::Forbidden,
            _ => ErrorCode::Malformed,
        };
        let frame = ErrorFrame { code, closes, text: error.to_string().into() };
        self.queue_control(Kind::ERROR, |payload| frame.put(payload));
        self.count_answered(1);
    }

    /// Queues a GOAWAY for those who said HELLO.
    pub(crate) fn say_goaway(&mut self, reason: Reason) {
        if self.said_hello && !self.miscounted {
            let goaway = Goaway { reason, answered: self.answered };
            self.queue_control(Kind::GOAWAY, |payload| goaway.put(payload));
        }
    }

    fn queue_control(&mut self, kind: Kind, put: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = Vec::with_capacity(64);
        put(&mut payload);
        // Control payloads of ours are under 2 KiB.
        self.output.put(&Header { kind, len: payload.len() as u32 }.to_bytes());
        self.output.put(&payload);
    }

    /// Passes the rest of the frame under way through.
    pub(crate) async fn pass_rest(&mut self) -> Result<(), Error> {
        while self.under == Under::Passing {
            poll_fn(|cx| self.poll_pass(cx, self.rest())).await?;
        }
        Ok(())
    }
}

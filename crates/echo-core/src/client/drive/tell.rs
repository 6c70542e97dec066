//! What is told to the caller, one thing after the other, each behind all that came before it.

use std::time::Duration;

use super::{Driver, End};
use crate::client::requests::Answered;
use crate::client::{Error, Event, Refusal, Reply};
use crate::frame::Goaway;

/// What is to be told: [`Event`] without what it lends.
#[derive(Debug)]
pub(super) enum Happened {
    Nothing,
    Connected { resent: usize },
    Answered(Answered),
    Part((u64, u64)),
    Sent,
    Unexpected,
    Goaway(Goaway),
    Lost,
    Retrying(Duration),
}

impl Driver {
    /// Takes what came next and is not told yet, for [`event`](Self::event) to show; whether there was
    /// anything.
    #[inline]
    pub(in crate::client) fn take_ready(&mut self) -> bool {
        let read_at = self.read_at;
        let taken = self.requests.take().and_then(|taken| match &taken {
            Some(answered) => match self.requests.overlong(answered, read_at) {
                Some(error) => Err(error),
                None => Ok(taken),
            },
            None => Ok(None),
        });
        match taken {
            Ok(Some(answered)) => {
                self.retry.succeeded();
                self.happened = Happened::Answered(answered);
                return true;
            }
            Ok(None) => {}
            Err(error) => {
                self.fault = Some(error);
                self.requests.forget();
                return false;
            }
        }
        if self.options.parts
            && let Some(part) = self.requests.take_part()
        {
            self.retry.succeeded();
            self.happened = Happened::Part(part);
            return true;
        }
        if self.requests.has_unexpected() {
            if !matches!(self.happened, Happened::Unexpected) {
                self.happened = Happened::Unexpected;
                return true;
            }
            self.happened = Happened::Nothing;
            self.requests.forget_unexpected();
        }
        match self.requests.goaway() {
            Some(goaway) if !self.told_goaway => {
                self.told_goaway = true;
                self.happened = Happened::Goaway(goaway);
                self.ended = Some(End::Goaway(goaway));
                true
            }
            _ => false,
        }
    }

    /// What has happened.
    pub(in crate::client) fn event(&self) -> Event<'_> {
        static NEVER: Error = Error::Over;
        match &self.happened {
            Happened::Connected { resent } => match &self.session {
                Some(session) => Event::Connected { session, resent: *resent },
                None => Event::Lost(&NEVER),
            },
            Happened::Answered(answered) => self.answered(answered),
            Happened::Part(part) => Event::Part(self.requests.bytes(*part)),
            Happened::Sent => Event::Sent,
            Happened::Unexpected => Event::Unexpected(self.requests.unexpected()),
            Happened::Goaway(goaway) => Event::Goaway(*goaway),
            // Nobody asks before something has happened.
            Happened::Nothing => Event::Lost(&NEVER),
            Happened::Lost => Event::Lost(self.retry.last_loss().unwrap_or(&NEVER)),
            Happened::Retrying(pause) => {
                let why = self.retry.failed.as_ref().unwrap_or(&NEVER);
                Event::Retrying { why, pause: *pause }
            }
        }
    }

    fn answered<'a>(&'a self, answered: &'a Answered) -> Event<'a> {
        if let Some(refused) = &answered.refused {
            return Event::Refused(Refusal {
                seq: answered.seq,
                code: refused.code,
                text: &refused.text,
                closes: refused.closes,
            });
        }
        let payload = self.requests.bytes(answered.payload);
        Event::Reply(Reply {
            seq: answered.seq,
            payload,
            fresh: &payload[answered.shown.min(payload.len())..],
            sent: answered.sent.unwrap_or(self.read_at),
            received: self.read_at,
            resent: answered.resent,
            stamps: answered.stamps,
        })
    }
}

//! The pipe over a stream, which goes on over lost connections.

use std::time::Duration;

use bytes::{Buf, Bytes};
use echo_core::client::{Client, Dialect, Error, Event, Options, Target};
use tokio::time::Instant;

use super::progress::Progress;
use super::{Heard, Way};
use crate::failure::Failure;
use crate::notice;
use crate::stdio::CHUNK;

/// What the path and the server may have under way, which on a long fat path is megabytes; what is
/// beyond it waits in stdin.
const WINDOW: usize = 8 << 20;

pub(super) struct Stream {
    client: Client,
    voice: Voice,
}

impl Stream {
    /// A client that has no connection yet.
    pub(super) fn new(target: impl Into<Target>, options: Options) -> Self {
        let options = Options { window: WINDOW, parts: true, ..options };
        let voice = Voice { retry: options.retry, due: false, told: false, connected: false };
        Self { client: Client::new(target, options), voice }
    }

    /// A client with a connection.
    pub(super) async fn open(
        target: impl Into<Target>,
        options: Options,
        progress: &mut Progress,
    ) -> Result<Self, Failure> {
        let mut stream = Self::new(target, options);
        while stream.client.session().is_none() {
            if let Some(event) = stream.client.next().await? {
                stream.voice.tell(&event).iter().for_each(|notice| progress.say(notice));
            }
        }
        Ok(stream)
    }
}

impl Way for Stream {
    fn ask(&mut self, pending: &mut Bytes) -> Result<Option<Instant>, Error> {
        while !pending.is_empty() && self.client.unsent() < CHUNK {
            let max = match self.client.session() {
                Some(session) if session.dialect == Dialect::Framed => session.max_frame as usize,
                _ => CHUNK,
            };
            let len = pending.len().min(max);
            if len == 0 {
                return Err(Error::Rejected("the server takes empty frames only".to_owned()));
            }
            if self.client.room() < len {
                break;
            }
            self.client.push(&pending[..len])?;
            pending.advance(len);
        }
        self.voice.due = self.client.unanswered() > 0;
        Ok(None)
    }

    fn finish(&mut self) {
        self.client.finish();
    }

    async fn next(&mut self, heard: &mut Heard) -> Result<bool, Error> {
        let Some(event) = self.client.next().await? else { return Ok(false) };
        self.voice.take(event, heard)?;
        // What else the last read brought, up to a chunk.
        while heard.verified.len() < CHUNK {
            let Some(event) = self.client.ready() else { break };
            self.voice.take(event, heard)?;
        }
        Ok(true)
    }

    fn bytes_answered(&self) -> u64 {
        self.client.bytes_answered()
    }
}

/// What the user is told while it runs.
struct Voice {
    retry: Duration,
    /// An answer is due.
    due: bool,
    /// That the server cannot be reached has been told.
    told: bool,
    /// There has been a connection.
    connected: bool,
}

impl Voice {
    /// Takes what happened: verified bytes for the output, the rest for the user.
    fn take(&mut self, event: Event<'_>, heard: &mut Heard) -> Result<(), Error> {
        match event {
            Event::Part(bytes) => heard.verified.extend_from_slice(bytes),
            Event::Reply(reply) => heard.verified.extend_from_slice(reply.fresh),
            Event::Refused(refusal) => return Err(refusal.into()),
            Event::Unexpected(unexpected) => return Err(unexpected.into()),
            other => heard.notices.extend(self.tell(&other)),
        }
        Ok(())
    }

    /// What is to be said of an event.
    fn tell(&mut self, event: &Event<'_>) -> Vec<String> {
        let mut notices = Vec::new();
        match event {
            Event::Connected { session, resent } => {
                if session.fell_back {
                    let text = "the server echoes HELLO itself (RFC 862): going on raw";
                    notices.push(text.to_owned());
                }
                if self.connected {
                    let resent = notice::resent(*resent, "frame");
                    notices.push(format!("connected again{resent}"));
                }
                (self.told, self.connected) = (false, true);
            }
            Event::Lost(why) => {
                let then = match self.due {
                    true => "connecting again",
                    false => "more of stdin connects again",
                };
                notices.push(format!("{}; {then}", notice::lost(why, self.due)));
            }
            Event::Retrying { why, .. } if !self.told => {
                self.told = true;
                notices.push(notice::retrying(why, self.retry));
            }
            _ => {}
        }
        notices
    }
}

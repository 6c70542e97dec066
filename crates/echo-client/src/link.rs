//! A connection as people and scripts use it: what happens on it, in words.

use std::time::Duration;

use bytes::Bytes;
use echo_core::client::{Client, Dialect, Error, Event, Options, PushError, Refusal, Reply, Session};
use echo_core::{Endpoint, Goaway, Kind, Reason};

use crate::escape::{escape, escape_bytes};
use crate::tally::bytes;

/// What of a peer's bytes is shown: a screen's worth.
const SHOWN_MAX: usize = 1024;

/// A server, and the connection to it while there is one.
pub(crate) struct Link {
    pub(crate) target: Endpoint,
    options: Options,
    client: Option<Client>,
    /// The server ended this connection because nobody used it: the next message makes another.
    idle: bool,
    /// That attempts to connect fail has been said since the last connection.
    retrying: bool,
}

/// What happened on a link.
#[derive(Debug)]
pub(crate) enum Happened {
    Answered(Answer),
    /// The server will not serve the message with this number.
    Refused(u64, String),
    /// What the server says at the start of the first connection.
    Greeted(String),
    /// Something that is worth a line.
    Notice(String),
    /// Bytes that nobody asked for.
    Unexpected(String),
    /// Nothing that is worth a line.
    Quiet,
    /// The connection has ended for good.
    Over(Error),
}

/// A reply.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) seq: u64,
    pub(crate) payload: Bytes,
    pub(crate) round_trip: Duration,
    /// How long the server had it, which a PROBE tells.
    pub(crate) in_server: Option<Duration>,
    /// It had to be sent again on another connection.
    pub(crate) resent: bool,
}

impl Link {
    pub(crate) fn new(target: Endpoint, options: Options) -> Self {
        Self { target, options, client: None, idle: false, retrying: false }
    }

    /// The connection that is there or wanted.
    pub(crate) fn client(&mut self) -> &mut Client {
        self.client.get_or_insert_with(|| Client::new(&self.target, self.options.clone()))
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.as_ref().is_some_and(Client::is_connected)
    }

    /// Whether there has been a first exchange since the last time that all was over.
    pub(crate) fn is_known(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.session().is_some())
    }

    /// Messages without a reply.
    pub(crate) fn unanswered(&self) -> u64 {
        self.client.as_ref().map_or(0, |client| client.unanswered() as u64)
    }

    /// Gives up a connection that has not come about.
    pub(crate) fn forget(&mut self) {
        self.client = None;
    }

    /// Waits for what happens next; for ever where there is no connection and none is wanted.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Happened {
        let Some(client) = &mut self.client else { return std::future::pending().await };
        let event = match client.next().await {
            Ok(Some(event)) => event,
            // All was answered and the server has ended its side, as this one was asked to.
            Ok(None) => return Happened::Over(Error::Over),
            Err(error) => {
                self.client = None;
                return Happened::Over(error);
            }
        };
        match event {
            Event::Reply(reply) => return Happened::Answered(answer(&reply)),
            Event::Refused(refusal) => return Happened::Refused(refusal.seq, refused(&refusal)),
            Event::Unexpected(came) => return Happened::Unexpected(unexpected(came)),
            _ => {}
        }
        let happened = match event {
            Event::Connected { session, resent } => {
                self.idle = false;
                self.retrying = false;
                Happened::Greeted(connected(session, resent))
            }
            Event::Goaway(goaway) => {
                self.idle = matches!(goaway.reason, Reason::Idle);
                Happened::Quiet
            }
            Event::Lost(error) => {
                let words = escape(&error.to_string());
                Happened::Notice(words)
            }
            Event::Retrying { why, .. } if !self.retrying => {
                self.retrying = true;
                let words = escape(&why.to_string());
                Happened::Notice(format!("{words}; trying for {:?}", self.options.retry))
            }
            _ => Happened::Quiet,
        };
        happened
    }
}

//! A connection as people and scripts use it: what happens on it, in words that are safe to show.

mod side;

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use echo_core::client::{Dialect, Error, Event, Options, PushError, Reply, Session};
use echo_core::{Endpoint, Mode, Peer, Reason};
use tokio::task::yield_now;

use crate::escape::escape_bytes;
use crate::notice;
use crate::show::size;
use side::Side;

/// A server, and the connection to it while there is one.
pub(crate) struct Link {
    pub(crate) target: Endpoint,
    options: Options,
    side: Option<Side>,
    /// What has been said since the last connection.
    told: Told,
    /// The connection has been of use, or is the first: a message was sent on it. One that is lost
    /// unused is not made again before there is a use for it.
    used: bool,
    /// The server has just talked by itself. It may never stop: signals and timers go first.
    talks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing: there was none.
    Nothing,
    Lost,
    /// That the server ends idle connections. The next message makes another one.
    Idle,
    /// Why attempts to connect fail.
    Retrying,
}

/// What happened on a link.
#[derive(Debug)]
pub(crate) enum Happened {
    Answered(Answer),
    /// The message with this number gets no reply: the server will not serve it, or it is lost.
    Refused(u64, Error),
    /// There is a connection; `plain` if it is the first, and like what was asked for.
    Connected {
        words: String,
        plain: bool,
    },
    /// A reply to what counts as lost, and one that came before.
    Late(String),
    Doubled(String),
    /// Something else that is worth a line.
    Notice(String),
    /// Bytes that nobody asked for, and what this is for who takes it for the end.
    Unexpected(Bytes, Error),
    /// A reply that is not what was sent. What is due stays due.
    Different(Error),
    /// The connection is over, and the numbers of messages begin anew.
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
    /// The reply to a later message came before.
    pub(crate) overtaken: bool,
}

impl Link {
    pub(crate) fn new(target: Endpoint, options: Options) -> Self {
        Self { target, options, side: None, told: Told::Nothing, used: true, talks: false }
    }

    /// The connection that is there, or one that begins.
    fn side(&mut self) -> &mut Side {
        self.side.get_or_insert_with(|| Side::new(&self.target, &self.options))
    }

    /// Asks nothing more.
    pub(crate) fn finish(&mut self) {
        self.side().finish();
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.side.as_ref().is_some_and(Side::is_connected)
    }

    /// Whether equal messages are to be numbered: of datagrams, nothing else tells whose reply it is when
    /// one comes late. `?mode=raw` does without.
    pub(crate) fn numbers(&self) -> bool {
        self.target.address.is_datagram() && self.target.mode != Some(Mode::Raw)
    }

    /// Messages without a reply.
    pub(crate) fn unanswered(&self) -> u64 {
        self.side.as_ref().map_or(0, |side| side.unanswered() as u64)
    }

    /// Gives up a first connection that has not come about.
    pub(crate) fn give_up(&mut self) {
        if self.side.as_ref().is_some_and(Side::is_new) {
            self.side = None;
        }
    }

    /// Waits for a connection. What happens meanwhile, and at last that it is there, is handed to
    /// `other`, whose error ends it.
    pub(crate) async fn connect(
        &mut self,
        mut other: impl FnMut(Happened) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.side();
        loop {
            let happened = self.next().await;
            let connected = matches!(happened, Happened::Connected { .. });
            match happened {
                Happened::Over(error) => return Err(error),
                happened => other(happened)?,
            }
            if connected {
                return Ok(());
            }
        }
    }

    /// Queues a message, or a PROBE, as soon as there is a connection and room; returns its number.
    pub(crate) async fn push(
        &mut self,
        payload: &[u8],
        probe: bool,
        mut other: impl FnMut(Happened) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        loop {
            match self.side().push(payload, probe) {
                Ok(asked) => {
                    self.used = true;
                    return Ok(asked);
                }
                Err(PushError::NotConnected | PushError::Full) => {}
                Err(error) => return Err(error.into()),
            }
            match self.next().await {
                Happened::Over(error) => return Err(error),
                // Of another socket for datagrams there is nothing to say that the first did not.
                Happened::Connected { .. } if self.target.address.is_datagram() => {}
                happened => other(happened)?,
            }
        }
    }

    /// Waits for the reply to the message with this number, in the same way.
    pub(crate) async fn answer(
        &mut self,
        asked: u64,
        mut other: impl FnMut(Happened) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        loop {
            match self.next().await {
                Happened::Answered(answer) if answer.seq == asked => return Ok(answer),
                Happened::Refused(seq, error) if seq == asked => return Err(error),
                Happened::Over(error) => return Err(error),
                happened => other(happened)?,
            }
        }
    }

    /// Waits for what happens next; for ever where there is no connection and none is wanted.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Happened {
        if std::mem::take(&mut self.talks) {
            yield_now().await;
        }
        let Some(Side::Datagrams(client)) = &mut self.side else {
            return self.next_of_stream().await;
        };
        let happened = side::next(client).await;
        match &happened {
            Happened::Over(_) => self.side = None,
            Happened::Connected { .. } | Happened::Answered(_) => {}
            _ => self.talks = true,
        }
        happened
    }

    async fn next_of_stream(&mut self) -> Happened {
        loop {
            let Some(Side::Stream(client)) = &mut self.side else { return pending().await };
            let due = client.unanswered() > 0;
            let event = match client.next().await {
                Ok(Some(event)) => event,
                ended => {
                    let error = ended.err().unwrap_or(Error::Over);
                    self.side = None;
                    self.told = Told::Nothing;
                    return Happened::Over(error);
                }
            };
            let notice = match event {
                Event::Reply(reply) => return Happened::Answered(Answer::new(&reply, false)),
                Event::Refused(refusal) => {
                    return Happened::Refused(refusal.seq, refusal.into());
                }
                Event::Unexpected(came) => {
                    self.talks = true;
                    return Happened::Unexpected(Bytes::copy_from_slice(came.bytes), came.into());
                }
                Event::Connected { session, resent } => {
                    let again = self.told != Told::Nothing;
                    self.told = Told::Nothing;
                    let place = match session.peer {
                        Peer::Tcp(addr) => addr.to_string(),
                        _ => self.target.to_target(),
                    };
                    let words = connected(&place, session, again, resent);
                    return Happened::Connected { words, plain: !again && !session.fell_back };
                }
                Event::Goaway(goaway) => {
                    if goaway.reason == Reason::Idle {
                        self.told = Told::Idle;
                    }
                    continue;
                }
                Event::Lost(error) => {
                    let words = notice::lost(error, due);
                    match self.told {
                        _ if !due && !std::mem::take(&mut self.used) => {
                            self.told = Told::Idle;
                            format!("{words}; the next message connects again")
                        }
                        Told::Idle if !due => format!("{words}; the next message connects again"),
                        _ => {
                            self.told = Told::Lost;
                            client.reconnect();
                            format!("{words}; connecting again")
                        }
                    }
                }
                Event::Retrying { why, .. } if self.told != Told::Retrying => {
                    self.told = Told::Retrying;
                    notice::retrying(why, self.options.retry)
                }
                _ => continue,
            };
            return Happened::Notice(notice);
        }
    }
}

impl Answer {
    fn new(reply: &Reply<'_>, overtaken: bool) -> Self {
        Self {
            seq: reply.seq,
            payload: Bytes::copy_from_slice(reply.payload),
            round_trip: reply.round_trip(),
            in_server: reply.stamps.map(|stamps| stamps.in_server()),
            resent: reply.resent,
            overtaken,
        }
    }
}

fn connected(place: &str, session: &Session, again: bool, resent: usize) -> String {
    let how = if again { "connected again" } else { "connected" };
    let speaks = match session.dialect {
        Dialect::Framed => format!("frames of up to {}", size(session.max_frame.into())),
        Dialect::Raw if session.fell_back => {
            "raw: the server echoes HELLO itself (RFC 862)".to_owned()
        }
        Dialect::Raw => "raw".to_owned(),
    };
    let resent = notice::resent(resent, "message");
    let mut words = format!("{how} to {place}, {speaks}{resent}");
    if !again && !session.greeting.is_empty() {
        words += &format!("; the server says: {}", escape_bytes(session.greeting.as_bytes()));
    }
    words
}

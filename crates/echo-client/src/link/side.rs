//! Either kind of conversation: over a stream, or in datagrams.

use bytes::Bytes;
use echo_core::Endpoint;
use echo_core::client::{Client, DatagramClient, DatagramEvent, Error, Options, PushError};

use super::{Answer, Happened};
use crate::show::{bytes, time};

/// This side of a conversation.
pub(super) enum Side {
    Stream(Box<Client>),
    Datagrams(Box<DatagramClient>),
}

impl Side {
    pub(super) fn new(target: &Endpoint, options: &Options) -> Self {
        if target.address.is_datagram() {
            Self::Datagrams(Box::new(DatagramClient::new(target, options.clone())))
        } else {
            Self::Stream(Box::new(Client::new(target, options.clone())))
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        match self {
            Self::Stream(client) => client.is_connected(),
            Self::Datagrams(client) => client.is_open(),
        }
    }

    /// Whether it has never been connected.
    pub(super) fn is_new(&self) -> bool {
        match self {
            Self::Stream(client) => client.session().is_none(),
            Self::Datagrams(client) => !client.is_open(),
        }
    }

    pub(super) fn unanswered(&self) -> usize {
        match self {
            Self::Stream(client) => client.unanswered(),
            Self::Datagrams(client) => client.unanswered(),
        }
    }

    pub(super) fn push(&mut self, payload: &[u8], probe: bool) -> Result<u64, PushError> {
        match self {
            Self::Stream(client) if probe => client.push_probe(payload),
            Self::Stream(client) => client.push(payload),
            Self::Datagrams(client) if probe => client.push_probe(payload),
            Self::Datagrams(client) => client.push(payload),
        }
    }

    pub(super) fn finish(&mut self) {
        match self {
            Self::Stream(client) => client.finish(),
            Self::Datagrams(client) => client.finish(),
        }
    }
}

/// Waits for what happens next in datagrams.
///
/// # Cancel safety
/// Nothing is lost.
pub(super) async fn next(client: &mut DatagramClient) -> Happened {
    let event = match client.next().await {
        Ok(Some(event)) => event,
        ended => return Happened::Over(ended.err().unwrap_or(Error::Over)),
    };
    match event {
        DatagramEvent::Opened { peer, max_datagram } => {
            let place = peer.map(|peer| format!(" to {peer}")).unwrap_or_default();
            let most = bytes(max_datagram.into());
            let words = format!(
                "datagrams{place}, of up to {most}: each may be lost, doubled or overtaken"
            );
            Happened::Connected { words, plain: true }
        }
        DatagramEvent::Reply { reply, overtaken } => {
            Happened::Answered(Answer::new(&reply, overtaken))
        }
        DatagramEvent::Lost { seq, len, waited } => {
            Happened::Refused(seq, Error::Lost { len, waited })
        }
        DatagramEvent::Unsent { seq, why, .. } => Happened::Refused(seq, why.into()),
        DatagramEvent::Late { seq, after } => {
            let (number, after) = (seq + 1, time(after));
            Happened::Late(format!("late: the reply to message {number}, after {after}"))
        }
        DatagramEvent::Doubled { seq } => {
            Happened::Doubled(format!("doubled: the reply to message {}", seq + 1))
        }
        DatagramEvent::Stale { seq } => {
            Happened::Doubled(format!("late or doubled: the reply to message {}", seq + 1))
        }
        DatagramEvent::Different { at, what, .. } => {
            Happened::Different(Error::Different { at, what: what.to_owned() })
        }
        DatagramEvent::Unexpected(came) => {
            let what = "a datagram came that nobody asked for".to_owned();
            Happened::Unexpected(Bytes::copy_from_slice(came), Error::Different { at: 0, what })
        }
        _ => Happened::Notice("something happened that this client does not know".to_owned()),
    }
}

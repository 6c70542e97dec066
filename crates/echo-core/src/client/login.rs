//! How a client authenticates: before anything else is sent, on every connection.

use std::fmt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::error::{Words, leaving};
use super::{ClosedEarly, Dialect, Error, Options, Session};
use crate::frame::{
    AuthReply, AuthRequest, ErrorCode, ErrorFrame, Features, Goaway, HEADER_LEN, Header, Kind,
    MAX_CONTROL_LEN,
};
use crate::stream::Stream;

/// The longest exchange, in challenges: more than any mechanism needs.
const MAX_CHALLENGES: usize = 8;

/// Who the client is, and how it proves that.
pub trait Login: fmt::Debug + Send + Sync {
    /// Begins an exchange on a new connection. `features` is what the server offers, and
    /// `channel_binding` what the TLS exporter says (RFC 9266), if the connection is one of TLS.
    ///
    /// # Errors
    /// Why there is nothing to begin with, in words.
    fn start(
        &self,
        features: Features,
        channel_binding: Option<Vec<u8>>,
    ) -> Result<Box<dyn Exchange>, String>;
}

/// One exchange of a SASL mechanism.
pub trait Exchange: Send {
    /// The mechanism's name.
    fn mechanism(&self) -> &str;

    /// The first message.
    fn initial(&mut self) -> Vec<u8>;

    /// Answers a challenge. It may take its time: it runs on a thread for that.
    ///
    /// # Errors
    /// What is wrong with the server, in words.
    fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, String>;

    /// Judges what came with the server's success.
    ///
    /// # Errors
    /// What is wrong with the server, in words.
    fn finish(&mut self, data: &[u8]) -> Result<(), String>;
}

/// Authenticates as the options ask for, behind the first exchange, all within their timeout. `input` is
/// what the server has sent behind its HELLO, and then what it has sent behind its last answer. Says how
/// many frames were asked.
pub(super) async fn authenticate(
    stream: &mut Stream,
    session: &Session,
    input: &mut Vec<u8>,
    options: &Options,
) -> Result<u64, Error> {
    let Some(login) = &options.login else { return Ok(0) };
    if session.dialect == Dialect::Raw || !session.features.contains(Features::AUTH) {
        let text = "the server offers no authentication: ask it without a user";
        return Err(Error::Rejected(text.to_owned()));
    }
    let exchange = login.start(session.features, binding(stream)).map_err(Error::Denied)?;
    let timeout = options.timeout;
    match timeout_at(Instant::now() + timeout, converse(stream, input, exchange)).await {
        Ok(asked) => asked,
        Err(_) => Err(Error::TimedOut(format!("no answer to AUTH within {timeout:?}"))),
    }
}

/// What ties the login to this connection, where that is possible (RFC 9266).
fn binding(stream: &Stream) -> Option<Vec<u8>> {
    #[cfg(feature = "tls")]
    if let Some(binding) = stream.channel_binding() {
        return Some(binding.to_vec());
    }
    let _ = stream;
    None
}

async fn converse(
    stream: &mut Stream,
    input: &mut Vec<u8>,
    mut exchange: Box<dyn Exchange>,
) -> Result<u64, Error> {
    let (mechanism, initial) = (exchange.mechanism().to_owned(), exchange.initial());
    let start = AuthRequest::Start { mechanism: mechanism.as_bytes(), initial: &initial };
    send(stream, start).await?;
    for asked in 1..=MAX_CHALLENGES {
        let payload = answer(stream, input).await?;
        let challenge = match AuthReply::parse(&payload) {
            Ok(AuthReply::Challenge(challenge)) => challenge.to_vec(),
            Ok(AuthReply::Success(data)) => {
                exchange.finish(data).map_err(Error::Rejected)?;
                return Ok(asked as u64);
            }
            Err(_) => return Err(garbage("a malformed AUTH frame")),
        };
        let work = spawn_blocking(move || {
            let response = exchange.respond(&challenge);
            (exchange, response)
        });
        let (back, response) = work.await.map_err(|error| Error::Rejected(error.to_string()))?;
        exchange = back;
        send(stream, AuthRequest::Response(&response.map_err(Error::Rejected)?)).await?;
    }
    Err(garbage("one challenge after the other"))
}

async fn send(stream: &mut Stream, request: AuthRequest<'_>) -> Result<(), Error> {
    let mut frame = vec![0; HEADER_LEN];
    request.put(&mut frame);
    let len = (frame.len() - HEADER_LEN) as u32;
    frame[..HEADER_LEN].copy_from_slice(&Header { kind: Kind::AUTH, len }.to_bytes());
    stream.write_all(&frame).await.map_err(|error| lost(Words(&error), false))
}

/// The payload of the next AUTH frame.
async fn answer(stream: &mut Stream, input: &mut Vec<u8>) -> Result<Vec<u8>, Error> {
    loop {
        if let Some(head) = input.first_chunk::<HEADER_LEN>() {
            let header = Header::parse(*head);
            let known = matches!(header.kind, Kind::AUTH | Kind::ERROR | Kind::GOAWAY);
            if !known || header.len > MAX_CONTROL_LEN {
                return Err(garbage(&format!("a {:?} frame", header.kind)));
            }
            let whole = HEADER_LEN + header.len as usize;
            if input.len() >= whole {
                let payload = input[HEADER_LEN..whole].to_vec();
                input.drain(..whole);
                return match header.kind {
                    Kind::AUTH => Ok(payload),
                    Kind::ERROR => Err(refused(&payload)),
                    _ => Err(left(&payload)),
                };
            }
        }
        match stream.read_buf(input).await {
            Ok(0) => return Err(lost("the server ended the stream", true)),
            Ok(_) => {}
            Err(error) => return Err(lost(Words(&error), false)),
        }
    }
}

fn refused(payload: &[u8]) -> Error {
    match ErrorFrame::parse(payload) {
        Ok(error) if error.code == ErrorCode::Denied => Error::denied(&error.text),
        Ok(error) => Error::rejected(error.code, &error.text),
        Err(_) => garbage("a malformed ERROR frame"),
    }
}

fn left(payload: &[u8]) -> Error {
    match Goaway::parse(payload) {
        Ok(goaway) => lost(leaving(goaway.reason), true),
        Err(_) => garbage("a malformed GOAWAY frame"),
    }
}

fn lost(how: impl fmt::Display, orderly: bool) -> Error {
    let how = format!("{how} before it answered AUTH");
    Error::ClosedEarly(Box::new(ClosedEarly { how, orderly, ..ClosedEarly::default() }))
}

fn garbage(what: &str) -> Error {
    Error::Different { at: 0, what: format!("the server answered AUTH with {what}") }
}

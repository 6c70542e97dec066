//! The first exchange: whether the server speaks frames, and how long they may be.

use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::error::{Words, leaving};
use super::{ClosedEarly, Dialect, Error, Session};
use crate::endpoint::Mode;
use crate::frame::{
    ErrorFrame, Features, Goaway, HEADER_LEN, Header, Hello, HelloReply, Kind, MAX_CONTROL_LEN,
    MAX_PAYLOAD_LEN, VERSION,
};
use crate::stream::{Peer, Stream};

/// What to try with a server that knows no HELLO.
const TRY_RAW: &str = "a plain RFC 862 server is raw://HOST:PORT";

/// What else to try with one that leaves without a word, as some do that speak TLS.
const TRY_TLS: &str = "a plain RFC 862 server is raw://HOST:PORT, one of TLS tls://HOST:PORT";

/// How a server of TLS answers what is none: an alert, of any version since 3.0 (RFC 8446 section 5.1).
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// A session that nobody talked about.
pub(super) fn unasked(dialect: Dialect, peer: Peer) -> Session {
    Session {
        dialect,
        fell_back: false,
        peer,
        max_frame: MAX_PAYLOAD_LEN,
        features: Features::default(),
        greeting: String::new(),
    }
}

/// Says HELLO and reads the answer, all within `timeout`; with it comes what the server sent behind
/// it. A server that echoes HELLO itself (RFC 862, or ours in raw mode) is raw, unless `mode` says
/// that it must not be.
pub(super) async fn negotiate(
    stream: &mut Stream,
    peer: Peer,
    mode: Mode,
    timeout: Duration,
) -> Result<(Session, Vec<u8>), Error> {
    let hint = if matches!(stream, Stream::Tcp(_)) { TRY_TLS } else { TRY_RAW };
    let lost = |how: &dyn fmt::Display, orderly| lost(how, orderly, hint);
    let exchange = async {
        let hello = hello();
        stream.write_all(&hello).await.map_err(|error| lost(&Words(&error), false))?;
        let mut answer = Vec::new();
        loop {
            if let Some((session, used)) = judge(&answer, &hello, peer, mode)? {
                answer.drain(..used);
                return Ok((session, answer));
            }
            match stream.read_buf(&mut answer).await {
                Ok(0) => return Err(lost(&"the server ended the stream", true)),
                Ok(_) => {}
                Err(error) => {
                    let lost = || lost(&Words(&error), false);
                    return Err(Error::secured(&error).unwrap_or_else(lost));
                }
            }
        }
    };
    match timeout_at(Instant::now() + timeout, exchange).await {
        Ok(session) => session,
        Err(_) => {
            Err(Error::TimedOut(format!("no answer to HELLO within {timeout:?} ({TRY_RAW})")))
        }
    }
}

fn hello() -> Vec<u8> {
    let mut payload = Vec::new();
    Hello::default().put(&mut payload);
    let header = Header { kind: Kind::HELLO, len: payload.len() as u32 };
    [&header.to_bytes()[..], &payload].concat()
}

/// Judges what has come so far, and says how long it is; `None` is not enough yet. The answer is
/// never six bytes long, so it differs from our own HELLO in its header.
fn judge(
    answer: &[u8],
    hello: &[u8],
    peer: Peer,
    mode: Mode,
) -> Result<Option<(Session, usize)>, Error> {
    if answer.starts_with(hello) {
        return match mode {
            Mode::Framed => Err(Error::Rejected(
                "the server echoes HELLO itself: it does not speak frames".to_owned(),
            )),
            _ => {
                let session = Session { fell_back: true, ..unasked(Dialect::Raw, peer) };
                Ok(Some((session, hello.len())))
            }
        };
    }
    if hello.starts_with(answer) || answer == &TLS_ALERT[..1] {
        return Ok(None);
    }
    if answer.starts_with(&TLS_ALERT) {
        let what = "the server speaks TLS there: try tls://".to_owned();
        return Err(Error::Different { at: 0, what });
    }
    let Some(head) = answer.first_chunk::<HEADER_LEN>() else {
        // No frame of a server's begins with anything else.
        return if matches!(Kind(answer[0]), Kind::HELLO | Kind::GOAWAY | Kind::ERROR) {
            Ok(None)
        } else {
            Err(garbage(answer))
        };
    };
    let header = Header::parse(*head);
    let whole = HEADER_LEN + header.len as usize;
    if !matches!(header.kind, Kind::HELLO | Kind::GOAWAY | Kind::ERROR)
        || header.len > MAX_CONTROL_LEN
    {
        return Err(garbage(answer));
    }
    let Some(payload) = answer.get(HEADER_LEN..whole) else { return Ok(None) };
    match header.kind {
        Kind::ERROR => Err(match ErrorFrame::parse(payload) {
            Ok(error) => Error::rejected(error.code, &error.text),
            Err(_) => garbage(answer),
        }),
        Kind::GOAWAY => Err(match Goaway::parse(payload) {
            // A plain server says no such thing.
            Ok(goaway) => Error::ClosedEarly(Box::new(ClosedEarly {
                how: format!("{} before it answered HELLO", leaving(goaway.reason)),
                orderly: true,
                ..ClosedEarly::default()
            })),
            Err(_) => garbage(answer),
        }),
        _ => {
            let Ok(reply) = HelloReply::parse(payload) else { return Err(garbage(answer)) };
            framed(&reply, peer).map(|session| Some((session, whole)))
        }
    }
}

fn framed(reply: &HelloReply<'_>, peer: Peer) -> Result<Session, Error> {
    if reply.version != VERSION {
        let version = reply.version;
        return Err(Error::Rejected(format!(
            "the server speaks version {version} of the protocol, this client {VERSION}"
        )));
    }
    Ok(Session {
        max_frame: reply.max_frame.min(MAX_PAYLOAD_LEN),
        features: reply.features,
        greeting: reply.greeting.clone().into_owned(),
        ..unasked(Dialect::Framed, peer)
    })
}

fn lost(how: impl fmt::Display, orderly: bool, hint: &str) -> Error {
    Error::ClosedEarly(Box::new(ClosedEarly {
        how: format!("{how} before it answered HELLO ({hint})"),
        orderly,
        ..ClosedEarly::default()
    }))
}

fn garbage(answer: &[u8]) -> Error {
    let shown = answer[..answer.len().min(40)].escape_ascii();
    Error::Different {
        at: 0,
        what: format!("the server answered HELLO with \"{shown}\" ({TRY_RAW})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an answer comes to: nothing yet, a session and the bytes behind it, or an error's words.
    fn judged(answer: &[u8], mode: Mode) -> Result<Option<(Session, usize)>, String> {
        let mut last = Ok(None);
        for len in 0..=answer.len() {
            last = judge(&answer[..len], &hello(), Peer::Memory, mode)
                .map_err(|error| error.to_string());
            if !matches!(last, Ok(None)) {
                break;
            }
        }
        last
    }

    #[test]
    fn frames_or_raw() {
        let reply = b"\x80\0\0\x0e\0\x01\0\x10\0\0\0\0\0\x05\0\x02hi";
        let (session, used) = judged(&[&reply[..], b"\x81"].concat(), Mode::Auto).unwrap().unwrap();
        assert_eq!(used, reply.len());
        assert_eq!(session.dialect, Dialect::Framed);
        assert_eq!(
            (session.max_frame, session.features, &session.greeting[..]),
            (1 << 20, Features(5), "hi")
        );
        let (session, used) = judged(&hello(), Mode::Auto).unwrap().unwrap();
        assert_eq!((session.dialect, session.fell_back, used), (Dialect::Raw, true, 10));
        let told = "refused: the server echoes HELLO itself: it does not speak frames";
        assert_eq!(judged(&hello(), Mode::Framed), Err(told.to_owned()));
        assert_eq!(judged(&reply[..17], Mode::Auto), Ok(None));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for (answer, told) in [
            (
                &b"SSH-2.0\r\n\x1b[2J"[..],
                "different at byte 0: the server answered HELLO with \"S\"",
            ),
            (b"\0\0\0\x01", "different at byte 0: the server answered HELLO with \"\\x00\""),
            (b"\x80\0\x10\x01", "different at byte 0: "),
            (b"\x80\0\0\x02ab", "different at byte 0: "),
            (
                b"\x80\0\0\x0c\0\x02\0\x10\0\0\0\0\0\x01\0\0",
                "refused: the server speaks version 2 ",
            ),
            (b"\x82\0\0\x05\0\x01\0no", "refused: the server says: no (error 1, too long)"),
            (b"\x82\0\0\0", "different at byte 0: "),
            (
                b"\x81\0\0\x0a\0\0\0\0\0\0\0\0\0\0",
                "closed early: the server drains before it answered HELLO",
            ),
            (b"\x81\0\0\0", "different at byte 0: "),
            (
                b"\x15\x03\x03\0\x02\x02\x32",
                "different at byte 0: the server speaks TLS there: try tls://",
            ),
            (b"\x15\x02", "different at byte 0: the server answered HELLO with \"\\x15\\x02\""),
        ] {
            let judged = judged(answer, Mode::Auto).unwrap_err();
            assert!(judged.starts_with(told), "{judged}");
            // It spoke frames.
            assert!(!(judged.contains("drains") && judged.contains(TRY_RAW)), "{judged}");
        }
    }

    /// Fault 35: a server may announce what it likes.
    #[test]
    fn an_announced_limit_is_clamped() {
        let reply = b"\x80\0\0\x0c\0\x01\xff\xff\xff\xff\0\0\0\0\0\0";
        let (session, _) = judged(reply, Mode::Auto).unwrap().unwrap();
        assert_eq!(session.max_frame, MAX_PAYLOAD_LEN);
    }
}

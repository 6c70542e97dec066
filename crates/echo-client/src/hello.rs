//! The first exchange: whether the server speaks frames, and how long they may be.

use std::num::NonZeroU32;
use std::time::Duration;

use echo_core::{Goaway, HEADER_LEN, Header, Hello, HelloReply, Kind, MAX_CONTROL_LEN, VERSION};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::answers::{Dialect, leaving, refusal};
use crate::failure::{Failure, reason};

/// Says HELLO and reads the answer, all within `timeout`. A server that echoes HELLO itself (RFC
/// 862, or ours in raw mode) makes it [`Dialect::Raw`].
pub(crate) async fn negotiate(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    timeout: Duration,
) -> Result<Dialect, Failure> {
    let exchange = async {
        let hello = hello();
        writer.write_all(&hello).await.map_err(|error| lost(&reason(&error)))?;
        let mut answer = Vec::with_capacity(256);
        loop {
            if let Some(mode) = judge(&answer, &hello)? {
                return Ok(mode);
            }
            match reader.read_buf(&mut answer).await {
                Ok(0) => return Err(lost("the server ended the stream")),
                Ok(_) => {}
                Err(error) => return Err(lost(&reason(&error))),
            }
        }
    };
    match timeout_at(Instant::now() + timeout, exchange).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(Failure::TimedOut(format!("no answer to HELLO within {timeout:?} ({TRY_RAW})")))
        }
    }
}

const TRY_RAW: &str = "a plain RFC 862 server is raw://HOST:PORT";

fn hello() -> Vec<u8> {
    let mut payload = Vec::new();
    Hello::default().put(&mut payload);
    let header = Header { kind: Kind::HELLO, len: payload.len() as u32 };
    [&header.to_bytes()[..], &payload].concat()
}

/// Judges what has come so far; `None` is not enough yet. The answer is never six bytes long, so it
/// differs from our own HELLO in its header.
fn judge(answer: &[u8], hello: &[u8]) -> Result<Option<Dialect>, Failure> {
    if hello.starts_with(answer) {
        return Ok((answer.len() == hello.len()).then_some(Dialect::Raw));
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
        || answer.len() > whole && header.kind == Kind::HELLO
    {
        return Err(garbage(answer));
    }
    let Some(payload) = answer.get(HEADER_LEN..whole) else { return Ok(None) };
    match header.kind {
        Kind::ERROR => Err(refusal(payload)),
        Kind::GOAWAY => Err(match Goaway::parse(payload) {
            Ok(goaway) => lost(&leaving(goaway.reason)),
            Err(_) => garbage(answer),
        }),
        _ => {
            let Ok(reply) = HelloReply::parse(payload) else { return Err(garbage(answer)) };
            framed(&reply).map(Some)
        }
    }
}

fn framed(reply: &HelloReply<'_>) -> Result<Dialect, Failure> {
    if reply.version != VERSION {
        let version = reply.version;
        return Err(Failure::Refused(format!(
            "the server speaks version {version} of the protocol, this client {VERSION}"
        )));
    }
    match NonZeroU32::new(reply.max_frame) {
        Some(max_frame) => Ok(Dialect::Framed { max_frame }),
        None => Err(Failure::Refused("the server takes empty frames only".to_owned())),
    }
}

fn lost(how: &str) -> Failure {
    Failure::ClosedEarly(format!("{how} before it answered HELLO ({TRY_RAW})"))
}

fn garbage(answer: &[u8]) -> Failure {
    let shown = answer[..answer.len().min(40)].escape_ascii();
    Failure::Different {
        at: 0,
        what: format!("the server answered HELLO with \"{shown}\" ({TRY_RAW})"),
    }
}

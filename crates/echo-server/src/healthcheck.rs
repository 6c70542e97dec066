//! `healthcheck`: one echo, asked for as any client would.

mod datagram;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use echo_core::client::{self, Client, Dialect, Options};
use echo_core::tls;
use echo_core::{
    Address, Endpoint, ErrorCode, ErrorFrame, HEADER_LEN, Header, HelloReply, Kind, Mode, UnixName,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;
use tokio::time::{Instant, timeout_at};

use crate::auth;
use crate::exit::{Failure, UNHEALTHY, USAGE, reason};

/// What comes back of a raw server; a greeting may stand before it.
const TEXT: &[u8] = b"echo-server healthcheck\n";
/// What comes back in a frame, after the HELLO reply. One byte fits every server's longest frame.
const ECHO: &[u8] = b"?";
/// More than any greeting or HELLO reply needs.
const MAX_ANSWER: usize = 8192;

/// Asks `target` for an echo; says how it answered, or why not.
pub(crate) fn run(target: &str, timeout: Duration) -> Result<String, Failure> {
    let wrong = |why: &dyn fmt::Display| Failure::new(USAGE, format!("cannot ask {target}: {why}"));
    let endpoint = target.parse().or_else(|_| Endpoint::target(target));
    let endpoint = endpoint.map_err(|error| wrong(&error))?;
    auth::judge_options(&endpoint).map_err(|why| wrong(&why))?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::cannot_start(&error))?;
    let asked = runtime.block_on(async {
        let started = Instant::now();
        match timeout_at(started + timeout, ask(&endpoint)).await {
            Ok(Ok(how)) => Ok((how, started.elapsed())),
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(format!("timed out: no echo within {timeout:?}")),
        }
    });
    // A name that still resolves holds nobody up.
    runtime.shutdown_background();
    match asked {
        Ok((how, took)) => Ok(format!("healthy: {target} answered in {took:.1?} ({how})")),
        Err(reason) => Err(Failure::new(UNHEALTHY, format!("unhealthy: {target}: {reason}"))),
    }
}

/// Asks, and says how the echo came: in which mode, or as a datagram.
async fn ask(endpoint: &Endpoint) -> Result<String, String> {
    let question = question(endpoint.mode);
    let stream_mode = match &endpoint.address {
        Address::Tcp { .. } if endpoint.tls => return ask_secured(endpoint).await,
        Address::Tcp { .. } => {
            let mut refusal = "unresolved: no address".to_owned();
            for address in resolve(endpoint).await? {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(converse(stream, &question).await?.to_string()),
                    Err(error) => refusal = refused(&error),
                }
            }
            Err(refusal)
        }
        Address::Unix(UnixName::Path(path)) => {
            let stream = UnixStream::connect(path).await.map_err(|error| refused(&error))?;
            converse(stream, &question).await
        }
        Address::Unix(UnixName::Abstract(name)) => {
            let path = OsString::from_vec([b"\0", name.as_slice()].concat());
            let stream = UnixStream::connect(path).await.map_err(|error| refused(&error))?;
            converse(stream, &question).await
        }
        Address::Udp { .. } => {
            let at = |address: SocketAddr| {
                let (ip, port) = (address.ip(), address.port());
                let host = match address {
                    SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{ip}%{}", v6.scope_id()),
                    _ => ip.to_string(),
                };
                Endpoint { address: Address::Udp { host, port }, ..endpoint.clone() }
            };
            let endpoints: Vec<_> = resolve(endpoint).await?.into_iter().map(at).collect();
            return datagram::ask(&endpoints).await;
        }
        Address::Unixgram(_) => return datagram::ask(std::slice::from_ref(endpoint)).await,
        other => Err(format!("{other:?} cannot be asked by this version")),
    };
    stream_mode.map(|mode| mode.to_string())
}

/// Asks under TLS. Whether it is well is asked, not who it is: any certificate will do.
async fn ask_secured(endpoint: &Endpoint) -> Result<String, String> {
    let tls = Some(tls::Client::new(None, None).map_err(|error| error.to_string())?);
    let asked = async {
        let mut client = Client::connect(endpoint, Options { tls, ..Options::default() }).await?;
        client.echo(ECHO).await?;
        Ok::<_, client::Error>(client.session().map(|session| session.dialect))
    };
    match asked.await {
        Ok(Some(Dialect::Framed)) => Ok("framed, TLS".to_owned()),
        Ok(_) => Ok("raw, TLS".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    endpoint.resolve().await.map_err(|error| format!("unresolved: {}", reason(&error)))
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &[u8],
) -> Result<Mode, String> {
    stream.write_all(question).await.map_err(|error| broken(&error))?;
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await.map_err(|error| broken(&error))?;
        match judge(question, &answer) {
            Verdict::Echo(mode) => return Ok(mode),
            Verdict::Wrong(reason) => return Err(reason.to_owned()),
            Verdict::Partial if read == 0 => {
                return Err(format!("closed early: no echo among {} bytes", answer.len()));
            }
            Verdict::Partial if answer.len() > MAX_ANSWER => {
                return Err("different: it answers, but with no echo".into());
            }
            Verdict::Partial => {}
        }
    }
}

/// Text for raw endpoints; for all others HELLO and one ECHO, which an RFC 862 server echoes too.
fn question(mode: Option<Mode>) -> Vec<u8> {
    let header = |kind, len: usize| Header { kind, len: len as u32 }.to_bytes();
    match mode {
        Some(Mode::Raw) => TEXT.to_vec(),
        _ => [&header(Kind::HELLO, 0), &header(Kind::ECHO, ECHO.len()), ECHO].concat(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Echo(Mode),
    Partial,
    Wrong(&'static str),
}

/// What the bytes that came back so far mean.
fn judge(question: &[u8], answer: &[u8]) -> Verdict {
    // Only its end, as a greeting may stand before.
    if answer.ends_with(question) {
        return Verdict::Echo(Mode::Raw);
    }
    let Some((Kind::HELLO, hello, rest)) = frame(answer) else { return Verdict::Partial };
    if HelloReply::parse(hello).is_err() {
        return Verdict::Partial; // Our own HELLO, the first part of a raw echo.
    }
    match frame(rest) {
        None => Verdict::Partial,
        Some((Kind::ECHO, payload, _)) if payload == ECHO => Verdict::Echo(Mode::Framed),
        // It serves users alone, and that is what it does.
        Some((Kind::ERROR, payload, _)) if is_denied(payload) => Verdict::Echo(Mode::Framed),
        Some((Kind::GOAWAY, ..)) => Verdict::Wrong("closed early: the server is draining"),
        Some(_) => Verdict::Wrong("different: the answer is not an echo"),
    }
}

fn is_denied(payload: &[u8]) -> bool {
    ErrorFrame::parse(payload).is_ok_and(|error| error.code == ErrorCode::Denied)
}

/// The first frame if it is whole: its kind, its payload, and what follows.
fn frame(bytes: &[u8]) -> Option<(Kind, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let header = Header::parse(*header);
    let (payload, rest) = rest.split_at_checked(header.len as usize)?;
    Some((header.kind, payload, rest))
}

fn refused(error: &io::Error) -> String {
    format!("refused: {}", reason(error))
}

fn broken(error: &io::Error) -> String {
    format!("closed early: {}", reason(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use echo_core::{Features, Goaway, Reason};

    fn framed(kind: Kind, payload: &[u8]) -> Vec<u8> {
        [&Header { kind, len: payload.len() as u32 }.to_bytes(), payload].concat()
    }

    fn hello_reply() -> Vec<u8> {
        let reply = HelloReply {
            version: 1,
            max_frame: 1 << 20,
            features: Features::PROBE,
            greeting: "welcome".into(),
        };
        let mut payload = Vec::new();
        reply.put(&mut payload);
        framed(Kind::HELLO, &payload)
    }

    /// Every prefix of a right answer is partial, and the whole is an echo.
    #[test]
    fn right_answers_are_known_when_they_are_whole() {
        let (raw, framed_too) = (question(Some(Mode::Raw)), question(None));
        for (question, answer, mode) in [
            (&raw, raw.clone(), Mode::Raw),
            (&raw, [b"welcome\n", raw.as_slice()].concat(), Mode::Raw),
            (&framed_too, framed_too.clone(), Mode::Raw),
            (&framed_too, [hello_reply(), framed(Kind::ECHO, ECHO)].concat(), Mode::Framed),
        ] {
            for end in 0..answer.len() {
                assert_eq!(judge(question, &answer[..end]), Verdict::Partial);
            }
            assert_eq!(judge(question, &answer), Verdict::Echo(mode));
        }
    }

    #[test]
    fn wrong_answers_are_told_apart() {
        let question = question(None);
        let after_hello = |frame: Vec<u8>| judge(&question, &[hello_reply(), frame].concat());
        let mut goaway = Vec::new();
        Goaway { reason: Reason::Drain, answered: 1 }.put(&mut goaway);
        assert!(
            matches!(after_hello(framed(Kind::GOAWAY, &goaway)), Verdict::Wrong(it) if it.contains("draining"))
        );
        let mut denied = Vec::new();
        let error = |code| ErrorFrame { code, closes: false, text: "no".into() };
        error(ErrorCode::Denied).put(&mut denied);
        assert_eq!(after_hello(framed(Kind::ERROR, &denied)), Verdict::Echo(Mode::Framed));
        let mut busy = Vec::new();
        error(ErrorCode::Busy).put(&mut busy);
        assert!(matches!(after_hello(framed(Kind::ERROR, &busy)), Verdict::Wrong(_)));
        assert!(
            matches!(after_hello(framed(Kind::ECHO, b"else")), Verdict::Wrong(it) if it.starts_with("different"))
        );
    }
}

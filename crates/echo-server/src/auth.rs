//! Users: who they are, and the conversation in which they prove it (AUTH frames).

pub(crate) mod command;
mod slow;
mod users;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use echo_core::{AuthReply, AuthRequest, Connection, Endpoint, Error, ErrorCode, ErrorFrame, Kind};
use echo_core::{Header, MAX_CONTROL_LEN, Mode};
use echo_scram::{Challenged, Mechanism, Server};
use zeroize::Zeroizing;

use crate::tls::certificate;
use crate::visitor::{User, Visitor};
use slow::{Begun, Slowness};
use users::Found;
pub(crate) use users::Users;

/// Failed tries on one connection, the last of which ends it.
const TRIES: u8 = 3;

/// What is told of a failure, whether there is such a user or not.
const FAILED: &str = "wrong name or password";

/// The users, and what is remembered of those who try to be one.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    users: RwLock<Option<Arc<Users>>>,
    slowness: Slowness,
    plain: Counts,
    plus: Counts,
    certificates: Counts,
    /// Connections that failed so often that they were ended.
    exhausted: AtomicU64,
}

/// How exchanges of one mechanism ended, or whose certificates were shown where users alone are served.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) success: AtomicU64,
    pub(crate) failure: AtomicU64,
}

impl Auth {
    /// Replaces the users. Who has authenticated stays who he is.
    pub(crate) fn set(&self, users: Option<Users>) {
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users.map(Arc::new);
    }

    pub(crate) fn is_offered(&self) -> bool {
        self.users.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn users(&self) -> Option<Arc<Users>> {
        self.users.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn counts(&self, mechanism: Mechanism) -> &Counts {
        match mechanism {
            Mechanism::Sha256 => &self.plain,
            Mechanism::Sha256Plus => &self.plus,
        }
    }

    /// The counters by mechanism.
    pub(crate) fn stats(&self) -> impl Iterator<Item = (&'static str, &Counts)> {
        let mechanisms = [Mechanism::Sha256, Mechanism::Sha256Plus];
        let mechanisms = mechanisms.into_iter().map(|it| (it.name(), self.counts(it)));
        mechanisms.chain([("certificate", &self.certificates)])
    }

    /// How many connections were ended for their failures.
    pub(crate) fn exhausted(&self) -> u64 {
        self.exhausted.load(Relaxed)
    }

    /// How many answers were held back.
    pub(crate) fn slowed(&self) -> u64 {
        self.slowness.slowed()
    }

    /// How many tries were refused, as their source made too many at once.
    pub(crate) fn refused(&self) -> u64 {
        self.slowness.refused()
    }
}

/// Whether a listener serves users alone.
pub(crate) fn is_required(endpoint: &Endpoint) -> bool {
    endpoint.options.iter().any(|(name, value)| name == "auth" && value == "required")
}

/// Judges the options of a listener that are this module's, and says which one is nobody's.
pub(crate) fn judge_options(endpoint: &Endpoint) -> Result<(), String> {
    for (name, value) in &endpoint.options {
        match (name.as_str(), value.as_str()) {
            ("auth", "required") => {}
            ("auth", _) => return Err(format!("bad auth {value:?}: write auth=required")),
            _ => {
                let known = "known are auth, mode, perm and rate";
                return Err(format!("unknown option {name:?}: {known}"));
            }
        }
    }
    if !is_required(endpoint) {
        return Ok(());
    }
    if endpoint.address.is_datagram() {
        return Err("datagrams cannot authenticate: leave out auth".to_owned());
    }
    if endpoint.mode == Some(Mode::Raw) {
        return Err("mode=raw knows no authentication: leave out auth or mode".to_owned());
    }
    Ok(())
}

/// Who is at the other end before anything was said: whom the certificate names that the peer has shown, and the
/// listener has checked. Who cannot be told by it may say so himself, and must where that is `required`.
pub(crate) fn by_certificate(auth: &Auth, connection: &mut Connection, required: bool) -> Visitor {
    let Some(certificate) = connection.peer_certificate() else { return Visitor::default() };
    let Some(users) = auth.users() else { return Visitor::default() };
    let found = certificate::common_name(certificate).map(|name| users.get(&name).cloned());
    match found {
        Ok(Some(user)) => {
            auth.certificates.success.fetch_add(1, Relaxed);
            connection.set_user(user.name.as_str().into());
            return Visitor { user: Some(user) };
        }
        Ok(None) => tracing::debug!("a certificate's common name is no user's"),
        Err(why) => tracing::debug!("a certificate is no user's: {why}"),
    }
    if required {
        auth.certificates.failure.fetch_add(1, Relaxed);
    }
    Visitor::default()
}

/// What a connection has tried. Most never do.
#[derive(Debug, Default)]
pub(crate) enum Attempts {
    #[default]
    None,
    Some(Box<Tried>),
    /// One has succeeded, and there will be no other.
    Over,
}

impl Attempts {
    /// What was tried, unless no more is to be.
    fn tried(&mut self) -> Option<&mut Tried> {
        if matches!(self, Self::None) {
            *self = Self::Some(Box::default());
        }
        match self {
            Self::Some(tried) => Some(tried),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tried {
    failures: u8,
    exchange: Option<Exchange>,
}

impl Tried {
    /// Counts a failure, and says whether it was the last that a connection has.
    fn failed(&mut self) -> bool {
        self.failures += 1;
        self.failures >= TRIES
    }
}

/// An exchange that waits for the client's proof.
struct Exchange {
    challenged: Challenged,
    /// Whose proof it is to be, if there is such a user.
    user: Arc<User>,
    known: bool,
    attempt: Attempt,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// A try: one that is given up counts as failed, so that nobody is faster by giving up.
struct Attempt {
    auth: Arc<Auth>,
    begun: Begun,
    mechanism: Mechanism,
    succeeded: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let counts = self.auth.counts(self.mechanism);
        if self.succeeded {
            counts.success.fetch_add(1, Relaxed);
        } else {
            counts.failure.fetch_add(1, Relaxed);
        }
        self.auth.slowness.end(&self.begun, !self.succeeded);
    }
}

/// Answers one AUTH frame.
pub(crate) async fn frame(
    auth: &Arc<Auth>,
    attempts: &mut Attempts,
    visitor: &mut Visitor,
    header: Header,
    connection: &mut Connection,
) -> Result<(), Error> {
    // With room for all of it, so that nothing is left where it has grown.
    let len = header.len.min(MAX_CONTROL_LEN) as usize;
    let mut payload = Zeroizing::new(Vec::with_capacity(len));
    while let Some(chunk) = connection.chunk().await? {
        payload.extend_from_slice(&chunk);
    }
    let Some(tried) = attempts.tried() else {
        let text = "this connection has authenticated";
        return refuse(connection, ErrorCode::UnexpectedKind, text, false).await;
    };
    let under_way = tried.exchange.take();
    connection.set_login_under_way(false);
    match AuthRequest::parse(&payload) {
        Ok(AuthRequest::Start { mechanism, initial }) => {
            // The one before, if there was one, is given up: a failure as any, or a peer could go on for ever.
            if under_way.is_some() {
                drop(under_way);
                if tried.failed() {
                    return tell(auth, connection, Why::Denied, true).await;
                }
            }
            match start(auth, mechanism, initial, connection).await {
                Ok((exchange, challenge)) => {
                    tried.exchange = Some(exchange);
                    connection.set_login_under_way(true);
                    answer(connection, AuthReply::Challenge(&challenge)).await
                }
                Err(why) => fail(auth, tried, connection, why).await,
            }
        }
        Ok(AuthRequest::Response(data)) => {
            let Some(Exchange { challenged, user, known, mut attempt }) = under_way else {
                let text = "no exchange is under way";
                return refuse(connection, ErrorCode::UnexpectedKind, text, false).await;
            };
            match (challenged.finish(data), known) {
                (Ok(signature), true) => {
                    attempt.succeeded = true;
                    connection.set_user(user.name.as_str().into());
                    visitor.user = Some(user);
                    *attempts = Attempts::Over;
                    answer(connection, AuthReply::Success(&signature)).await
                }
                (Err(error), _) => fail(auth, tried, connection, error.into()).await,
                (Ok(_), false) => fail(auth, tried, connection, Why::Denied).await,
            }
        }
        Err(_) => fail(auth, tried, connection, Why::Malformed).await,
    }
}

/// Why a try failed, as far as it is told.
enum Why {
    Denied,
    Malformed,
    NoMechanism,
    Crowded,
    /// Somebody may stand between: it tells nothing of users.
    Channel(echo_scram::Error),
}

impl From<echo_scram::Error> for Why {
    fn from(error: echo_scram::Error) -> Self {
        match error {
            echo_scram::Error::Malformed(_) => Self::Malformed,
            echo_scram::Error::OtherChannel | echo_scram::Error::Downgraded => Self::Channel(error),
            _ => Self::Denied,
        }
    }
}

async fn start(
    auth: &Arc<Auth>,
    mechanism: &[u8],
    initial: &[u8],
    connection: &mut Connection,
) -> Result<(Exchange, Vec<u8>), Why> {
    let mechanism = Mechanism::from_name(mechanism).ok_or(Why::NoMechanism)?;
    let peer = connection.peer();
    let begun = auth.slowness.begin(peer).map_err(|_| Why::Crowded)?;
    let pause = begun.pause;
    let attempt = Attempt { auth: Arc::clone(auth), begun, mechanism, succeeded: false };
    // Before anything that would tell one try from another.
    if let Some(pause) = pause {
        connection.pause(pause).await;
    }
    let binding = connection.channel_binding();
    let binding = binding.as_ref().map(<[u8; 32]>::as_slice);
    if mechanism == Mechanism::Sha256Plus && binding.is_none() {
        return Err(Why::NoMechanism);
    }
    let server = Server::start(mechanism, binding, initial)?;
    let users = auth.users().ok_or(Why::NoMechanism)?;
    let Found { user, known, verifier } = users.find(server.user());
    let (challenged, challenge) = server.challenge(verifier).map_err(|_| Why::Denied)?;
    Ok((Exchange { challenged, user, known, attempt }, challenge))
}

/// Counts a failed try, and tells of it.
async fn fail(
    auth: &Auth,
    tried: &mut Tried,
    connection: &mut Connection,
    why: Why,
) -> Result<(), Error> {
    tell(auth, connection, why, tried.failed()).await
}

/// Tells of a failed try, and ends the connection if it was the last one.
async fn tell(
    auth: &Auth,
    connection: &mut Connection,
    why: Why,
    closes: bool,
) -> Result<(), Error> {
    let (code, text) = match why {
        Why::Denied => (ErrorCode::Denied, FAILED.to_owned()),
        Why::Malformed => (ErrorCode::Malformed, "malformed AUTH frame".to_owned()),
        Why::NoMechanism => (ErrorCode::Denied, mechanisms(connection)),
        Why::Channel(error) => (ErrorCode::Denied, error.to_string()),
        Why::Crowded => (ErrorCode::Busy, "too many tries at once: try again later".to_owned()),
    };
    refuse(connection, code, &text, closes).await?;
    if !closes {
        return Ok(());
    }
    auth.exhausted.fetch_add(1, Relaxed);
    Err(Error::Denied)
}

/// What may be asked for on this connection. A client that knows itself on TLS hears that the server is not.
fn mechanisms(connection: &Connection) -> String {
    match connection.channel_binding() {
        Some(_) => "known here are SCRAM-SHA-256-PLUS and SCRAM-SHA-256".to_owned(),
        None => "known here, without TLS, is SCRAM-SHA-256 alone".to_owned(),
    }
}

async fn refuse(
    connection: &mut Connection,
    code: ErrorCode,
    text: &str,
    closes: bool,
) -> Result<(), Error> {
    let mut payload = Vec::new();
    ErrorFrame { code, closes, text: text.into() }.put(&mut payload);
    connection.send_frame(Kind::ERROR, &payload).await
}

async fn answer(connection: &mut Connection, reply: AuthReply<'_>) -> Result<(), Error> {
    let mut payload = Vec::new();
    reply.put(&mut payload);
    connection.send_frame(Kind::AUTH, &payload).await
}

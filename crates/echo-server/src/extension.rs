//! What this server adds to the conversation: AUTH and files.

use std::sync::Arc;

use echo_core::{Access, Connection, Endpoint, Error, Features, Header, Kind};

use crate::auth::{self, Attempts, Auth};
use crate::files::{Files, Transfer};
use crate::visitor::{Allow, Visitor};

/// Users and files, where there are any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extension {
    auth: Arc<Auth>,
    files: Option<Arc<Files>>,
    /// Nothing goes on without a user.
    login_required: bool,
}

/// What one connection's conversation remembers.
#[derive(Debug, Default)]
pub(crate) struct Session {
    visitor: Visitor,
    attempts: Attempts,
    transfer: Transfer,
}

impl Extension {
    pub(crate) fn new(auth: Arc<Auth>, files: Option<Arc<Files>>) -> Self {
        Self { auth, files, login_required: false }
    }

    /// The same for connections of that listener.
    pub(crate) fn at(&self, endpoint: &Endpoint) -> Self {
        Self { login_required: auth::is_required(endpoint), ..self.clone() }
    }
}

impl echo_core::Extension for Extension {
    type Session = Session;

    fn features(&self) -> Features {
        let auth = if self.auth.is_offered() { Features::AUTH } else { Features::default() };
        let files = if self.files.is_some() { Features::FILES } else { Features::default() };
        auth.with(files)
    }

    fn begin(&self, connection: &mut Connection) -> Session {
        let visitor = auth::by_certificate(&self.auth, connection, self.login_required);
        Session { visitor, ..Session::default() }
    }

    fn access(&self, session: &Session) -> Access {
        match &session.visitor.user {
            Some(user) if user.allow.contains(Allow::ECHO) => Access::Full,
            Some(_) => Access::NoEcho,
            None if self.login_required => Access::Login,
            None => Access::Full,
        }
    }

    async fn frame(
        &self,
        session: &mut Session,
        header: Header,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        let Session { visitor, attempts, transfer } = session;
        match &self.files {
            _ if header.kind == Kind::AUTH => {
                auth::frame(&self.auth, attempts, visitor, header, connection).await
            }
            Some(files) => files.frame(transfer, visitor, header, connection).await,
            None => Err(Error::UnexpectedKind(header.kind)),
        }
    }
}

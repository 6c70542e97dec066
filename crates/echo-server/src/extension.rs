//! What the daemon adds to the conversation of echo.

use std::sync::Arc;

use echo_core::{Access, Connection, Endpoint, Error, Features, Header};

use crate::auth::{self, Attempts, Auth};
use crate::visitor::{Allow, Visitor};

/// Users, where there are any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extension {
    auth: Arc<Auth>,
    /// Nothing goes on without a user.
    login_required: bool,
}

/// What one connection's conversation remembers.
#[derive(Debug, Default)]
pub(crate) struct Session {
    visitor: Visitor,
    attempts: Attempts,
}

impl Extension {
    pub(crate) fn new(auth: Arc<Auth>) -> Self {
        Self { auth, login_required: false }
    }

    /// The same for connections of that listener.
    pub(crate) fn at(&self, endpoint: &Endpoint) -> Self {
        Self { login_required: auth::is_required(endpoint), ..self.clone() }
    }
}

impl echo_core::Extension for Extension {
    type Session = Session;

    fn features(&self) -> Features {
        if self.auth.is_offered() { Features::AUTH } else { Features::default() }
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
        _header: Header,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        auth::frame(&self.auth, &mut session.attempts, &mut session.visitor, connection).await
    }
}

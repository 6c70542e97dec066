//! What the daemon adds to the conversation of echo.

use std::sync::Arc;

use echo_core::{Connection, Error, Features, Header};

use crate::files::{Files, Transfer};
use crate::visitor::Visitor;

/// Files, where there are any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extension {
    pub(crate) files: Option<Arc<Files>>,
}

/// What one connection's conversation remembers.
#[derive(Debug, Default)]
pub(crate) struct Session {
    visitor: Visitor,
    transfer: Transfer,
}

impl echo_core::Extension for Extension {
    type Session = Session;

    fn features(&self) -> Features {
        if self.files.is_some() { Features::FILES } else { Features::default() }
    }

    async fn frame(
        &self,
        session: &mut Session,
        header: Header,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        match &self.files {
            Some(files) => {
                files.frame(&mut session.transfer, &session.visitor, header, connection).await
            }
            None => Err(Error::UnexpectedKind(header.kind)),
        }
    }
}

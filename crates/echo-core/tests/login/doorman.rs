//! A server whose users know a word.

use echo_core::{
    Access, AuthReply, AuthRequest, Connection, Echo, Error, ErrorFrame, Extension, Features,
    Header, Kind, Mode,
};

use crate::support::{frame, frames};

pub(crate) const FILE: Kind = Kind(0x90);

/// Lets in whoever says the word, and lets who says another one do no echo. Some he knows from the start.
#[derive(Clone)]
pub(crate) struct Doorman {
    required: bool,
    /// Where connections begin.
    known: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    #[default]
    Outside,
    AtTheDoor,
    Inside,
    Aside,
}

impl Extension for Doorman {
    type Session = Place;

    fn features(&self) -> Features {
        Features::AUTH.with(Features::FILES)
    }

    fn begin(&self, connection: &mut Connection) -> Place {
        if self.known != Place::Outside {
            connection.set_user("alice".into());
        }
        self.known
    }

    fn access(&self, session: &Place) -> Access {
        match session {
            Place::Inside => Access::Full,
            Place::Aside => Access::NoEcho,
            _ if self.required => Access::Login,
            _ => Access::Full,
        }
    }

    async fn frame(
        &self,
        place: &mut Place,
        header: Header,
        connection: &mut Connection,
    ) -> Result<(), Error> {
        let mut payload = Vec::new();
        while let Some(chunk) = connection.chunk().await? {
            payload.extend_from_slice(&chunk);
        }
        if header.kind == FILE {
            return connection.send_frame(FILE, b"file").await;
        }
        connection.set_login_under_way(false);
        let mut reply = Vec::new();
        match AuthRequest::parse(&payload) {
            Ok(AuthRequest::Start { .. }) => {
                *place = Place::AtTheDoor;
                connection.set_login_under_way(true);
                AuthReply::Challenge(b"word?").put(&mut reply);
            }
            Ok(AuthRequest::Response(word)) => {
                *place = if word == b"word" { Place::Inside } else { Place::Aside };
                connection.set_user("alice".into());
                AuthReply::Success(b"welcome").put(&mut reply);
            }
            Err(_) => return Err(Error::Malformed(Kind::AUTH)),
        }
        connection.send_frame(Kind::AUTH, &reply).await
    }
}

pub(crate) fn auth(request: AuthRequest<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    request.put(&mut payload);
    frame(Kind::AUTH, &payload)
}

pub(crate) fn start() -> Vec<u8> {
    auth(AuthRequest::Start { mechanism: b"WORD", initial: b"" })
}

pub(crate) fn word(word: &[u8]) -> Vec<u8> {
    auth(AuthRequest::Response(word))
}

pub(crate) fn doorman(required: bool) -> Echo<Doorman> {
    doorman_who_knows(required, Place::Outside)
}

/// One who knows all that come.
pub(crate) fn doorman_who_knows(required: bool, known: Place) -> Echo<Doorman> {
    Echo::new(Mode::Auto).extended(Doorman { required, known })
}

/// Frames in words: their kind, and the code of an ERROR.
pub(crate) fn told(wire: &[u8]) -> Vec<String> {
    let word = |(kind, payload): (Kind, Vec<u8>)| match kind {
        Kind::ERROR => format!("ERROR {}", ErrorFrame::parse(&payload).unwrap().code.code()),
        kind => format!("{kind:?}"),
    };
    frames(wire).into_iter().map(word).collect()
}

//! Who the user is, and how the client proves it: SCRAM over the library's AUTH frames.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use echo_core::Features;
use echo_core::client::{Exchange, Login};
use echo_scram::ask::{self, EndedBy};
use echo_scram::{Binding, Client, Credentials, Password, Proven};
use zeroize::Zeroizing;

use crate::stdio;

/// What a server that serves users alone is shown by this process.
static SHOWN: OnceLock<Shown> = OnceLock::new();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Password,
    Certificate,
    Nothing,
}

/// Says, once, what is shown.
pub(crate) fn show(shown: Shown) {
    let _ = SHOWN.set(shown);
}

/// What to do if a server takes this for no user, to be put behind its words.
pub(crate) fn advice() -> &'static str {
    match SHOWN.get() {
        Some(Shown::Password) => "",
        Some(Shown::Certificate) => {
            ": the certificate is no user's there: give that of one, or --user NAME"
        }
        Some(Shown::Nothing) | None => ": give --user NAME, or under tls:// --cert FILE --key FILE",
    }
}

/// A user with the password, asked for once: connections made again need nobody.
#[derive(Clone, Debug)]
pub(crate) struct Identity(Arc<Credentials>);

/// Why nobody knows the password.
#[derive(Debug)]
pub(crate) enum Unidentified {
    /// In these words.
    Misused(String),
    /// Whoever was asked has ended it all by this signal.
    Ended(EndedBy),
}

impl Identity {
    /// The user `name`, with the password from the file, the environment, or the terminal.
    pub(crate) fn ask(name: &str, password_file: Option<&Path>) -> Result<Self, Unidentified> {
        let prompt = format!("Password of {}: ", crate::escape(name));
        let text = match password_file {
            Some(path) if is_stdin(path) => from_stdin(),
            file => ask::password(file, &[&prompt]),
        };
        let text = text.map_err(|error| match EndedBy::of(&error) {
            Some(signal) => Unidentified::Ended(signal),
            None => Unidentified::Misused(crate::failure::reason(&error)),
        })?;
        let words = |error: echo_scram::Error| Unidentified::Misused(error.to_string());
        let password = Password::new(&text).map_err(words)?;
        Ok(Self(Arc::new(Credentials::new(name, password).map_err(words)?)))
    }

    pub(crate) fn login(&self) -> Arc<dyn Login> {
        Arc::new(self.clone())
    }
}

/// Whether a file of a password is stdin, which is called `-` as well.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-" || stdio::is_stdin(path)
}

/// The first line of stdin, byte by byte: no buffer keeps it.
fn from_stdin() -> io::Result<Zeroizing<String>> {
    ask::first_line(&mut stdio::stdin()?).map_err(|error| {
        let why = crate::failure::reason(&error);
        io::Error::new(error.kind(), format!("cannot read the password from stdin: {why}"))
    })
}

/// The same one, not one that looks alike.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Identity {}

impl Login for Identity {
    fn start(
        &self,
        _features: Features,
        channel_binding: Option<Vec<u8>>,
    ) -> Result<Box<dyn Exchange>, String> {
        // A server that authenticates over TLS does so with channel binding: nobody falls back.
        let binding = channel_binding.map_or(Binding::Unsupported, Binding::TlsExporter);
        let mechanism = binding.mechanism().name();
        let started = Client::start(Arc::clone(&self.0), binding);
        let (client, first) = started.map_err(|error| error.to_string())?;
        Ok(Box::new(Conversation { mechanism, first, state: State::Started(client) }))
    }
}

struct Conversation {
    mechanism: &'static str,
    first: Vec<u8>,
    state: State,
}

enum State {
    Started(Client),
    Proven(Proven),
    Over,
}

impl Exchange for Conversation {
    fn mechanism(&self) -> &str {
        self.mechanism
    }

    fn initial(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.first)
    }

    fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, String> {
        let State::Started(client) = std::mem::replace(&mut self.state, State::Over) else {
            return Err("the server challenges a second time".to_owned());
        };
        let (proven, response) = client.answer(challenge).map_err(|error| error.to_string())?;
        self.state = State::Proven(proven);
        Ok(response)
    }

    fn finish(&mut self, data: &[u8]) -> Result<(), String> {
        let State::Proven(proven) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(echo_scram::Error::Impostor.to_string());
        };
        proven.verify(data).map_err(|error| error.to_string())
    }
}

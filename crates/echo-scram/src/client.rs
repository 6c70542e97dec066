//! The client's side.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::keys::{Key, Keys, hmac, xor};
use crate::message::{ServerFinal, ServerFirst, encode};
use crate::prepare::escape;
use crate::{Error, MAX_ITERATIONS, MIN_ITERATIONS, Mechanism, Password, prepare_name};

/// Random bytes of a nonce.
pub(crate) const NONCE_LEN: usize = 18;

/// A user and the password, which is kept until a server has proved to know its verifier. From then on
/// there is only what that server's salt made of it: enough for each further exchange with the same
/// server, and of no use with another.
pub struct Credentials {
    user: String,
    secret: Mutex<Secret>,
}

struct Secret {
    password: Option<Password>,
    derived: Option<Derived>,
}

struct Derived {
    salt: Vec<u8>,
    iterations: u32,
    keys: Keys,
}

impl Credentials {
    /// A user and the password.
    ///
    /// # Errors
    /// [`Error::BadName`].
    pub fn new(user: &str, password: Password) -> Result<Self, Error> {
        let secret = Secret { password: Some(password), derived: None };
        Ok(Self { user: prepare_name(user)?, secret: Mutex::new(secret) })
    }

    /// The user's name, prepared.
    pub fn user(&self) -> &str {
        &self.user
    }

    fn keys(&self, salt: Vec<u8>, iterations: u32) -> Result<Keys, Error> {
        let mut secret = self.secret();
        match &secret.derived {
            Some(it) if it.salt == salt && it.iterations == iterations => Ok(it.keys.clone()),
            _ => {
                let password = secret.password.as_ref().ok_or(Error::Forgotten)?;
                let keys = Keys::derive(password, &salt, iterations);
                secret.derived = Some(Derived { salt, iterations, keys: keys.clone() });
                Ok(keys)
            }
        }
    }

    /// The password is needed no more.
    fn forget(&self) {
        self.secret().password = None;
    }

    fn secret(&self) -> MutexGuard<'_, Secret> {
        self.secret.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What a client knows of the channel.
#[derive(Clone, PartialEq, Eq)]
pub enum Binding {
    /// It can bind to no channel: SCRAM-SHA-256, and no downgrade is noticed.
    Unsupported,
    /// It could, but the server does not offer the mechanism for it: SCRAM-SHA-256, and a server that
    /// did offer it notices that somebody has taken the offer away.
    NotOffered,
    /// What the TLS exporter says (RFC 9266): SCRAM-SHA-256-PLUS.
    TlsExporter(Vec<u8>),
}

impl Binding {
    /// The mechanism that goes with it.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Self::TlsExporter(_) => Mechanism::Sha256Plus,
            Self::Unsupported | Self::NotOffered => Mechanism::Sha256,
        }
    }

    fn header(&self) -> &'static str {
        match self {
            Self::Unsupported => "n,,",
            Self::NotOffered => "y,,",
            Self::TlsExporter(_) => "p=tls-exporter,,",
        }
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "Unsupported",
            Self::NotOffered => "NotOffered",
            Self::TlsExporter(_) => "TlsExporter(..)",
        })
    }
}

/// A client that has said who it is.
#[derive(Debug)]
pub struct Client {
    credentials: Arc<Credentials>,
    binding: Binding,
    nonce: String,
}

impl Client {
    /// Begins an exchange, and says what to send.
    ///
    /// # Errors
    /// [`Error::NoEntropy`].
    pub fn start(
        credentials: Arc<Credentials>,
        binding: Binding,
    ) -> Result<(Self, Vec<u8>), Error> {
        Ok(Self::start_with(credentials, binding, random_nonce()?))
    }

    pub(crate) fn start_with(
        credentials: Arc<Credentials>,
        binding: Binding,
        nonce: String,
    ) -> (Self, Vec<u8>) {
        let client = Self { credentials, binding, nonce };
        let message = [client.binding.header(), &client.bare()].concat();
        (client, message.into())
    }

    fn bare(&self) -> String {
        format!("n={},r={}", escape(self.credentials.user()), self.nonce)
    }

    /// Answers the server's challenge. The first time that a salt is seen this works for as long as the
    /// iterations take, which may be a second: not on a thread that others wait for.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::ForeignNonce`], [`Error::Iterations`], [`Error::Forgotten`].
    pub fn answer(self, challenge: &[u8]) -> Result<(Proven, Vec<u8>), Error> {
        let first = ServerFirst::parse(challenge)?;
        let own = first.nonce.strip_prefix(&self.nonce).filter(|rest| !rest.is_empty());
        own.ok_or(Error::ForeignNonce)?;
        let iterations = u32::try_from(first.iterations).unwrap_or(u32::MAX);
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
            return Err(Error::Iterations(first.iterations));
        }
        let mut bound = self.binding.header().as_bytes().to_vec();
        if let Binding::TlsExporter(value) = &self.binding {
            bound.extend_from_slice(value);
        }
        let without_proof = format!("c={},r={}", encode(&bound), first.nonce);
        let keys = self.credentials.keys(first.salt, iterations)?;
        let bare = self.bare();
        let said = [bare.as_bytes(), b",", challenge, b",", without_proof.as_bytes()];
        let signature = hmac(&*keys.stored_key(), &said);
        let proof = xor(&keys.client_key, &signature);
        let message = format!("{without_proof},p={}", encode(&*proof));
        let server_signature = hmac(&*keys.server_key, &said);
        Ok((Proven { server_signature, credentials: self.credentials }, message.into()))
    }
}

/// A client that has proved to know its password, and waits for the server to do so.
pub struct Proven {
    server_signature: Key,
    credentials: Arc<Credentials>,
}

impl Proven {
    /// Judges the server's last message. Only with this the client knows whom it talks to; then it forgets
    /// the password.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Impostor`], [`Error::Refused`].
    pub fn verify(self, message: &[u8]) -> Result<(), Error> {
        match ServerFinal::parse(message)? {
            ServerFinal::Refused(words) => Err(Error::Refused(words.to_owned())),
            ServerFinal::Signature(signature) => {
                let signature = Zeroizing::new(signature);
                match bool::from(signature[..].ct_eq(&self.server_signature[..])) {
                    true => {
                        self.credentials.forget();
                        Ok(())
                    }
                    false => Err(Error::Impostor),
                }
            }
        }
    }
}

impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proven(..)")
    }
}

pub(crate) fn random_nonce() -> Result<String, Error> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)?;
    Ok(encode(&nonce))
}

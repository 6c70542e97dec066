//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), both sides, as state machines without
//! I/O. The channel binding of -PLUS is `tls-exporter` (RFC 9266).
//!
//! Each state is a type, and each step consumes it, so that no message can be taken in another's place:
//!
//! ```text
//! Client::start ──────── client-first ───────▶ Server::start
//! Client::answer ◀────── server-first ──────── Server::challenge
//!     │    └──────────── client-final ───────▶ Challenged::finish
//! Proven::verify ◀────── server-final ────────────┘
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use echo_scram::{Binding, Client, Credentials, Mechanism, Password, Server, Verifier};
//!
//! # fn main() -> Result<(), echo_scram::Error> {
//! // What a server keeps of a password, from which it cannot be had back.
//! let verifier = Verifier::derive(&Password::new("pencil")?, 4096)?;
//!
//! let credentials = Arc::new(Credentials::new("user", Password::new("pencil")?)?);
//! let (client, first) = Client::start(credentials, Binding::Unsupported)?;
//! let server = Server::start(Mechanism::Sha256, None, &first)?;
//! assert_eq!(server.user(), "user");
//! let (server, challenge) = server.challenge(verifier)?;
//! let (client, proof) = client.answer(&challenge)?;
//! let signature = server.finish(&proof)?;
//! client.verify(&signature)?;
//! # Ok(())
//! # }
//! ```
//!
//! **What is told of users.** A server that does not know a user goes on with a [`Verifier::unknown`],
//! whose salt is always the same for that name; a wrong proof, one of the wrong length and one for an
//! unknown user end in the same error after the same work, and are compared in constant time.
//!
//! **Secrets** are overwritten when they are dropped, and no `Debug` shows them.

#![forbid(unsafe_code)]

#[cfg(feature = "ask")]
pub mod ask;
mod client;
mod keys;
mod message;
mod prepare;
mod server;

pub use client::{Binding, Client, Credentials, Proven};
pub use keys::{KEY_LEN, SALT_LEN, Verifier, new_secret};
pub use message::Part;
pub use prepare::{Password, prepare_name};
pub use server::{Challenged, Server};

/// The fewest iterations that a client takes part in (RFC 7677 section 4).
pub const MIN_ITERATIONS: u32 = 4096;

/// The most iterations that a client takes part in: a server must not make it work for minutes. About
/// a second's work.
pub const MAX_ITERATIONS: u32 = 2_000_000;

/// A mechanism of this family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// Without channel binding.
    Sha256,
    /// Bound to the TLS channel.
    Sha256Plus,
}

impl Mechanism {
    /// The name that SASL knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha256Plus => "SCRAM-SHA-256-PLUS",
        }
    }

    /// The mechanism of that name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Sha256, Self::Sha256Plus].into_iter().find(|it| it.name().as_bytes() == name)
    }
}

/// Why an exchange, or its preparation, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer's message is not what RFC 5802 says.
    #[error("malformed {0}")]
    Malformed(Part),
    /// The client may not come in: user, password, mechanism or identity are not right. Which of them is not
    /// told.
    #[error("authentication failed")]
    Denied,
    /// The client is bound to another channel than the server's, or its word on it was changed on the way,
    /// whatever its password is.
    #[error("what the client is bound to is not this connection: somebody stands between")]
    OtherChannel,
    /// What the client says of channel binding does not go with the mechanism that was asked for, or with what is
    /// offered: somebody may have hidden the better mechanism.
    #[error(
        "the mechanism does not go with what the client says of channel binding: somebody stands between"
    )]
    Downgraded,
    /// The server refused, in its own words.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The server does not know the password either: it is not the one that it pretends to be.
    #[error("the server did not prove that it knows the password")]
    Impostor,
    /// The server's nonce does not continue the client's.
    #[error("the server answered another client's challenge")]
    ForeignNonce,
    /// A server asks for so few iterations that its verifiers would be guessed, or for too many.
    #[error(
        "the server asks for {0} iterations: from {MIN_ITERATIONS} to {MAX_ITERATIONS} are done"
    )]
    Iterations(u64),
    /// A server asks with another salt than the one that the password was for, and the password is there no
    /// more.
    #[error("the server asks for the password again: it was changed, or this is another server")]
    Forgotten,
    /// A password that is empty, too long, or holds characters that SASLprep (RFC 4013) forbids.
    #[error("a password is 1 to 1024 bytes long, and without characters that SASLprep forbids")]
    BadPassword,
    /// The same of a user name.
    #[error("a user name is 1 to 255 bytes long, without blanks and control characters")]
    BadName,
    /// A user name with characters that SASLprep (RFC 4013) forbids, or forbids together.
    #[error(
        "the user name has characters that SASLprep (RFC 4013) does not allow: emoji are among them, and all that \
         Unicode 3.2 does not know"
    )]
    ForbiddenName,
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    NoEntropy(getrandom::Error),
}

impl From<getrandom::Error> for Error {
    fn from(error: getrandom::Error) -> Self {
        Self::NoEntropy(error)
    }
}

#[cfg(test)]
mod tests;

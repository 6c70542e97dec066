//! The server's side.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::client::random_nonce;
use crate::keys::{KEY_LEN, hmac, sha256, xor};
use crate::message::{ClientFinal, ClientFirst, Flag, encode};
use crate::{Error, Mechanism, Verifier, prepare_name};

/// The one kind of channel binding (RFC 9266).
const EXPORTER: &str = "tls-exporter";

/// A server that knows who wants to come in.
pub struct Server {
    user: String,
    nonce: String,
    bare: String,
    /// What the client must say that it is bound to.
    bound: Vec<u8>,
}

impl Server {
    /// Reads the client's first message, on a channel whose TLS exporter says `binding`, if it has one.
    ///
    /// # Errors
    /// [`Error::Malformed`]; [`Error::Downgraded`] where the client's word on channel binding does not go with the
    /// mechanism, or shows that somebody has hidden the mechanism for it; [`Error::Denied`] where it wants to act
    /// as somebody else.
    pub fn start(
        mechanism: Mechanism,
        binding: Option<&[u8]>,
        message: &[u8],
    ) -> Result<Self, Error> {
        let first = ClientFirst::parse(message)?;
        let bound = match (mechanism, first.flag, binding) {
            (Mechanism::Sha256, Flag::None, _) | (Mechanism::Sha256, Flag::NotOffered, None) => &[],
            (Mechanism::Sha256Plus, Flag::Named(EXPORTER), Some(value)) => value,
            _ => return Err(Error::Downgraded),
        };
        // A name that cannot be is one that nobody has.
        let prepared = |name: String| prepare_name(&name).unwrap_or(name);
        let (identity, user) = (first.identity.map(prepared), prepared(first.name));
        if identity.is_some_and(|identity| identity != user) {
            return Err(Error::Denied);
        }
        let (nonce, bare) = (first.nonce.to_owned(), first.bare.to_owned());
        Ok(Self { user, nonce, bare, bound: [first.header.as_bytes(), bound].concat() })
    }

    /// Who wants to come in, prepared: nothing is proved yet.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Challenges the client to prove that it knows the password of `verifier`:
    /// [`Verifier::unknown`] where the user is.
    ///
    /// # Errors
    /// [`Error::NoEntropy`].
    pub fn challenge(self, verifier: Verifier) -> Result<(Challenged, Vec<u8>), Error> {
        Ok(self.challenge_with(verifier, &random_nonce()?))
    }

    pub(crate) fn challenge_with(self, verifier: Verifier, nonce: &str) -> (Challenged, Vec<u8>) {
        let nonce = self.nonce + nonce;
        let (salt, iterations) = (encode(verifier.salt()), verifier.iterations());
        let challenge = format!("r={nonce},s={salt},i={iterations}");
        let said = format!("{},{challenge},", self.bare);
        let challenged = Challenged { user: self.user, nonce, bound: self.bound, said, verifier };
        (challenged, challenge.into())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A server that waits for the client's proof.
pub struct Challenged {
    user: String,
    nonce: String,
    bound: Vec<u8>,
    /// What was said up to here.
    said: String,
    verifier: Verifier,
}

impl Challenged {
    /// Who wants to come in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Judges the client's proof, and says what to send to whoever has one. Of everybody else it does
    /// the same work, in constant time.
    ///
    /// # Errors
    /// [`Error::Malformed`]; [`Error::OtherChannel`], which does not depend on user and password; and
    /// [`Error::Denied`].
    pub fn finish(self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let last = ClientFinal::parse(message)?;
        let proof: [u8; KEY_LEN] = last.proof[..].try_into().unwrap_or([0; KEY_LEN]);
        let said = [self.said.as_bytes(), last.without_proof.as_bytes()];
        let signature = hmac(self.verifier.stored_key(), &said);
        let client_key = xor(&proof, &signature);
        let proved = sha256(&*client_key).ct_eq(&self.verifier.stored_key()[..]);
        let fits = last.proof.len().ct_eq(&KEY_LEN);
        let bound = last.binding.ct_eq(&self.bound);
        let fresh = last.nonce.as_bytes().ct_eq(self.nonce.as_bytes());
        let server_signature = hmac(self.verifier.server_key(), &said);
        let message = format!("v={}", encode(&*server_signature));
        match (bool::from(bound), bool::from(proved & fits & fresh)) {
            (false, _) => Err(Error::OtherChannel),
            (true, false) => Err(Error::Denied),
            (true, true) => Ok(message.into()),
        }
    }
}

impl fmt::Debug for Challenged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenged").field("user", &self.user).finish_non_exhaustive()
    }
}

//! The keys of RFC 5802 section 3, and what a server keeps of a password.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable};
use zeroize::Zeroizing;

use crate::{Error, Password};

/// Bytes of a key: those of SHA-256.
pub const KEY_LEN: usize = 32;

/// Bytes of a salt.
pub const SALT_LEN: usize = 16;

/// A key, overwritten when it is dropped.
pub(crate) type Key = Zeroizing<[u8; KEY_LEN]>;

/// Random bytes that nobody else has, for [`Verifier::unknown`].
///
/// # Errors
/// [`Error::NoEntropy`].
pub fn new_secret() -> Result<Zeroizing<[u8; KEY_LEN]>, Error> {
    let mut secret = Key::default();
    getrandom::fill(&mut *secret)?;
    Ok(secret)
}

/// What a server keeps of a password: it proves who knows it, and does not tell it.
#[derive(Clone)]
pub struct Verifier {
    salt: Vec<u8>,
    iterations: u32,
    stored_key: Key,
    server_key: Key,
}

impl Verifier {
    /// The verifier of a password, with a new salt.
    ///
    /// # Errors
    /// [`Error::NoEntropy`].
    pub fn derive(password: &Password, iterations: u32) -> Result<Self, Error> {
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt)?;
        let keys = Keys::derive(password, &salt, iterations);
        Ok(Self::from_parts(&salt, iterations, *keys.stored_key(), *keys.server_key))
    }

    /// The verifier that was kept in these parts.
    pub fn from_parts(
        salt: &[u8],
        iterations: u32,
        stored_key: [u8; KEY_LEN],
        server_key: [u8; KEY_LEN],
    ) -> Self {
        let (stored_key, server_key) = (Zeroizing::new(stored_key), Zeroizing::new(server_key));
        Self { salt: salt.to_vec(), iterations, stored_key, server_key }
    }

    /// What stands for the verifier of a user who is not known: by the `secret`, which nobody else has,
    /// it is always the same for one name, and no password fits it.
    pub fn unknown(secret: &[u8], name: &str, iterations: u32) -> Self {
        let part = |what: &[u8]| hmac(secret, &[what, b"\0", name.as_bytes()]);
        Self {
            salt: part(b"salt")[..SALT_LEN].to_vec(),
            iterations,
            stored_key: part(b"stored key"),
            server_key: part(b"server key"),
        }
    }

    /// This one if it is that of a user who is `known`, else the `unknown` one, in constant time. Both have
    /// salts of the same length.
    #[must_use]
    pub fn or_unknown(mut self, known: bool, unknown: &Self) -> Self {
        let choice = Choice::from(u8::from(!known));
        let assign = |own: &mut [u8], other: &[u8]| {
            own.iter_mut()
                .zip(other)
                .for_each(|(own, other)| own.conditional_assign(other, choice));
        };
        assign(&mut self.salt, &unknown.salt);
        assign(&mut *self.stored_key, &*unknown.stored_key);
        assign(&mut *self.server_key, &*unknown.server_key);
        self
    }

    /// The salt, which everybody is told who asks.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// How often the password is hashed.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// StoredKey of RFC 5802.
    pub fn stored_key(&self) -> &[u8; KEY_LEN] {
        &self.stored_key
    }

    /// ServerKey of RFC 5802.
    pub fn server_key(&self) -> &[u8; KEY_LEN] {
        &self.server_key
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// What a client makes of its password and a server's salt.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) client_key: Key,
    pub(crate) server_key: Key,
}

impl Keys {
    pub(crate) fn derive(password: &Password, salt: &[u8], iterations: u32) -> Self {
        let mut salted = Key::default();
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut *salted);
        let (client_key, server_key) =
            (hmac(&*salted, &[b"Client Key"]), hmac(&*salted, &[b"Server Key"]));
        Self { client_key, server_key }
    }

    pub(crate) fn stored_key(&self) -> Key {
        sha256(&*self.client_key)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Key {
    Zeroizing::new(Sha256::digest(bytes).into())
}

pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    // A key of any length is one, so this cannot fail; were it to, nothing would be equal to it.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Key::default() };
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

pub(crate) fn xor(one: &[u8; KEY_LEN], other: &[u8; KEY_LEN]) -> Key {
    let mut both = Zeroizing::new(*one);
    both.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
    both
}

//! The file of users: who they are, what they may do, and how they prove it. No passwords.

mod change;
mod text;

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use echo_scram::{KEY_LEN, MAX_ITERATIONS, MIN_ITERATIONS, Password, SALT_LEN, Verifier};
use subtle::ConstantTimeEq;
use toml::{Table, Value};
use zeroize::{Zeroize, Zeroizing};

use crate::exit::{CONFIG, Failure, IO, reason};
use crate::units;
use crate::visitor::{Allow, User};
pub(super) use change::Change;

/// The form of the file.
const VERSION: i64 = 1;

/// How often a new file's passwords are hashed. All of a file's are so alike, so that users who are not
/// there look like those who are. About 20 ms for a client, and for who guesses, each guess.
const ITERATIONS: u32 = 100_000;

/// Far more than any list of users needs.
const MAX_LEN: u64 = 16 << 20;

/// The words for what a user may do.
const WORDS: [(&str, Allow); 5] = [
    ("echo", Allow::ECHO),
    ("list", Allow::LIST),
    ("get", Allow::GET),
    ("put", Allow::PUT),
    ("remove", Allow::REMOVE),
];

/// All users.
pub(crate) struct Users {
    iterations: u32,
    /// Makes what is told of users that are not there, always the same.
    secret: Zeroizing<[u8; KEY_LEN]>,
    users: BTreeMap<String, Entry>,
    /// In the place of users that are not there.
    nobody: Arc<User>,
    /// The users, and nobody, in the order of a keyed digest of their names, as they were read from the file: a
    /// search for any name takes the same steps, and who comes near a name learns nothing.
    by_digest: Vec<(Digest, Provable)>,
}

/// A user, and what proves a password to be his: nothing, if he has none and comes by a certificate alone.
type Entry = (Arc<User>, Option<Verifier>);

/// The same with something to prove for everybody, which those without a password cannot.
#[derive(Clone)]
struct Provable {
    user: Arc<User>,
    verifier: Verifier,
    has_password: bool,
}

/// What the secret makes of a name: nobody else can tell it, so that its bytes may decide how long a
/// comparison takes.
type Digest = [u8; KEY_LEN];

/// What there is to a name that is to be proved by a password.
pub(super) struct Found {
    /// Nobody, with no rights, if the user is not `known`.
    pub(super) user: Arc<User>,
    /// There is such a user, with a password.
    pub(super) known: bool,
    /// What proves it; nothing does, if the user is not known.
    pub(super) verifier: Verifier,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("count", &self.users.len()).finish_non_exhaustive()
    }
}

impl Users {
    /// Nobody.
    pub(crate) fn new() -> Result<Self, Failure> {
        let secret = echo_scram::new_secret();
        let secret = secret.map_err(|error| Failure::new(IO, error.to_string()))?;
        Ok(Self::empty(ITERATIONS, secret))
    }

    fn empty(iterations: u32, secret: Zeroizing<[u8; KEY_LEN]>) -> Self {
        let user = User { name: String::new(), allow: Allow::default(), quota: Some(0) };
        let (nobody, users) = (Arc::new(user), BTreeMap::new());
        Self { iterations, secret, users, nobody, by_digest: Vec::new() }
    }

    /// Reads the file, all or nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        Ok(Self::read_with_text(path)?.0)
    }

    /// The same, with what it was read from.
    fn read_with_text(path: &Path) -> Result<(Self, Zeroizing<String>), Failure> {
        let failed = |why: &str| Failure::new(CONFIG, format!("users {}: {why}", path.display()));
        let text = contents(path).map_err(|error| failed(&reason(&error)))?;
        let users = Self::parse(&text).map_err(|why| failed(&why))?;
        Ok((users, text))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
            // Without the line itself, which may be a verifier.
            let line = error.span().map_or(0, |it| text[..it.start].matches('\n').count() + 1);
            format!("line {line}: {}", error.message().replace('\n', ", "))
        })?;
        let users = Self::from_table(&table);
        table.iter_mut().for_each(|(_, value)| zeroize(value));
        users
    }

    fn from_table(table: &Table) -> Result<Self, String> {
        known(table, &["version", "iterations", "secret", "user"])?;
        match table.get("version").and_then(Value::as_integer) {
            Some(VERSION) => {}
            Some(other) => return Err(format!("version {other} of this file is not known")),
            None => return Err("no version: this is no file of users".to_owned()),
        }
        let iterations = table.get("iterations").and_then(Value::as_integer);
        let iterations = iterations.and_then(|it| u32::try_from(it).ok());
        let iterations = iterations.filter(|it| (MIN_ITERATIONS..=MAX_ITERATIONS).contains(it));
        let iterations = iterations.ok_or_else(|| {
            format!("iterations: write a number from {MIN_ITERATIONS} to {MAX_ITERATIONS}")
        })?;
        let secret = Zeroizing::new(bytes::<KEY_LEN>(table, "secret")?);
        let mut users = Self::empty(iterations, secret);
        let none = Vec::new();
        let list = table.get("user").map_or(Some(&none), Value::as_array);
        for user in list.ok_or("user: write a [[user]] for each")? {
            let user = user.as_table().ok_or("user: write a [[user]] for each")?;
            let name = user.get("name").and_then(Value::as_str).ok_or("a user has no name")?;
            let at = |why: String| format!("user {name}: {why}");
            users.insert_table(name, user).map_err(at)?;
        }
        users.put_in_order();
        Ok(users)
    }

    fn insert_table(&mut self, name: &str, table: &Table) -> Result<(), String> {
        known(table, &["name", "allow", "quota", "salt", "stored-key", "server-key"])?;
        let prepared = echo_scram::prepare_name(name).map_err(|error| error.to_string())?;
        if prepared != name {
            // Nobody would be found by it: clients send what SASLprep makes of a name. The two may look alike.
            return Err(
                "write the name as SASLprep (RFC 4013) does, composed (NFKC): `user add` does so"
                    .to_owned(),
            );
        }
        let words = table.get("allow").and_then(Value::as_array).ok_or("allow: write a list")?;
        let words = words.iter().map(|word| allow(word.as_str().unwrap_or_default()));
        let allow = words.collect::<Result<Vec<_>, _>>().map_err(|why| format!("allow: {why}"))?;
        let allow = allow.into_iter().fold(Allow::default(), Allow::with);
        let quota = match table.get("quota") {
            None => None,
            Some(Value::Integer(bytes)) => {
                Some(u64::try_from(*bytes).map_err(|_| "quota: write a size".to_owned())?)
            }
            Some(Value::String(text)) => {
                Some(units::size(text).map_err(|it| format!("quota: {it}"))?)
            }
            Some(_) => return Err("quota: write a size".to_owned()),
        };
        let parts = ["salt", "stored-key", "server-key"];
        let verifier = if parts.iter().any(|part| table.contains_key(*part)) {
            let salt = bytes::<SALT_LEN>(table, parts[0])?;
            let keys = (bytes::<KEY_LEN>(table, parts[1])?, bytes::<KEY_LEN>(table, parts[2])?);
            Some(Verifier::from_parts(&salt, self.iterations, keys.0, keys.1))
        } else {
            None
        };
        let user = Arc::new(User { name: name.to_owned(), allow, quota });
        match self.users.insert(name.to_owned(), (user, verifier)) {
            None => Ok(()),
            Some(_) => Err("listed twice".to_owned()),
        }
    }

    fn put_in_order(&mut self) {
        let nobody = (Arc::clone(&self.nobody), None);
        let all = self.users.values().chain([&nobody]).map(|(user, verifier)| {
            let unknown = Verifier::unknown(&*self.secret, &user.name, self.iterations);
            let digest = *unknown.server_key();
            let has_password = verifier.is_some();
            let verifier = verifier.clone().unwrap_or(unknown);
            (digest, Provable { user: Arc::clone(user), verifier, has_password })
        });
        self.by_digest = all.collect();
        self.by_digest.sort_unstable_by_key(|(digest, _)| *digest);
    }

    /// The user of that name, if there is one with a password, and what proves it. The same work for all: in
    /// place of who is not there somebody else is found, and nothing of him used.
    pub(super) fn find(&self, name: &str) -> Found {
        let unknown = Verifier::unknown(&*self.secret, name, self.iterations);
        let sought = unknown.server_key();
        let index = self.by_digest.partition_point(|(digest, _)| digest < sought);
        let last = self.by_digest.len().saturating_sub(1);
        let Some((digest, found)) = self.by_digest.get(index.min(last)) else {
            return Found { user: Arc::clone(&self.nobody), known: false, verifier: unknown };
        };
        let known = bool::from(digest.ct_eq(sought)) & found.has_password;
        let user = [&self.nobody, &found.user][usize::from(known)];
        let verifier = found.verifier.clone().or_unknown(known, &unknown);
        Found { user: Arc::clone(user), known, verifier }
    }

    /// The user of that very name, for whom somebody else vouches.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name).map(|(user, _)| user)
    }

    /// All of them, by name, and whether they have a password.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&User, bool)> {
        self.users.values().map(|(user, verifier)| (&**user, verifier.is_some()))
    }

    /// Adds a user, with a password or without; `false` if there is one of that name.
    pub(super) fn add(&mut self, user: User, password: Option<&Password>) -> Result<bool, Failure> {
        if self.users.contains_key(&user.name) {
            return Ok(false);
        }
        let verifier = self.verifier(password)?;
        self.users.insert(user.name.clone(), (Arc::new(user), verifier));
        Ok(true)
    }

    /// Gives a user another password, or none; `false` if there is no such user.
    pub(super) fn set_password(
        &mut self,
        name: &str,
        password: Option<&Password>,
    ) -> Result<bool, Failure> {
        let new = self.verifier(password)?;
        let Some((_, verifier)) = self.users.get_mut(name) else { return Ok(false) };
        *verifier = new;
        Ok(true)
    }

    /// Takes a user out; `false` if there is no such user.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.users.remove(name).is_some()
    }

    fn verifier(&self, password: Option<&Password>) -> Result<Option<Verifier>, Failure> {
        let verifier = password.map(|password| Verifier::derive(password, self.iterations));
        verifier.transpose().map_err(|error| Failure::new(IO, error.to_string()))
    }
}

/// What a word allows.
pub(crate) fn allow(word: &str) -> Result<Allow, String> {
    let found = WORDS.iter().find(|(known, _)| *known == word);
    found.map(|(_, allow)| *allow).ok_or_else(|| "write echo, list, get, put or remove".to_owned())
}

/// The words for what a user may do.
pub(super) fn words(allow: Allow) -> impl Iterator<Item = &'static str> {
    WORDS.iter().filter(move |(_, it)| allow.contains(*it)).map(|(word, _)| *word)
}

/// The file's text, if nobody else may read or write it.
fn contents(path: &Path) -> io::Result<Zeroizing<String>> {
    // Opening a pipe that nobody writes to would wait for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    // In its folder for credentials systemd lets in the service's user alone, by a list that shows in
    // the group's bits.
    let folder = env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty());
    let others = if folder.is_some_and(|it| path.starts_with(it)) { 0o007 } else { 0o077 };
    if found.mode() & others != 0 {
        let mode = found.mode() & 0o777;
        return Err(io::Error::other(format!(
            "its mode is {mode:03o}, others may use it: chmod 600"
        )));
    }
    if found.len() > MAX_LEN {
        return Err(io::Error::other("over 16 MiB"));
    }
    let mut text = Zeroizing::new(String::with_capacity(found.len() as usize + 1));
    file.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(text)
}

/// Overwrites all text in it.
fn zeroize(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(zeroize),
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| zeroize(value)),
        _ => {}
    }
}

/// Fails for a key that has no place there.
fn known(table: &Table, known: &[&str]) -> Result<(), String> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("unknown key {key:?}")),
        None => Ok(()),
    }
}

/// So many bytes in base64.
fn bytes<const LEN: usize>(table: &Table, key: &str) -> Result<[u8; LEN], String> {
    let text = table.get(key).and_then(Value::as_str);
    let bytes = text.and_then(|text| STANDARD.decode(text).ok()).map(Zeroizing::new);
    let bytes = bytes.and_then(|bytes| bytes[..].try_into().ok());
    bytes.ok_or_else(|| format!("{key}: write {LEN} bytes in base64"))
}

#[cfg(test)]
mod tests;

//! The file of users: who they are, what they may do, and how they prove it. No passwords.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use echo_scram::{KEY_LEN, MAX_ITERATIONS, MIN_ITERATIONS, Password, SALT_LEN, Verifier};
use rustix::fs::{FlockOperation, flock};
use subtle::ConstantTimeEq;
use toml::{Table, Value};
use zeroize::{Zeroize, Zeroizing};

use crate::exit::{CONFIG, Failure, IO, reason};
use crate::units;
use crate::visitor::{Allow, User};

/// The form of the file.
const VERSION: i64 = 1;

/// How often a new file's passwords are hashed. All of a file's are so alike, so that users who are not
/// there look like those who are. About 20 ms for a client, and for who guesses, each guess.
const ITERATIONS: u32 = 100_000;

/// Far more than any list of users needs.
const MAX_LEN: u64 = 16 << 20;

const HEAD: &str = "\
# Users of echo-server. `echo-server user` writes this file: allow and quota may be changed by hand.
# It holds no passwords, but what passwords are guessed by: it is nobody else's to read.
";

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
    users: BTreeMap<String, (Arc<User>, Verifier)>,
    /// In the place of users that are not there.
    nobody: (Arc<User>, Verifier),
    /// The users, and nobody, in the order of a keyed digest of their names, as they were read from the file: a
    /// search for any name takes the same steps, and who comes near a name learns nothing.
    by_digest: Vec<(Digest, Arc<User>, Verifier)>,
}

/// What the secret makes of a name: nobody else can tell it, so that its bytes may decide how long a
/// comparison takes.
type Digest = [u8; KEY_LEN];

/// What there is to a name.
pub(super) struct Found {
    /// Nobody, with no rights, if the user is not `known`.
    pub(super) user: Arc<User>,
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
        let nobody = (Arc::new(user), Verifier::unknown(&*secret, "", iterations));
        Self { iterations, secret, users: BTreeMap::new(), nobody, by_digest: Vec::new() }
    }

    /// Reads the file, all or nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |why: &str| Failure::new(CONFIG, format!("users {}: {why}", path.display()));
        let text = contents(path).map_err(|error| failed(&reason(&error)))?;
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
            // Without the line itself, which may be a verifier.
            let line = error.span().map_or(0, |it| text[..it.start].matches('\n').count() + 1);
            failed(&format!("line {line}: {}", error.message().replace('\n', ", ")))
        })?;
        let users = Self::from_table(&table).map_err(|why| failed(&why));
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
        if echo_scram::prepare_name(name).as_deref() != Ok(name) {
            return Err(echo_scram::Error::BadName.to_string());
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
        let salt = bytes::<SALT_LEN>(table, "salt")?;
        let keys = (bytes::<KEY_LEN>(table, "stored-key")?, bytes::<KEY_LEN>(table, "server-key")?);
        let verifier = Verifier::from_parts(&salt, self.iterations, keys.0, keys.1);
        let user = Arc::new(User { name: name.to_owned(), allow, quota });
        match self.users.insert(name.to_owned(), (user, verifier)) {
            None => Ok(()),
            Some(_) => Err("listed twice".to_owned()),
        }
    }

    fn put_in_order(&mut self) {
        let all = self.users.values().chain([&self.nobody]);
        let all = all.map(|(user, verifier)| {
            let digest =
                *Verifier::unknown(&*self.secret, &user.name, self.iterations).server_key();
            (digest, Arc::clone(user), verifier.clone())
        });
        self.by_digest = all.collect();
        self.by_digest.sort_unstable_by_key(|(digest, ..)| *digest);
    }

    /// The user of that name, if there is one, and what proves it. The same work for all: in place of
    /// who is not there somebody else is found, and nothing of him used.
    pub(super) fn find(&self, name: &str) -> Found {
        let unknown = Verifier::unknown(&*self.secret, name, self.iterations);
        let sought = unknown.server_key();
        let index = self.by_digest.partition_point(|(digest, ..)| digest < sought);
        let last = self.by_digest.len().saturating_sub(1);
        let Some((digest, user, verifier)) = self.by_digest.get(index.min(last)) else {
            return Found { user: Arc::clone(&self.nobody.0), known: false, verifier: unknown };
        };
        let known = bool::from(digest.ct_eq(sought)) && !name.is_empty();
        let user = [&self.nobody.0, user][usize::from(known)];
        let verifier = verifier.clone().or_unknown(known, &unknown);
        Found { user: Arc::clone(user), known, verifier }
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &User> {
        self.users.values().map(|(user, _)| &**user)
    }

    /// Adds a user; `false` if there is one of that name.
    pub(super) fn add(&mut self, user: User, password: &Password) -> Result<bool, Failure> {
        if self.users.contains_key(&user.name) {
            return Ok(false);
        }
        let verifier = self.verifier(password)?;
        self.users.insert(user.name.clone(), (Arc::new(user), verifier));
        Ok(true)
    }

    /// Gives a user another password; `false` if there is no such user.
    pub(super) fn set_password(
        &mut self,
        name: &str,
        password: &Password,
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

    fn verifier(&self, password: &Password) -> Result<Verifier, Failure> {
        Verifier::derive(password, self.iterations)
            .map_err(|error| Failure::new(IO, error.to_string()))
    }

    fn to_text(&self) -> Zeroizing<String> {
        let encode = |bytes: &[u8]| Zeroizing::new(STANDARD.encode(bytes));
        let mut text = Zeroizing::new(HEAD.to_owned());
        let (iterations, secret) = (self.iterations, &*encode(&*self.secret));
        // A string takes all that is written to it.
        let _ =
            writeln!(text, "version = {VERSION}\niterations = {iterations}\nsecret = \"{secret}\"");
        for (user, verifier) in self.users.values() {
            let name = Value::from(user.name.as_str());
            let allow: Vec<_> = words(user.allow).map(|word| format!("\"{word}\"")).collect();
            let quota = user.quota.map_or_else(String::new, |it| format!("quota = {it}\n"));
            let _ = write!(
                text,
                "\n[[user]]\nname = {name}\nallow = [{}]\n{quota}salt = \"{}\"\nstored-key = \"{}\"\n\
                 server-key = \"{}\"\n",
                allow.join(", "),
                *encode(verifier.salt()),
                *encode(verifier.stored_key()),
                *encode(verifier.server_key()),
            );
        }
        text
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

/// A change of the file: its folder is locked, so that of two writers one waits for the other.
pub(super) struct Change {
    path: PathBuf,
    folder: File,
    pub(super) users: Users,
    /// Whose the file is, if it was there.
    owner: Option<(u32, u32)>,
}

impl Change {
    /// Locks, and reads what there is; a file that is not there is empty.
    pub(super) fn begin(path: &Path) -> Result<Self, Failure> {
        // A link is followed: what it leads to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let failed = |error: io::Error| write_failure(&path, &error);
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = File::open(folder).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let (users, owner) = match fs::symlink_metadata(&path) {
            Ok(found) => (Users::read(&path)?, Some((found.uid(), found.gid()))),
            Err(error) if error.kind() == ErrorKind::NotFound => (Users::new()?, None),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path, folder, users, owner })
    }

    /// Replaces the file: there is the old one or the new one at every moment, and the new one is on
    /// the disk before it is there.
    pub(super) fn commit(self) -> Result<(), Failure> {
        self.write().map_err(|error| write_failure(&self.path, &error))
    }

    fn write(&self) -> io::Result<()> {
        let name = self.path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let mut new = std::ffi::OsString::from(".");
        new.push(name);
        new.push(".new");
        let new = self.path.with_file_name(new);
        // What a writer that was killed has left: under the lock nobody else's.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = self.fill(&mut file).and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            // It says more than a second error would.
            let _ = fs::remove_file(&new);
        }
        written?;
        self.folder.sync_all()
    }

    fn fill(&self, file: &mut File) -> io::Result<()> {
        let metadata = file.metadata()?;
        if let Some((uid, gid)) = self.owner
            && (uid, gid) != (metadata.uid(), metadata.gid())
        {
            // The server that reads it may be another user than who writes it.
            std::os::unix::fs::fchown(&*file, Some(uid), Some(gid))?;
        }
        file.write_all(self.users.to_text().as_bytes())?;
        file.sync_all()
    }
}

fn write_failure(path: &Path, error: &io::Error) -> Failure {
    Failure::new(IO, format!("cannot write users {}: {}", path.display(), reason(error)))
}

/// The file's text, if nobody else may read or write it.
fn contents(path: &Path) -> io::Result<Zeroizing<String>> {
    // Opening a pipe that nobody writes to would wait for ever.
    if !fs::metadata(path)?.is_file() {
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

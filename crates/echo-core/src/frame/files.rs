//! Payloads of the frames of files. All integers are big-endian; bytes after the known fields are
//! ignored, so that a later version can add some.
//!
//! A transfer is the client's to drive. It stores a file with PUT, DATA ... and COMMIT, and fetches one
//! with GET, READ ... and DONE; each of these frames has one answer, of its own kind (of READ it is DATA),
//! or an ERROR.

mod name;

use std::fmt;

use bytes::{Buf, BufMut};

use super::control::MalformedControl;

pub use name::{BadName, FileName};

/// Bytes of a SHA-256 digest.
const DIGEST_LEN: usize = 32;

/// The nanoseconds of a second: what a time's last part is below.
const SECOND: u32 = 1_000_000_000;

const RESUME: u8 = 0b01;
const KEEP: u8 = 0b10;

/// A size that is not known before the end.
const UNKNOWN: u64 = u64::MAX;

/// When a file changed and who may use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The permission bits, 0o7777 at most.
    pub mode: u32,
    /// When its contents changed, in seconds since 1970, UTC.
    pub mtime_s: i64,
    /// Nanoseconds on top of them, below 1,000,000,000.
    pub mtime_ns: u32,
}

impl Attributes {
    fn parse(payload: &mut &[u8]) -> Result<Self, MalformedControl> {
        let mode = payload.try_get_u32().map_err(|_| MalformedControl)?;
        let mtime_s = payload.try_get_i64().map_err(|_| MalformedControl)?;
        let mtime_ns = payload.try_get_u32().map_err(|_| MalformedControl)?;
        if mtime_ns >= SECOND || mode > 0o7777 {
            return Err(MalformedControl);
        }
        Ok(Self { mode, mtime_s, mtime_ns })
    }

    fn put(&self, out: &mut impl BufMut) {
        out.put_u32(self.mode);
        out.put_i64(self.mtime_s);
        out.put_u32(self.mtime_ns);
    }
}

/// PUT of a client: opens an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// Go on where an upload of this name was parked, if one is.
    pub resume: bool,
    /// What the file shall keep of its original's attributes, if it shall.
    pub keep: Option<Attributes>,
    /// Bytes of the whole file, if they are known.
    pub size: Option<u64>,
    /// What the file is to be called.
    pub name: FileName<'a>,
}

impl<'a> Put<'a> {
    /// Reads the payload.
    pub fn parse(mut payload: &'a [u8]) -> Result<Self, MalformedControl> {
        let flags = payload.try_get_u8().map_err(|_| MalformedControl)?;
        let size = payload.try_get_u64().map_err(|_| MalformedControl)?;
        let attributes = Attributes::parse(&mut payload)?;
        Ok(Self {
            resume: flags & RESUME != 0,
            keep: (flags & KEEP != 0).then_some(attributes),
            size: (size != UNKNOWN).then_some(size),
            name: name(&mut payload)?,
        })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        let keep = if self.keep.is_some() { KEEP } else { 0 };
        out.put_u8(keep | if self.resume { RESUME } else { 0 });
        out.put_u64(self.size.unwrap_or(UNKNOWN));
        self.keep.unwrap_or_default().put(out);
        put_bytes(out, self.name.as_bytes());
    }
}

/// The answer to PUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutReply {
    /// How many bytes are there already.
    pub offset: u64,
    /// SHA-256 of them. A client whose file begins otherwise sends PUT again, without `resume`.
    pub prefix: [u8; DIGEST_LEN],
}

impl PutReply {
    /// Reads the payload.
    pub fn parse(mut payload: &[u8]) -> Result<Self, MalformedControl> {
        let offset = payload.try_get_u64().map_err(|_| MalformedControl)?;
        Ok(Self { offset, prefix: digest(&mut payload)? })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u64(self.offset);
        out.put_slice(&self.prefix);
    }
}

/// The answer to DATA of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataReply {
    /// How many bytes of the file have come in all.
    pub received: u64,
}

impl DataReply {
    /// Reads the payload.
    pub fn parse(mut payload: &[u8]) -> Result<Self, MalformedControl> {
        payload.try_get_u64().map(|received| Self { received }).map_err(|_| MalformedControl)
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u64(self.received);
    }
}

/// COMMIT of a client: ends an upload. The answer is the [`Digest`] of what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// SHA-256 of the whole file.
    pub digest: [u8; DIGEST_LEN],
    /// Bytes of the whole file.
    pub size: u64,
}

impl Commit {
    /// Reads the payload.
    pub fn parse(mut payload: &[u8]) -> Result<Self, MalformedControl> {
        let digest = digest(&mut payload)?;
        let size = payload.try_get_u64().map_err(|_| MalformedControl)?;
        Ok(Self { digest, size })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_slice(&self.digest);
        out.put_u64(self.size);
    }
}

/// The answer to COMMIT and to DONE: SHA-256 of a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; DIGEST_LEN]);

impl Digest {
    /// Reads the payload.
    pub fn parse(mut payload: &[u8]) -> Result<Self, MalformedControl> {
        digest(&mut payload).map(Self)
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_slice(&self.0);
    }
}

/// In hexadecimal, as sha256sum(1) prints it.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// GET of a client: opens a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Get<'a> {
    /// How many bytes the client has already.
    pub offset: u64,
    /// SHA-256 of them.
    pub prefix: [u8; DIGEST_LEN],
    /// What the file is called.
    pub name: FileName<'a>,
}

impl<'a> Get<'a> {
    /// Reads the payload.
    pub fn parse(mut payload: &'a [u8]) -> Result<Self, MalformedControl> {
        let offset = payload.try_get_u64().map_err(|_| MalformedControl)?;
        let prefix = digest(&mut payload)?;
        Ok(Self { offset, prefix, name: name(&mut payload)? })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u64(self.offset);
        out.put_slice(&self.prefix);
        put_bytes(out, self.name.as_bytes());
    }
}

/// The answer to GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetReply {
    /// Where READ begins: as asked for, or 0 if the file begins otherwise.
    pub offset: u64,
    /// Bytes of the whole file.
    pub size: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

impl GetReply {
    /// Reads the payload.
    pub fn parse(mut payload: &[u8]) -> Result<Self, MalformedControl> {
        let offset = payload.try_get_u64().map_err(|_| MalformedControl)?;
        let size = payload.try_get_u64().map_err(|_| MalformedControl)?;
        Ok(Self { offset, size, attributes: Attributes::parse(&mut payload)? })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u64(self.offset);
        out.put_u64(self.size);
        self.attributes.put(out);
    }
}

/// READ of a client: asks for the next bytes of a download. The answer is DATA with as many, or with
/// what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// How many.
    pub len: u32,
}

impl Read {
    /// Reads the payload.
    pub fn parse(mut payload: &[u8]) -> Result<Self, MalformedControl> {
        payload.try_get_u32().map(|len| Self { len }).map_err(|_| MalformedControl)
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u32(self.len);
    }
}

/// LIST of a client: asks which files are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<'a> {
    /// Only those whose names are behind this one, in the order of bytes; empty for all.
    pub cursor: &'a [u8],
    /// Only those whose names begin so; empty for all.
    pub prefix: &'a [u8],
}

impl<'a> List<'a> {
    /// Reads the payload.
    pub fn parse(mut payload: &'a [u8]) -> Result<Self, MalformedControl> {
        let cursor = bytes(&mut payload)?;
        let prefix = bytes(&mut payload)?;
        if cursor.len().max(prefix.len()) > FileName::MAX_LEN {
            return Err(MalformedControl);
        }
        Ok(Self { cursor, prefix })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        put_bytes(out, self.cursor);
        put_bytes(out, self.prefix);
    }
}

/// The answer to LIST: [`Entry`]s by their names' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListReply<'a> {
    /// Whether there are more behind the last one.
    pub more: bool,
    /// What is here.
    pub entries: Vec<Entry<'a>>,
}

impl<'a> ListReply<'a> {
    /// The longest payload: a server cuts the list before it would be longer.
    pub const MAX_LEN: u32 = 64 << 10;

    /// Reads the payload.
    pub fn parse(mut payload: &'a [u8]) -> Result<Self, MalformedControl> {
        let more = payload.try_get_u8().map_err(|_| MalformedControl)?;
        let mut entries = Vec::new();
        while !payload.is_empty() {
            entries.push(Entry::parse(&mut payload)?);
        }
        match more {
            0 | 1 => Ok(Self { more: more == 1, entries }),
            _ => Err(MalformedControl),
        }
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(self.more.into());
        self.entries.iter().for_each(|entry| entry.put(out));
    }
}

/// One file of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its bytes.
    pub size: u64,
    /// Its attributes.
    pub attributes: Attributes,
    /// What it is called.
    pub name: FileName<'a>,
}

impl<'a> Entry<'a> {
    /// The bytes of an entry without its name.
    pub const MIN_LEN: usize = 8 + 8 + 4 + 4 + 2;

    fn parse(payload: &mut &'a [u8]) -> Result<Self, MalformedControl> {
        let size = payload.try_get_u64().map_err(|_| MalformedControl)?;
        let mtime_s = payload.try_get_i64().map_err(|_| MalformedControl)?;
        let mtime_ns = payload.try_get_u32().map_err(|_| MalformedControl)?;
        let mode = payload.try_get_u32().map_err(|_| MalformedControl)?;
        if mtime_ns >= SECOND || mode > 0o7777 {
            return Err(MalformedControl);
        }
        let attributes = Attributes { mode, mtime_s, mtime_ns };
        Ok(Self { size, attributes, name: name(payload)? })
    }

    /// Writes it.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u64(self.size);
        out.put_i64(self.attributes.mtime_s);
        out.put_u32(self.attributes.mtime_ns);
        out.put_u32(self.attributes.mode);
        put_bytes(out, self.name.as_bytes());
    }

    /// The bytes that [`put`](Self::put) writes.
    pub const fn encoded_len(&self) -> usize {
        Self::MIN_LEN + self.name.as_bytes().len()
    }
}

/// REMOVE of a client: removes a file. The answer is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remove<'a> {
    /// What the file is called.
    pub name: FileName<'a>,
}

impl<'a> Remove<'a> {
    /// Reads the payload.
    pub fn parse(mut payload: &'a [u8]) -> Result<Self, MalformedControl> {
        name(&mut payload).map(|name| Self { name })
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        put_bytes(out, self.name.as_bytes());
    }
}

fn name<'a>(payload: &mut &'a [u8]) -> Result<FileName<'a>, MalformedControl> {
    FileName::new(bytes(payload)?).map_err(|_| MalformedControl)
}

fn bytes<'a>(payload: &mut &'a [u8]) -> Result<&'a [u8], MalformedControl> {
    let len = payload.try_get_u16().map_err(|_| MalformedControl)?;
    payload.split_off(..usize::from(len)).ok_or(MalformedControl)
}

fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

fn digest(payload: &mut &[u8]) -> Result<[u8; DIGEST_LEN], MalformedControl> {
    let (digest, rest) = payload.split_first_chunk().ok_or(MalformedControl)?;
    *payload = rest;
    Ok(*digest)
}

#[cfg(test)]
mod tests;

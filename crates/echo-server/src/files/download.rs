//! A download: the file as it was when it was opened, read ahead of the peer by one block.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use echo_core::{Connection, Digest, Error, FileName, Get, GetReply, Header, Kind};
use echo_folder::{attributes, size};
use rustix::fs::Stat;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::Fault;
use super::jobs::{Jobs, PIECE, give_way_now, run};
use super::quota::{Open, Owner};
use super::refusal::Refusal;
use super::shelf::Shelf;

/// What is read at once.
const BLOCK: usize = 256 << 10;

/// What of a prefix is digested in one go, so that others have their turns, and nobody who has left.
const SKIP: u64 = 64 << 20;

/// A download under way.
#[derive(Debug)]
pub(crate) struct Download {
    /// Bytes of the file when it was opened.
    size: u64,
    /// How many the peer has.
    sent: u64,
    /// What was read, and how much of it is sent.
    block: Vec<u8>,
    used: usize,
    work: Work,
    shelf: Arc<Shelf>,
    _open: Open,
}

#[derive(Debug)]
enum Work {
    Here(Reader),
    There(JoinHandle<(Reader, io::Result<Vec<u8>>)>),
    /// A read was given up, or failed.
    Nowhere,
}

/// The file, read from its beginning to its end.
#[derive(Debug)]
struct Reader {
    file: File,
    at: u64,
    size: u64,
    digest: Sha256,
}

impl Reader {
    fn open(shelf: &Shelf, name: FileName<'_>) -> io::Result<(Self, Stat)> {
        let (file, stat) = shelf.store.read(name)?;
        Ok((Self { file, at: 0, size: size(&stat), digest: Sha256::new() }, stat))
    }

    /// Reads the next block into `block`, which is empty at the end of the file.
    fn read(&mut self, mut block: Vec<u8>) -> io::Result<Vec<u8>> {
        let len = (self.size - self.at).min(BLOCK as u64) as usize;
        block.resize(len, 0);
        // Of a file that was cut meanwhile less is there than was announced: an error.
        for piece in block.chunks_mut(PIECE) {
            self.file.read_exact_at(piece, self.at)?;
            self.digest.update(&*piece);
            self.at += piece.len() as u64;
            give_way_now();
        }
        Ok(block)
    }

    /// Digests up to `offset`, or a good deal of the way.
    fn skip(&mut self, offset: u64) -> io::Result<()> {
        let end = offset.min(self.at + SKIP);
        let (size, mut block) = (std::mem::replace(&mut self.size, end), Vec::new());
        while self.at < end {
            block = self.read(block)?;
        }
        self.size = size;
        Ok(())
    }

    /// Goes back to the beginning, unless what was digested is what the peer has.
    fn compare(&mut self, prefix: &[u8; 32]) {
        if self.digest.clone().finalize()[..] != prefix[..] {
            (self.at, self.digest) = (0, Sha256::new());
        }
    }
}

impl Download {
    pub(super) async fn open(
        shelf: &Arc<Shelf>,
        owner: &Owner,
        get: &Get<'_>,
        jobs: &Jobs,
        connection: &Connection,
    ) -> Result<(Self, GetReply), Fault> {
        let open = shelf.quota.open(owner)?;
        let (store, name) = (Arc::clone(shelf), get.name.as_bytes().to_vec());
        let start = move || {
            let name = FileName::new(&name).map_err(io::Error::other)?;
            Reader::open(&store, name)
        };
        let (mut reader, stat) = run(jobs, start).await?.await?.map_err(Refusal::reading)?;
        if 0 < get.offset && get.offset <= reader.size {
            while reader.at < get.offset {
                let _turn = jobs.digest().await?;
                if connection.has_hung_up() {
                    return Err(Refusal::out_of_place("nobody waits for this file any more").into());
                }
                let offset = get.offset;
                let skip = move || reader.skip(offset).map(|()| reader);
                reader = run(jobs, skip).await?.await?.map_err(Refusal::reading)?;
            }
            reader.compare(&get.prefix);
        }
        let reply =
            GetReply { offset: reader.at, size: reader.size, attributes: attributes(&stat) };
        let first = move || reader.read(Vec::new()).map(|block| (reader, block));
        let (reader, block) = run(jobs, first).await?.await?.map_err(Refusal::reading)?;
        let (size, sent) = (reply.size, reply.offset);
        let (work, shelf) = (Work::Here(reader), Arc::clone(shelf));
        Ok((Self { size, sent, block, used: 0, work, shelf, _open: open }, reply))
    }

    /// Answers READ with as much, or with what is left.
    pub(super) async fn read(
        &mut self,
        len: u32,
        connection: &mut Connection,
        jobs: &Jobs,
    ) -> Result<(), Fault> {
        if self.used == self.block.len() && self.sent < self.size {
            // Before anything is promised.
            self.advance(jobs).await?.map_err(Refusal::reading)?;
        }
        let mut owed = u64::from(len).min(self.size - self.sent);
        connection.send_header(Header { kind: Kind::DATA, len: owed as u32 }).await?;
        while owed > 0 {
            if self.used == self.block.len() {
                let read = self.advance(jobs).await?.map_err(Refusal::reading);
                // More is promised than there is: only the connection's end can tell.
                read.map_err(|refusal| {
                    self.shelf.counts.refuse(refusal.code);
                    Error::Handler(refusal.text.into())
                })?;
            }
            self.read_ahead(jobs).await?;
            let rest = &self.block[self.used..];
            let len = rest.len().min(usize::try_from(owed).unwrap_or(usize::MAX));
            for chunk in rest[..len].chunks(64 << 10) {
                connection.send_chunk(chunk).await?;
            }
            self.used += len;
            self.sent += len as u64;
            owed -= len as u64;
            self.shelf.counts.got.add_bytes(len as u64);
        }
        Ok(())
    }

    /// Starts to read the next block, unless that is under way, or there is none.
    async fn read_ahead(&mut self, jobs: &Jobs) -> Result<(), Fault> {
        match std::mem::replace(&mut self.work, Work::Nowhere) {
            Work::Here(mut reader) if reader.at < reader.size => {
                let job = move || {
                    let block = reader.read(Vec::new());
                    (reader, block)
                };
                self.work = Work::There(run(jobs, job).await?);
            }
            work => self.work = work,
        }
        Ok(())
    }

    /// Takes the next block.
    async fn advance(&mut self, jobs: &Jobs) -> Result<io::Result<()>, Fault> {
        self.read_ahead(jobs).await?;
        let gone = || Refusal::out_of_place("the download was given up");
        let Work::There(job) = std::mem::replace(&mut self.work, Work::Nowhere) else {
            return Err(gone().into());
        };
        let (reader, block) = job.await?;
        Ok(block.map(|block| {
            self.work = Work::Here(reader);
            (self.block, self.used) = (block, 0);
        }))
    }

    /// SHA-256 of the whole file, once all of it was sent.
    pub(super) fn digest(self) -> Result<Digest, Refusal> {
        match self.work {
            Work::Here(reader) if self.sent == self.size => {
                self.shelf.counts.got.add_one();
                Ok(Digest(reader.digest.finalize().into()))
            }
            _ => Err(Refusal::out_of_place("not all of the file was read")),
        }
    }
}

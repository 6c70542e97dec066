//! Files of this host that are to be sent.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

use echo_core::Attributes;
use rustix::fs::{Mode, OFlags, Stat, fstat};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::{JoinHandle, spawn_blocking};

use super::local::BLOCK;
use crate::failure::reason;

/// A file, read from its beginning to its end, and the digest of what was read.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    pub(super) at: u64,
    /// Files of /proc have 0 bytes, they say, and much to tell: then it is not known.
    pub(super) size: Option<u64>,
    pub(super) digest: Sha256,
    pub(super) stamp: Stamp,
}

/// By what one sees that a file was written to: the time of its last change nobody can set back. It changes with
/// the file's names and rights, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: u64,
    attributes: Attributes,
    changed: (i64, u32),
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        let nanos = u32::try_from(stat.st_ctime_nsec).unwrap_or_default();
        Self {
            size: echo_folder::size(stat),
            attributes: echo_folder::attributes(stat),
            changed: (stat.st_ctime, nanos),
        }
    }
}

impl Reader {
    /// Opens a regular file.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Attributes)> {
        // Nobody waits for the other end of what turns out to be a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let stat = fstat(&file)?;
        if !file.metadata()?.is_file() {
            return Err(not_regular());
        }
        let size = Some(echo_folder::size(&stat)).filter(|size| *size > 0);
        let stamp = Stamp::of(&stat);
        let reader = Self { file, at: 0, size, digest: Sha256::new(), stamp };
        Ok((reader, echo_folder::attributes(&stat)))
    }

    /// Reads up to `len` bytes more; fewer, or none, at the end, if it is then as it was at the beginning: a
    /// mixture of old and new is nobody's file. They take the place of what is in `block`.
    pub(super) fn read(&mut self, mut block: Vec<u8>, len: usize) -> io::Result<Vec<u8>> {
        let left = self.size.map_or(u64::MAX, |size| size - self.at);
        block.resize(usize::try_from(left).unwrap_or(usize::MAX).min(len), 0);
        let mut read = 0;
        while read < block.len() {
            match self.file.read_at(&mut block[read..], self.at + read as u64) {
                Ok(0) => break,
                Ok(len) => read += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if read < len && Stamp::of(&fstat(&self.file)?) != self.stamp {
            return Err(io::Error::other("it changed meanwhile"));
        }
        block.truncate(read);
        self.digest.update(&block);
        self.at += block.len() as u64;
        Ok(block)
    }

    /// Digests up to `offset` and says whether it comes to `prefix`; else goes back to the beginning.
    pub(super) fn skip(&mut self, offset: u64, prefix: &[u8; 32]) -> io::Result<bool> {
        if self.size.is_none_or(|size| offset <= size) {
            let mut block = Vec::new();
            while self.at < offset {
                let left = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
                block = self.read(block, BLOCK.min(left))?;
                if block.is_empty() {
                    break;
                }
            }
            if self.at == offset && self.digest.clone().finalize()[..] == prefix[..] {
                return Ok(true);
            }
        }
        (self.at, self.digest) = (0, Sha256::new());
        Ok(false)
    }
}

/// How many blocks are read ahead: with one of them read after the other was taken, its thread and the one that sends
/// would wait for each other to wake.
const AHEAD: usize = 2;

/// A file that a thread reads block by block, ahead of who takes them.
#[derive(Debug)]
pub(super) struct Ahead {
    blocks: Receiver<io::Result<Vec<u8>>>,
    spares: SyncSender<Vec<u8>>,
    reading: JoinHandle<Reader>,
}

impl Ahead {
    /// Starts to read, up to `len` bytes at once, behind what is read of it.
    pub(super) fn start(mut reader: Reader, len: usize) -> Self {
        let (filled, blocks) = channel(AHEAD);
        // No more blocks than this are there.
        let (spares, empty) = sync_channel(AHEAD + 2);
        let reading = spawn_blocking(move || {
            loop {
                let block = reader.read(empty.try_recv().unwrap_or_default(), len);
                let failed = block.is_err();
                if block.as_ref().is_ok_and(Vec::is_empty)
                    || filled.blocking_send(block).is_err()
                    || failed
                {
                    return reader;
                }
            }
        });
        Self { blocks, spares, reading }
    }

    /// The next block; `None` at the end, or after an error.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.blocks.recv().await
    }

    /// Takes back a block: a new one each time would be fresh pages from the kernel, which it has to clear.
    pub(super) fn reuse(&self, block: Vec<u8>) {
        // After the end nobody takes it.
        let _ = self.spares.try_send(block);
    }

    /// The file, after its end.
    pub(super) fn end(self) -> JoinHandle<Reader> {
        self.reading
    }
}

pub(super) fn not_regular() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "not a regular file")
}

pub(super) fn unreadable(error: &io::Error) -> String {
    format!("cannot read it: {}", reason(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small ones are read in one go, others block by block.
    #[test]
    fn a_file_that_changes_is_not_read_to_its_end() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("a");
        for len in [0, 1, 9] {
            std::fs::write(&path, vec![b'x'; len]).unwrap();
            let (mut quiet, _) = Reader::open(&path).unwrap();
            assert_eq!(quiet.read(Vec::new(), 10).unwrap().len(), len);
            let (mut reader, _) = Reader::open(&path).unwrap();
            let (changed, before) =
                (File::options().write(true).open(&path).unwrap(), reader.stamp);
            // The clock of times may stand still for some milliseconds.
            while Stamp::of(&fstat(&changed).unwrap()).changed == before.changed {
                changed.set_len(len as u64).unwrap();
            }
            let told = reader.read(Vec::new(), 10).unwrap_err().to_string();
            assert_eq!(told, "it changed meanwhile", "{len}");
        }
    }
}

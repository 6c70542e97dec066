//! Stdin, which is read once, and what of it may have to be sent again.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use echo_core::{Digest, PutReply};
use sha2::{Digest as _, Sha256};

use crate::failure::Failure;
use crate::show;
use crate::stdio::{self, CHUNK, Input};
use crate::transfer::{Trouble, WINDOW};

/// What is kept of what was sent. A server that parks an upload lacks less of that: three blocks of 512 KiB that were not
/// written yet (one that fills, one that waits, one that is being written), and the frames under way.
const KEPT: usize = 8 << 20;

/// The blocks of a server.
const UNWRITTEN: usize = 3 * (512 << 10);

const _: () = assert!(KEPT >= UNWRITTEN + WINDOW * CHUNK);

/// Stdin, and its last bytes.
pub(super) struct Piped {
    input: Input,
    kept: VecDeque<u8>,
    /// Where the kept bytes begin, and where they end.
    from: u64,
    read: u64,
    /// SHA-256 of what lies before them.
    before: Sha256,
}

impl Piped {
    /// Starts reading.
    pub(super) fn new() -> Result<Self, Trouble> {
        let start = |error| Trouble::All(Failure::local("cannot start", &error));
        Ok(Self::of(stdio::read_stdin().map_err(start)?))
    }

    fn of(input: Input) -> Self {
        Self { input, kept: VecDeque::new(), from: 0, read: 0, before: Sha256::new() }
    }

    /// Whether one can go on behind what the server has: it is this, and not too far behind.
    pub(super) fn is_at(&self, reply: &PutReply) -> bool {
        let range = self.from..=self.read;
        range.contains(&reply.offset) && self.digest_to(reply.offset).0 == reply.prefix
    }

    /// Whether one can begin anew; if not, why. The server has `offset` bytes.
    pub(super) fn rewind(&self, offset: u64) -> Result<(), String> {
        if self.from == 0 {
            return Ok(());
        }
        let (read, kept) = (show::bytes(self.read), show::size(KEPT as u64));
        Err(format!(
            "interrupted: of the {read} read from stdin the server kept {offset}, and only the last {kept} \
             can be sent again: start it anew"
        ))
    }

    /// What follows behind `at`, where all before is known; `None` at the end.
    pub(super) async fn chunk(&mut self, at: u64) -> Result<Option<Bytes>, Trouble> {
        if at < self.read {
            let from = (at - self.from) as usize;
            let to = self.kept.len().min(from + CHUNK);
            return Ok(Some(Bytes::from(parts(&self.kept, from..to).concat())));
        }
        let Some(chunk) = self.input.recv().await else { return Ok(None) };
        let chunk =
            chunk.map_err(|error| Trouble::All(Failure::local("cannot read stdin", &error)))?;
        self.read += chunk.len() as u64;
        self.kept.extend(&chunk[..]);
        let over = self.kept.len().saturating_sub(KEPT);
        for part in parts(&self.kept, 0..over) {
            self.before.update(part);
        }
        self.kept.drain(..over);
        self.from += over as u64;
        Ok(Some(chunk))
    }

    /// SHA-256 of all that was read.
    pub(super) fn digest(&self) -> Digest {
        self.digest_to(self.read)
    }

    /// SHA-256 of what lies before `end`, which is among what is kept.
    fn digest_to(&self, end: u64) -> Digest {
        let mut digest = self.before.clone();
        for part in parts(&self.kept, 0..(end - self.from) as usize) {
            digest.update(part);
        }
        Digest(digest.finalize().into())
    }
}

/// A range of bytes, which lies in two pieces.
fn parts(bytes: &VecDeque<u8>, range: Range<usize>) -> [&[u8]; 2] {
    let (first, second) = bytes.as_slices();
    let cut = |at: usize| (at.min(first.len()), at.saturating_sub(first.len()));
    let (from, to) = (cut(range.start), cut(range.end));
    [&first[from.0..to.0], &second[from.1..to.1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(offset: usize, bytes: &[u8]) -> PutReply {
        PutReply { offset: offset as u64, prefix: Sha256::digest(&bytes[..offset]).into() }
    }

    #[tokio::test]
    async fn what_is_kept_is_sent_again_and_no_more() {
        let mut bytes = vec![0; KEPT + 3 * CHUNK + 5];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        let (chunks, input) = tokio::sync::mpsc::channel(1000);
        for chunk in bytes.chunks(CHUNK) {
            chunks.send(Ok(Bytes::copy_from_slice(chunk))).await.unwrap();
        }
        drop(chunks);
        let mut piped = Piped::of(input);
        assert!(piped.is_at(&reply(0, &bytes)) && !piped.is_at(&reply(1, &bytes)));
        let mut at = 0;
        while let Some(chunk) = piped.chunk(at).await.unwrap() {
            assert!(bytes[at as usize..].starts_with(&chunk));
            at += chunk.len() as u64;
            assert_eq!(piped.rewind(0).is_ok(), at <= KEPT as u64, "{at}");
        }
        assert_eq!(piped.digest().0[..], Sha256::digest(&bytes)[..]);
        let from = piped.from as usize;
        assert!(bytes.len() - from == KEPT);
        for offset in [from, from + 1, from + CHUNK, bytes.len() - 1, bytes.len()] {
            assert!(piped.is_at(&reply(offset, &bytes)), "{offset}");
            let mut at = offset;
            while let Some(chunk) = piped.chunk(at as u64).await.unwrap() {
                assert!(bytes[at..].starts_with(&chunk), "{at}");
                at += chunk.len();
            }
            assert_eq!(at, bytes.len());
        }
        assert!(!piped.is_at(&reply(from - 1, &bytes)));
        let other = PutReply { prefix: [1; 32], ..reply(from, &bytes) };
        assert!(!piped.is_at(&other));
        assert!(!piped.is_at(&PutReply { offset: u64::MAX, prefix: [0; 32] }));
        let told = piped.rewind(7).unwrap_err();
        assert!(told.contains("the server kept 7, and only the last 8 MiB"), "{told}");
    }
}

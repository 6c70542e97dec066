//! Blocks of an upload on their way to the disk: a thread writes one after the other, while the next ones come.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::refusal::Refusal;

/// What the connection of an upload puts in and a thread takes out.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The block to be written next. Without one that waits, the thread would be done with each before the next is
    /// there, and each side would wait for the other to wake: 1 GiB took a sixth longer.
    waiting: Option<Block>,
    /// Blocks that were written, to be filled again.
    spares: Vec<Vec<u8>>,
    /// A thread writes, or is about to.
    busy: bool,
    /// Why a block could not be written. Nothing that came behind it is written any more.
    failed: Option<Refusal>,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    /// How many of them are of the upload.
    filled: usize,
}

impl Queue {
    /// Puts a block in if there is room for it, and another one, to be filled, in its place. Fails with why an earlier
    /// one could not be written.
    pub(super) fn put(&self, bytes: &mut Vec<u8>, filled: &mut usize) -> Result<bool, Refusal> {
        let mut state = self.state();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if state.waiting.is_some() {
            return Ok(false);
        }
        let spare = state.spares.pop().unwrap_or_default();
        let block = Block { bytes: mem::replace(bytes, spare), filled: mem::take(filled) };
        state.waiting = Some(block);
        Ok(true)
    }

    /// Ready when there may be room, or an error, that was not there when this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Whether a thread has to be started: it is busy from now on.
    pub(super) fn claim(&self) -> bool {
        let mut state = self.state();
        state.failed.is_none() && state.waiting.is_some() && !mem::replace(&mut state.busy, true)
    }

    /// What a thread does that was started: writes until nothing waits, a block cannot be written, or others wait for
    /// what it holds.
    pub(super) fn write(
        &self,
        mut write: impl FnMut(&[u8]) -> Result<(), Refusal>,
        others_wait: impl Fn() -> bool,
    ) {
        let _busy = Busy(self);
        while let Some(block) = self.next() {
            let written = write(&block.bytes[..block.filled]);
            let mut state = self.state();
            state.spares.push(block.bytes);
            if written.is_err() || others_wait() {
                state.failed = written.err();
                state.busy = false;
                drop(state);
                self.changed.notify_one();
                return;
            }
        }
    }

    /// The next block. Without one the thread is done, before anybody can put another one in.
    fn next(&self) -> Option<Block> {
        let mut state = self.state();
        let next = state.waiting.take();
        state.busy = next.is_some();
        drop(state);
        self.changed.notify_one();
        next
    }

    /// Why a block could not be written.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.state().failed.clone().map_or(Ok(()), Err)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that writes. Nobody waits for one that has panicked.
struct Busy<'a>(&'a Queue);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.state().busy = false;
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(queue: &Queue, byte: u8) -> Result<bool, Refusal> {
        queue.put(&mut vec![byte; 2], &mut 1)
    }

    #[test]
    fn blocks_are_written_in_turn_while_others_are_put_in() {
        let (queue, mut written) = (Queue::default(), Vec::new());
        assert!(!queue.claim(), "nothing waits");
        assert!(put(&queue, 1).unwrap());
        assert!(!put(&queue, 9).unwrap(), "one waits");
        assert!(queue.claim() && !queue.claim(), "one thread is enough");
        let write = |bytes: &[u8]| {
            written.extend_from_slice(bytes);
            assert!(bytes[0] == 3 || put(&queue, bytes[0] + 1).unwrap());
            Ok(())
        };
        queue.write(write, || false);
        assert_eq!(written, [1, 2, 3]);
        assert!(put(&queue, 4).unwrap() && queue.claim(), "the thread is done");
    }

    #[test]
    fn a_thread_makes_way_for_those_who_wait_for_one() {
        let queue = Queue::default();
        assert!(put(&queue, 1).unwrap() && queue.claim());
        queue.write(|_| put(&queue, 2).map(drop), || true);
        let mut written = Vec::new();
        assert!(queue.claim(), "one waits still");
        let write = |bytes: &[u8]| {
            written.extend_from_slice(bytes);
            Ok(())
        };
        queue.write(write, || true);
        assert_eq!(written, [2]);
    }

    #[test]
    fn an_error_stays_whatever_waits_behind_it() {
        let queue = Queue::default();
        assert!(put(&queue, 1).unwrap() && queue.claim());
        let fail = |_: &[u8]| {
            assert!(put(&queue, 2).unwrap());
            Err(Refusal::out_of_place("full"))
        };
        queue.write(fail, || false);
        assert!(!queue.claim(), "what waits would leave a hole before it");
        assert!(put(&queue, 3).is_err() && queue.check().is_err());
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let queue = Queue::default();
        assert!(put(&queue, 1).unwrap() && queue.claim());
        thread::scope(|scope| {
            let broken = scope.spawn(|| queue.write(|_| panic!("broken"), || false));
            assert!(broken.join().is_err());
        });
        assert!(put(&queue, 2).unwrap() && queue.claim());
    }
}

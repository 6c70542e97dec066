//! Stderr behind a bounded buffer: whoever logs never waits, whatever becomes of the other end.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{mem, thread};

/// What may wait to be written. Lines beyond it are dropped and counted.
const CAPACITY: usize = 1 << 20;
/// What a buffer keeps of its room when it is empty.
const KEPT: usize = 1 << 16;

/// A writer of whole lines. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stderr(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
    finished: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    pending: Vec<u8>,
    dropped: u64,
    closed: bool,
    finished: bool,
}

impl Stderr {
    /// Starts the thread that writes to this process's stderr.
    pub(crate) fn start() -> io::Result<Self> {
        Self::start_on(io::stderr())
    }

    fn start_on(mut target: impl Write + Send + 'static) -> io::Result<Self> {
        let stderr = Self::default();
        let shared = Arc::clone(&stderr.0);
        let writer = move || {
            let mut batch = Vec::new();
            while shared.take(&mut batch) {
                write(&mut target, &batch);
                batch.clear();
                batch.shrink_to(KEPT);
            }
            shared.lock().finished = true;
            shared.finished.notify_all();
        };
        thread::Builder::new().name("stderr".into()).spawn(writer)?;
        Ok(stderr)
    }

    /// How many lines found no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Writes the last line, after all that was logged before. Gives up after `patience`, when
    /// nobody reads the other end.
    pub(crate) fn finish(&self, last: &str, patience: Duration) {
        let mut buffer = self.0.lock();
        buffer.pending.extend_from_slice(last.as_bytes());
        buffer.closed = true;
        self.0.filled.notify_all();
        let waited = self.0.finished.wait_timeout_while(buffer, patience, |it| !it.finished);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    /// Waits for lines and swaps them with the empty `batch`; false at the end.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let idle = |buffer: &mut Buffer| buffer.pending.is_empty() && !buffer.closed;
        let waited = self.filled.wait_while(self.lock(), idle);
        let mut buffer = waited.unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut buffer.pending, batch);
        !batch.is_empty()
    }

    /// Nothing panics while it holds the lock, so a poisoned one is as good.
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Stderr {
    /// Takes one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut buffer = self.0.lock();
        if buffer.closed || buffer.pending.len() + line.len() > CAPACITY {
            buffer.dropped += 1;
        } else {
            buffer.pending.extend_from_slice(line);
            self.0.filled.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what the target takes. One that is closed or full takes nothing more, and the service goes
/// on without it.
fn write(target: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody who shares the file has made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A target that hands over what is written; it blocks while nobody takes it, as a full pipe
    /// does.
    struct Pipe(mpsc::SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_last_line_comes_last() {
        let (sender, receiver) = mpsc::sync_channel(100);
        let mut stderr = Stderr::start_on(Pipe(sender)).unwrap();
        for _ in 0..50 {
            stderr.write_all(b"a line\n").unwrap();
        }
        stderr.finish("the end\n", PATIENCE);
        stderr.write_all(b"too late\n").unwrap();
        let written: Vec<u8> = receiver.iter().flatten().collect();
        assert_eq!(String::from_utf8(written).unwrap(), "a line\n".repeat(50) + "the end\n");
    }

    /// A stderr that nobody reads: lines are dropped and counted, memory stays bounded, and the end
    /// does not wait for ever.
    #[test]
    fn a_blocked_target_stops_nobody() {
        let (sender, receiver) = mpsc::sync_channel(0);
        let mut stderr = Stderr::start_on(Pipe(sender)).unwrap();
        let line = [b'x'; 1 << 10];
        for _ in 0..3 << 10 {
            stderr.write_all(&line).unwrap();
        }
        assert!(stderr.dropped() >= 1 << 10, "two buffers at most are taken");
        assert!(stderr.0.lock().pending.capacity() <= 2 * CAPACITY);
        stderr.finish("the end\n", Duration::from_millis(1));
        drop(receiver);
    }

    /// A closed or full stderr: errors are swallowed.
    #[test]
    fn a_failing_target_is_ignored() {
        let (sender, receiver) = mpsc::sync_channel(0);
        drop(receiver);
        let mut stderr = Stderr::start_on(Pipe(sender)).unwrap();
        stderr.write_all(b"a line\n").unwrap();
        stderr.finish("the end\n", PATIENCE);
        assert!(stderr.0.lock().finished);
    }
}

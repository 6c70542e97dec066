//! Log lines behind a bounded buffer: whoever logs never waits, whatever becomes of the other end.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{mem, thread};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use crate::access;

/// What may wait to be written. Lines beyond it are dropped and counted.
const CAPACITY: usize = 1 << 20;
/// What lines of the access log leave of it to others, of which there are few.
const RESERVE: usize = 1 << 18;
/// What a buffer keeps of its room when it is empty.
const KEPT: usize = 1 << 16;

/// A queue of whole lines (or of entries, whatever their form). Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Shared>);

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

impl Lines {
    /// Lines for this process's stderr.
    pub(crate) fn to_stderr() -> io::Result<Self> {
        Self::to("stderr", |batch| write(&mut io::stderr(), batch))
    }

    /// Starts a thread that hands lines over, many at a time: `deliver` may block, and returns how many
    /// it could not get rid of.
    pub(crate) fn to(
        name: &str,
        mut deliver: impl FnMut(&[u8]) -> usize + Send + 'static,
    ) -> io::Result<Self> {
        let lines = Self::default();
        let shared = Arc::clone(&lines.0);
        let writer = move || {
            let mut batch = Vec::new();
            while shared.take(&mut batch) {
                let lost = deliver(&batch);
                shared.lock().dropped += lost as u64;
                batch.clear();
                batch.shrink_to(KEPT);
            }
            shared.lock().finished = true;
            shared.finished.notify_all();
        };
        thread::Builder::new().name(name.into()).spawn(writer)?;
        Ok(lines)
    }

    /// Takes a line, or counts it as dropped where it would leave less than `reserve` free.
    pub(crate) fn put(&self, line: &[u8], reserve: usize) {
        let mut buffer = self.0.lock();
        if buffer.closed || buffer.pending.len() + line.len() > CAPACITY - reserve {
            buffer.dropped += 1;
        } else {
            buffer.pending.extend_from_slice(line);
            self.0.filled.notify_one();
        }
    }

    /// How many lines were lost: they found no room, or the other end did not take them.
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

/// What is done to a line before it is queued.
pub(crate) type Filter = fn(&[u8]) -> Cow<'_, [u8]>;

/// Writes lines of one kind into the queue.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    lines: Lines,
    reserve: usize,
    filter: Option<Filter>,
}

impl Write for Writer {
    /// Takes one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let filtered = self.filter.map_or(Cow::Borrowed(line), |filter| filter(line));
        self.lines.put(&filtered, self.reserve);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a writer for each event.
#[derive(Clone, Debug)]
pub(crate) struct Writers {
    pub(crate) lines: Lines,
    pub(crate) filter: Option<Filter>,
}

impl MakeWriter<'_> for Writers {
    type Writer = Writer;

    fn make_writer(&self) -> Writer {
        Writer { lines: self.lines.clone(), reserve: 0, filter: self.filter }
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> Writer {
        Writer { reserve: reserve(event), ..self.make_writer() }
    }
}

/// What lines of an event's kind leave free.
pub(crate) fn reserve(event: &Metadata<'_>) -> usize {
    if event.target() == access::TARGET { RESERVE } else { 0 }
}

/// Writes what the target takes, and returns how many lines it did not. One that is closed or full takes
/// nothing more, and the service goes on without it.
fn write(target: &mut impl Write, mut bytes: &[u8]) -> usize {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(0) => break,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody who shares the file has made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(_) => break,
        }
    }
    bytes.iter().filter(|byte| **byte == b'\n').count()
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

    fn to(mut target: impl Write + Send + 'static) -> Lines {
        Lines::to("test", move |batch| write(&mut target, batch)).unwrap()
    }

    #[test]
    fn the_last_line_comes_last() {
        let (sender, receiver) = mpsc::sync_channel(100);
        let lines = to(Pipe(sender));
        for _ in 0..50 {
            lines.put(b"a line\n", 0);
        }
        lines.finish("the end\n", PATIENCE);
        lines.put(b"too late\n", 0);
        let written: Vec<u8> = receiver.iter().flatten().collect();
        assert_eq!(String::from_utf8(written).unwrap(), "a line\n".repeat(50) + "the end\n");
        assert_eq!(lines.dropped(), 1);
    }

    /// A stderr that nobody reads: lines are dropped and counted, memory stays bounded, and the end
    /// does not wait for ever.
    #[test]
    fn a_blocked_target_stops_nobody() {
        let (sender, receiver) = mpsc::sync_channel(0);
        let lines = to(Pipe(sender));
        let line = [b'x'; 1 << 10];
        for _ in 0..3 << 10 {
            lines.put(&line, RESERVE);
        }
        let dropped = lines.dropped();
        assert!(dropped >= 1 << 10, "two buffers at most are taken");
        // There is room yet for what is not of the access log.
        lines.put(&line, 0);
        assert_eq!(lines.dropped(), dropped);
        assert!(lines.0.lock().pending.capacity() <= 2 * CAPACITY);
        lines.finish("the end\n", Duration::from_millis(1));
        drop(receiver);
    }

    /// A closed or full stderr: errors are swallowed, and what is lost is counted.
    #[test]
    fn a_failing_target_is_ignored() {
        let (sender, receiver) = mpsc::sync_channel(0);
        drop(receiver);
        let lines = to(Pipe(sender));
        lines.put(b"a line\n", 0);
        lines.finish("the end\n", PATIENCE);
        assert!(lines.0.lock().finished);
        assert_eq!(lines.dropped(), 2);
    }
}

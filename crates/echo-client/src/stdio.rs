//! Stdin and stdout on plain threads.
//!
//! A read of stdin cannot be cancelled and a write to stdout blocks for as long as the consumer
//! likes, so neither belongs on the runtime. Both threads speak through bounded channels and are
//! never joined: the process may end while one of them is still stuck in its system call.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Bytes of one read of stdin at most: what a pipe holds by default, and the longest payload that
/// the client puts in a frame.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Chunks under way between the runtime and each of the two threads: enough that neither side waits
/// for the other's wake-up, at most 512 KiB each way.
const DEPTH: usize = 8;

/// Stdin in chunks; the channel's end is the end of stdin.
pub(crate) type Input = mpsc::Receiver<io::Result<Bytes>>;

/// Where verified bytes go.
pub(crate) type Output = mpsc::Sender<Bytes>;

/// How the writing to stdout ended, once every [`Output`] has been dropped or a write has failed.
pub(crate) type Written = oneshot::Receiver<io::Result<()>>;

/// Starts reading stdin.
pub(crate) fn read_stdin() -> io::Result<Input> {
    let (chunks, input) = mpsc::channel(DEPTH);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            let chunk = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => Ok(Bytes::copy_from_slice(&buffer[..len])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            if chunks.blocking_send(chunk).is_err() {
                return;
            }
        }
    })?;
    Ok(input)
}

/// Starts writing to stdout.
pub(crate) fn write_stdout() -> io::Result<(Output, Written)> {
    // The descriptor itself: `Stdout` looks for newlines in what passes and keeps back the rest.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let (output, mut chunks) = mpsc::channel::<Bytes>(DEPTH);
    let (done, written) = oneshot::channel();
    thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let result = loop {
            let Some(chunk) = chunks.blocking_recv() else { break Ok(()) };
            if let Err(error) = stdout.write_all(&chunk) {
                break Err(error);
            }
        };
        // The result first: whoever sees the channel closed finds it there.
        let _ = done.send(result);
        drop(chunks);
    })?;
    Ok((output, written))
}

//! Stdin and stdout on plain threads.
//!
//! A read of stdin cannot be cancelled and a write to stdout blocks for as long as the consumer
//! likes, so neither belongs on the runtime. The threads speak through bounded channels and are
//! never joined: the process may end while one of them is still stuck in its system call.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use echo_sys::began_closed;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::failure::Failure;

/// Bytes of one read of stdin at most: what a pipe holds by default, and the longest payload that
/// the pipe puts in a frame.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Chunks under way between the runtime and each of the two threads: enough that neither side waits
/// for the other's wake-up. So many wait at most: of stdin and of the lines of `send` 512 KiB; of what
/// a stream's pipe got back, which is gathered to less than two chunks, 1 MiB.
const DEPTH: usize = 8;

/// Stdin in chunks; the channel's end is the end of stdin.
pub(crate) type Input = mpsc::Receiver<io::Result<Bytes>>;

/// Where verified bytes go.
pub(crate) type Output = mpsc::Sender<Bytes>;

/// What has become of the output, once every [`Output`] has been dropped or a write has failed.
pub(crate) type Outcome<T> = oneshot::Receiver<io::Result<T>>;

/// Whether this file is stdin, whatever that is.
pub(crate) fn is_stdin(path: &Path) -> bool {
    ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path.as_os_str() == *name)
}

/// What is wrong with stdin from the start on, and what to do: it is closed, or open for writing only.
pub(crate) fn wrong_stdin() -> Option<&'static str> {
    let flags = fcntl_getfl(io::stdin());
    if flags.is_err() || began_closed(io::stdin().as_fd()) {
        return Some("stdin is closed: redirect it; </dev/null sends nothing");
    }
    let unreadable =
        flags.is_ok_and(|it| it.intersects(OFlags::PATH) || it & OFlags::RWMODE == OFlags::WRONLY);
    unreadable.then_some("cannot read stdin: it is open for writing only: redirect it with <")
}

/// What is wrong with stdout from the start on, and what to do. What else hinders is told when it is written.
pub(crate) fn wrong_stdout() -> Option<&'static str> {
    let is_closed = began_closed(io::stdout().as_fd());
    is_closed.then_some("stdout is closed: redirect it; >/dev/null takes what nobody wants")
}

/// A standard stream, which is waited for even where somebody else who has it open has set it not to
/// block (fcntl(2)): that holds for all who share it.
pub(crate) struct Patient(File);

/// Stdin: the descriptor itself, as `Stdin` takes one that cannot be read for one that has ended.
pub(crate) fn stdin() -> io::Result<Patient> {
    Ok(Patient(io::stdin().as_fd().try_clone_to_owned()?.into()))
}

/// Stdout: the descriptor itself, as `Stdout` looks for newlines in what passes and keeps back the rest.
pub(crate) fn stdout() -> io::Result<Patient> {
    Ok(Patient(io::stdout().as_fd().try_clone_to_owned()?.into()))
}

impl Patient {
    /// Tries until it is done, or fails for another reason.
    fn until<T>(
        &mut self,
        ready: PollFlags,
        mut attempt: impl FnMut(&mut File) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt(&mut self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, ready)], None)?;
                }
                done => return done,
            }
        }
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.until(PollFlags::IN, |file| file.read(buffer))
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until(PollFlags::OUT, |file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts reading stdin.
pub(crate) fn read_stdin() -> io::Result<Input> {
    let (chunks, input) = mpsc::channel(DEPTH);
    let mut stdin = stdin()?;
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
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
pub(crate) fn write_stdout() -> io::Result<(Output, Outcome<()>)> {
    let mut stdout = stdout()?;
    consume("stdout", move |chunks| {
        while let Some(chunk) = chunks.blocking_recv() {
            stdout.write_all(&chunk)?;
        }
        Ok(())
    })
}

/// Starts a digest of what would be written.
pub(crate) fn digest() -> io::Result<(Output, Outcome<String>)> {
    consume("digest", |chunks| {
        let mut digest = Sha256::new();
        while let Some(chunk) = chunks.blocking_recv() {
            digest.update(&chunk);
        }
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    })
}

/// Hands over a line of any length in chunks, which are copies: what waits keeps no more alive than
/// itself. `false` if whoever reads has seen enough.
pub(crate) async fn write_line(output: &Output, line: &[u8]) -> bool {
    for chunk in line.chunks(CHUNK) {
        if output.send(Bytes::copy_from_slice(chunk)).await.is_err() {
            return false;
        }
    }
    true
}

/// What came of the copy and of its output; `None` if the consumer has seen enough, which is no
/// failure.
pub(crate) fn finished<T>(
    copied: Result<(), Failure>,
    output: Result<io::Result<T>, impl Sized>,
) -> Result<Option<T>, Failure> {
    copied?;
    match output {
        Ok(Ok(done)) => Ok(Some(done)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
        Ok(Err(error)) => Err(Failure::local("cannot write to stdout", &error)),
        Err(_) => Err(Failure::Local("the thread that writes has died".to_owned())),
    }
}

fn consume<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(&mut mpsc::Receiver<Bytes>) -> io::Result<T> + Send + 'static,
) -> io::Result<(Output, Outcome<T>)> {
    let (output, mut chunks) = mpsc::channel(DEPTH);
    let (done, outcome) = oneshot::channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // The result first: whoever sees the channel closed finds it there.
        let _ = done.send(work(&mut chunks));
        drop(chunks);
    })?;
    Ok((output, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_waits_in_chunks() {
        let line: Vec<u8> = (0..3 * CHUNK + 1).map(|at| at as u8).collect();
        let (output, mut chunks) = mpsc::channel(DEPTH);
        assert!(write_line(&output, &line).await);
        drop(output);
        let (mut came, mut lens) = (Vec::new(), Vec::new());
        while let Some(chunk) = chunks.recv().await {
            lens.push(chunk.len());
            came.extend_from_slice(&chunk);
        }
        assert!(came == line);
        assert_eq!(lens, [CHUNK, CHUNK, CHUNK, 1]);
        let (output, chunks) = mpsc::channel(1);
        drop(chunks);
        assert!(!write_line(&output, b"line\n").await);
    }
}

//! A listener's queue without a kernel.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// How much a stream in memory takes before its reader has to read.
const BUFFER_LEN: usize = 64 * 1024;

/// Connects to a listener in memory.
#[derive(Clone, Debug)]
pub struct Connector {
    queue: mpsc::Sender<io::Result<DuplexStream>>,
}

impl Connector {
    /// Connects, as soon as the listener's queue has room. Refused if the listener is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has queued nothing.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(BUFFER_LEN);
        match self.queue.send(Ok(theirs)).await {
            Ok(()) => Ok(ours),
            Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Queues an error for the listener to meet when it accepts. Without effect if the listener is
    /// gone or its queue is full.
    pub fn fail(&self, error: io::Error) {
        let _ = self.queue.try_send(Err(error));
    }
}

/// The listener's side.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Receiver<io::Result<DuplexStream>>);

/// A queue for `backlog` connections.
pub(super) fn queue(backlog: usize) -> (Queue, Connector) {
    let (sender, receiver) = mpsc::channel(backlog);
    (Queue(receiver), Connector { queue: sender })
}

impl Queue {
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<DuplexStream>> {
        match ready!(self.0.poll_recv(cx)) {
            Some(accepted) => Poll::Ready(accepted),
            // A listening socket does not end because nobody connects.
            None => Poll::Pending,
        }
    }

    pub(super) fn accept_queued(&mut self) -> io::Result<Option<DuplexStream>> {
        self.0.try_recv().ok().transpose()
    }
}

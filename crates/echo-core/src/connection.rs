//! One connection: its state.
//!
//! The state is small and boxed, and an idle connection keeps no buffer: reads go into a buffer of
//! the worker thread, and only what could not be processed or written at once stays here.
//!
//! How it reads: [`crate::reading`]. How it writes: [`crate::writing`]. How it waits: [`crate::waiting`]. The layers
//! above: [`crate::messages`] (whole frames and the streaming seam), [`crate::echo`] (the pass-through),
//! [`crate::conversation`] (control frames), [`crate::finish`] (the orderly end).

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use tokio::time::{Instant, Sleep};

use crate::Error;
use crate::buffer::Buffer;
use crate::frame::{HEADER_LEN, Kind, MAX_CONTROL_LEN, Passage};
use crate::gate::Permit;
use crate::login::Login;
use crate::service::Scope;
use crate::stats::{Closed, Ending, State};
use crate::stream::{Peer, Stream};
use crate::waiting::Writing;

/// One read: what a connection takes from its socket at once. Larger buffers measured no gain.
pub(crate) const READ_BUFFER: usize = 64 << 10;

/// Unwritten bytes at which a connection stops taking in more.
pub(crate) const WRITE_BUFFER: usize = 64 << 10;

thread_local! {
    /// The worker's read buffer: taken, used and given back within one poll.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with the worker's read buffer.
#[inline]
pub(crate) fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.is_empty() {
            scratch.resize(READ_BUFFER, 0);
        }
        f(scratch)
    })
}

/// What becomes of the payload of the frame under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Under {
    /// No frame is under way, or only part of its header is here.
    Nothing,
    /// Its header went out already: if it is cut, only a reset says so.
    Passing,
    /// The handler takes it.
    Taken,
    /// It is refused: its payload is discarded.
    Discarded,
}

/// One connection, lent to a [`Handler`](crate::Handler).
#[derive(Debug)]
pub struct Connection {
    pub(crate) stream: Stream,
    peer: Peer,
    pub(crate) scope: Arc<Scope>,
    /// Its listener spoke nothing but TLS when it came.
    tls: bool,
    /// What it is counted under.
    state: State,
    /// Read and not yet processed: empty between turns but for control frames and whole-frame
    /// handlers.
    pub(crate) input: Buffer,
    /// Processed and not yet written.
    pub(crate) output: Buffer,
    /// Up to three bytes of a header that passes through.
    pub(crate) head: [u8; HEADER_LEN - 1],
    pub(crate) head_len: u8,
    pub(crate) under: Under,
    /// The kind of the frame that was begun last by its header.
    pub(crate) kind: Kind,
    /// How much payload the frame under way declared, and how much of it is still to come.
    pub(crate) passage: Passage,
    /// What a header of ours has announced and we have not sent yet.
    pub(crate) owed: u32,
    /// When the frame under way, or a header, was first waited for.
    pub(crate) began: Option<Instant>,
    pub(crate) writing: Writing,
    /// Frames answered.
    pub(crate) answered: u64,
    /// Bytes read and written.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) accepted_at: Instant,
    /// How it has ended, once it is known.
    pub(crate) ending: Option<Ending>,
    /// When the last read returned.
    pub(crate) read_at: Instant,
    /// Bytes read since the last wait, and what else counts in a turn.
    pub(crate) moved: usize,
    /// Looks at the sockets that are left before this connection lets the worker sleep.
    pub(crate) looks: u8,
    /// What the last pass may still read, once this connection has seen the drain.
    pub(crate) last_pass: Option<u64>,
    pub(crate) ended: bool,
    /// The drain waits for what is under way, to its deadline.
    pub(crate) held: bool,
    /// The handler allows splice(2), and this stream may know it.
    pub(crate) may_splice: bool,
    /// Long payloads come faster than they are read: they are worth a pipe.
    pub(crate) bulk: bool,
    /// A read or a write failed: what was on its way may be torn.
    pub(crate) broken: bool,
    /// How many frames were answered is not sure: an extension failed.
    pub(crate) miscounted: bool,
    pub(crate) said_hello: bool,
    pub(crate) wants_control: bool,
    /// Set by an orderly end; without it, dropping the connection resets it.
    pub(crate) finished: bool,
    pub(crate) login: Option<Box<Login>>,
    pub(crate) timer: Option<Pin<Box<Sleep>>>,
    /// The limits' swaps when the timer was looked at, if that was for a `Wait::Traffic`.
    pub(crate) armed_for_traffic: Option<u32>,
    pub(crate) slot: Option<u32>,
    pub(crate) waker: Option<Waker>,
    _permit: Option<Permit>,
    /// Whether it is counted for its source.
    counted: bool,
}

impl Connection {
    pub(crate) fn new(
        stream: Stream,
        peer: Peer,
        scope: Arc<Scope>,
        permit: Option<Permit>,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            peer,
            tls: scope.begins_with_tls.load(Relaxed),
            scope,
            state: State::Undecided,
            input: Buffer::default(),
            output: Buffer::default(),
            head: [0; HEADER_LEN - 1],
            head_len: 0,
            under: Under::Nothing,
            kind: Kind::ECHO,
            passage: Passage::default(),
            owed: 0,
            began: None,
            writing: Writing::Unused,
            answered: 0,
            bytes_in: 0,
            bytes_out: 0,
            accepted_at: now,
            ending: None,
            read_at: now,
            moved: 0,
            looks: 0,
            last_pass: None,
            ended: false,
            held: false,
            may_splice: false,
            bulk: false,
            broken: false,
            miscounted: false,
            said_hello: false,
            wants_control: false,
            finished: false,
            login: None,
            timer: None,
            armed_for_traffic: None,
            slot: None,
            waker: None,
            _permit: permit,
            counted: false,
        }
    }

    /// Counts the connection for its source. On its own task: the accept loop waits for nothing.
    pub(crate) fn admit(&mut self) -> Result<(), Error> {
        let core = &self.scope.core;
        self.counted = core.sources.enter(self.peer, &core.limits)?;
        Ok(())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The certificate that the peer has shown under TLS, in DER; one that the listener's
    /// [`Server`](crate::tls::Server) has checked.
    #[cfg(feature = "tls")]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.stream.peer_certificate()
    }

    /// What both ends of this connection know and nobody else, where it is under TLS: an authentication that
    /// includes it cannot be passed on over another connection (`tls-exporter`, RFC 9266).
    #[cfg(feature = "tls")]
    pub fn channel_binding(&self) -> Option<[u8; 32]> {
        self.stream.channel_binding()
    }

    /// Frames that the peer sent and that were answered, or taken by [`recv`](Self::recv).
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Whether the peer has ended its side of the connection, or all of it, even if bytes of it are still to
    /// be read: a system call, for work that lasts and that nobody may wait for any more.
    pub fn has_hung_up(&self) -> bool {
        self.stream.has_hung_up()
    }

    /// Whether the drain has reached this connection: what is here is still answered, then
    /// [`recv`](Self::recv) returns `None`. Who waits for something else waits for
    /// [`Drain::started`](crate::Drain::started) as well.
    pub fn is_draining(&self) -> bool {
        self.scope.is_draining()
    }

    /// Says whether something is under way that is worth more than one frame, as an upload is: as long
    /// as it is so, a drain leaves the connection to its peer, until its deadline.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Counts the connection under another state from here on.
    pub(crate) fn enter(&mut self, state: State) {
        self.scope.listener.moved(std::mem::replace(&mut self.state, state), state);
    }

    /// A handler that receives whole frames has said what the connection is about.
    pub(crate) fn enter_framed(&mut self) {
        if self.state == State::Undecided {
            self.enter(State::Framed);
        }
    }

    /// Whether what was read and its answers are more than one read and one control frame, as
    /// happens where answers are longer than what they answer: time to write.
    pub(crate) fn holds_too_much(&self) -> bool {
        self.input.len() + self.output.len() > READ_BUFFER + MAX_CONTROL_LEN as usize
    }

    /// Counts frames of this connection as answered.
    #[inline]
    pub(crate) fn count_answered(&mut self, frames: u64) {
        self.answered += frames;
        self.scope.core.stats.answered(frames);
    }

    /// The payload bytes of the frame under way that are still to come.
    pub(crate) fn rest(&self) -> usize {
        self.passage.remaining as usize
    }

    /// The frame under way is complete.
    pub(crate) fn frame_done(&mut self) {
        self.under = Under::Nothing;
        self.passage = Passage::default();
        self.began = None;
    }

    /// The longest payload of ECHO, PROBE and DATA allowed now.
    #[inline]
    pub fn max_frame(&self) -> u32 {
        self.scope.core.limits.max_frame()
    }

    /// Moves the bytes of a begun header to the input, where whole frames are read from.
    pub(crate) fn unstash_head(&mut self) {
        if self.head_len > 0 {
            let mut input = Buffer::from(&self.head[..usize::from(self.head_len)]);
            input.put(&self.input);
            self.input = input;
            self.head_len = 0;
        }
    }

    /// Keeps the begun header that ends a chunk.
    #[inline]
    pub(crate) fn stash_head(&mut self, bytes: &[u8]) {
        self.head[..bytes.len()].copy_from_slice(bytes);
        self.head_len = bytes.len() as u8;
    }

    /// Notes what went wrong in the counters, whether or not it ends the connection.
    pub(crate) fn note(&self, error: &Error) {
        self.scope.core.stats.wrong(error);
    }

    /// Nanoseconds from the service's start, for probe stamps.
    pub(crate) fn stamp(&self, at: Instant) -> u64 {
        self.scope.core.stamp(at)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.scope.listener.left(self.state);
        if let Some(slot) = self.slot {
            self.scope.unregister(slot);
        }
        if self.counted {
            self.scope.core.sources.leave(self.peer);
        }
        if !self.finished {
            // Aborted, panicked or failed: the peer must not take what it has for the whole.
            self.stream.reset_on_close();
        }
        let ending = self.ending.unwrap_or_else(|| match std::thread::panicking() {
            true => Ending::Panicked,
            false => Ending::Forced,
        });
        self.scope.core.observer.tell(&Closed {
            listener: self.scope.listener.address(),
            tls: self.tls,
            peer: self.peer,
            user: self.user(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            frames: self.answered,
            took: self.accepted_at.elapsed(),
            ending,
        });
    }
}

//! What is told of a connection when it has ended.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use super::Ending;
use crate::{LocalAddr, Peer};

/// A connection that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Closed<'a> {
    /// Where it was accepted.
    pub listener: &'a LocalAddr,
    /// Whether each connection began with a handshake of TLS there when this one came.
    pub tls: bool,
    /// Who was at the other end.
    pub peer: Peer,
    /// Who it was, if somebody has authenticated.
    pub user: Option<&'a str>,
    /// Bytes read from it.
    pub bytes_in: u64,
    /// Bytes written to it.
    pub bytes_out: u64,
    /// Frames that were answered, or taken by [`recv`](crate::Connection::recv).
    pub frames: u64,
    /// From its accept to its end.
    pub took: Duration,
    /// How it ended.
    pub ending: Ending,
}

/// Who wants to be told, if anybody.
#[derive(Default)]
pub(crate) struct Observer(OnceLock<Box<Tell>>);

type Tell = dyn Fn(&Closed<'_>) + Send + Sync;

impl Observer {
    pub(crate) fn set(&self, observer: impl Fn(&Closed<'_>) + Send + Sync + 'static) {
        // The first one counts.
        let _ = self.0.set(Box::new(observer));
    }

    pub(crate) fn tell(&self, closed: &Closed<'_>) {
        if let Some(observer) = self.0.get() {
            observer(closed);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("is_set", &self.0.get().is_some()).finish()
    }
}

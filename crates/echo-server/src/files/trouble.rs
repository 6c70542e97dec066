//! What the log says of a disk that fails clients.

use std::io;
use std::sync::{Mutex, PoisonError};

use echo_core::Seldom;

use crate::exit::reason;

/// What the store was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Read,
    Write,
    Remove,
    Sync,
    /// What an upload that has stopped left, to be gone on with.
    Park,
}

impl Doing {
    fn words(self) -> &'static str {
        match self {
            Self::Read => "cannot read from the store",
            Self::Write => "cannot write to the store",
            Self::Remove => "cannot remove from the store",
            Self::Sync => "cannot make a change of the store durable",
            Self::Park => "cannot keep an unfinished upload",
        }
    }
}

/// When it was said of what, for which error of the system, if it is one: as many as there are of both, and no more.
static SAID: Mutex<Vec<(Doing, Option<i32>, Seldom)>> = Mutex::new(Vec::new());

/// Says what the store cannot do, and why. A disk that fails does so with each transfer: so each thing is told with each
/// error once a minute, and one that peers can cause as often as they like hides no other.
pub(super) fn tell(doing: Doing, error: &io::Error) {
    let errno = errno(error);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let known = said.iter().position(|(what, why, _)| (*what, *why) == (doing, errno));
    let known = known.unwrap_or_else(|| {
        said.push((doing, errno, Seldom::default()));
        said.len() - 1
    });
    if let Some(muted) = said[known].2.speak() {
        tracing::warn!(muted, "{}: {}", doing.words(), reason(error));
    }
}

/// The system's error, also where it is told with its place.
fn errno(error: &io::Error) -> Option<i32> {
    let inner = || error.get_ref()?.source()?.downcast_ref::<io::Error>();
    error.raw_os_error().or_else(|| inner()?.raw_os_error())
}

//! The core of an echo service: framed codec, accept loop, per-connection task, limits and drain.
#![forbid(unsafe_code)]

mod drain;
mod error;
mod frame;
mod limits;
mod stream;

pub use drain::Drain;
pub use error::Error;
pub use frame::*;
pub use limits::Limits;
pub use stream::Peer;

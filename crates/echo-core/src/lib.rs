//! The core of an echo service: framed codec, accept loop, per-connection task, limits and drain.
#![forbid(unsafe_code)]

mod drain;
mod endpoint;
mod error;
mod frame;
mod limits;
mod listener;
mod stream;

pub use drain::Drain;
pub use endpoint::{Address, DEFAULT_PORT, Endpoint, EndpointError, Mode, UnixName};
pub use error::Error;
pub use frame::*;
pub use limits::Limits;
pub use listener::{AcceptFault, Connector, Listener, LocalAddr, SocketOptions};
pub use stream::Peer;

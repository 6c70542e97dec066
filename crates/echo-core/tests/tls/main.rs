//! TLS on connections, over real sockets: what is echoed, who is believed, and how it ends.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where")]

mod certificates;
mod cuts;
mod echo;
mod ends;
mod handshakes;
mod hostile;
mod places;
mod support;

//! TLS on connections, over real sockets: what is echoed, who is believed, and how it ends.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where")]

mod cuts;
mod echo;
mod ends;
mod handshakes;
mod places;
mod support;

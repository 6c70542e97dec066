//! Datagram sockets on Tokio that receive and send in batches.
//!
//! The unsafe code of `echo-core`, which has none: recvmmsg(2) and sendmmsg(2) with the control
//! messages that say where a datagram was sent to, how many the kernel dropped, and where a reply is
//! to come from. What the safe crates offer falls short of that: nix shares one control message among
//! all datagrams of a batch and does not reset the lengths of names and control messages between two
//! of them, quinn-udp sends to one peer at a time and drops truncated datagrams without a word,
//! rustix and socket2 have no such control messages or no batches.
//!
//! And the descriptors that a service manager passes, which nobody can own without unsafe code,
//! sched_setattr(2), for which the safe crates have no call, and signals that are given back.
//!
//! With the feature `began`, which is for programs alone as it runs a function before `main`: a look at the standard
//! descriptors before Rust's runtime replaces those that are closed.
//!
//! Linux only.

mod batch;
#[cfg(feature = "began")]
mod began;
mod control;
mod given_back;
mod passed;
mod schedule;
mod socket;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Datagram, MAX_BATCH, Sending, Source};
#[cfg(feature = "began")]
pub use began::began_closed;
pub use control::Arrival;
pub use given_back::give_back;
pub use passed::take_passed;
pub use schedule::give_way;
pub use socket::Socket;

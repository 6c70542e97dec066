//! What is particular to datagrams.

use std::time::Duration;

/// How long the reply to a datagram may take unless told otherwise: longer than any path but a few take,
/// and not too long for somebody who waits, as tools do that count loss. A stream's 30 s are another thing,
/// silence on a path that repeats what it loses.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// What fits into a UDP datagram over IPv4 behind the 36 bytes that number it.
const MAX_MESSAGE: usize = 65_507 - 36;

/// Reads the size of a message in a datagram.
pub(super) fn message_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 1..=MAX_MESSAGE) => Ok(size),
        _ => Err(format!("write a whole number from 1 to {MAX_MESSAGE}")),
    }
}

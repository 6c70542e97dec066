//! What `echo-client send` takes.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::ArgGroup;
use echo_core::Endpoint;

use super::{Connecting, count, duration, target};
use crate::escape::hex;

/// Send messages and print their replies, one a line, in the order sent.
///
/// Each message is sent once the reply to the one before it has come. A reply is the message again:
/// anything else is a defect, and the first one ends it. On a terminal, control characters in replies
/// are escaped.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("messages").args(["text", "file", "stdin_lines"]).required(true)))]
#[command(override_usage = "echo-client send [OPTIONS] <TARGET> <TEXT>...
       echo-client send [OPTIONS] <TARGET> --file <PATH>...
       echo-client send [OPTIONS] <TARGET> --stdin-lines")]
pub(crate) struct Sending {
    /// The server, as for echo-client itself
    #[arg(value_parser = target)]
    pub(crate) target: Endpoint,

    /// A message, exactly as it is; repeatable
    pub(crate) text: Vec<OsString>,

    /// Send a file as one message; repeatable
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Vec<PathBuf>,

    /// Send each line of stdin as a message, without its newline
    #[arg(long)]
    pub(crate) stdin_lines: bool,

    /// TEXT and lines are hexadecimal digits, two for each byte; so are the replies, of files too
    #[arg(long)]
    pub(crate) hex: bool,

    /// Send everything so many times; of stdin, each line as soon as it comes. Datagrams that may be
    /// equal, these and lines of stdin, go out as with --probe, unless the target says ?mode=raw
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    pub(crate) count: NonZeroU64,

    /// How long to wait between one message and the next, at least
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration)]
    pub(crate) interval: Duration,

    /// Send each message behind the 32 bytes of a PROBE, so that the server's own time is known. The
    /// longest message is so much shorter then
    #[arg(long)]
    pub(crate) probe: bool,

    /// Print the round trip before each reply, and the server's time if it is known
    #[arg(long)]
    pub(crate) timing: bool,

    /// Print a JSON object for each message: its bytes, round trip, server's time if known, reply
    #[arg(long, conflicts_with = "timing")]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) connecting: Connecting,
}

impl Sending {
    /// The messages that stand on the command line.
    pub(crate) fn texts(&self) -> Result<Vec<Bytes>, String> {
        let read = |text: &OsString| match (self.hex, text.to_str()) {
            (false, _) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (true, Some(digits)) => hex(digits).map(Bytes::from),
            (true, None) => Err("not hexadecimal".to_owned()),
        };
        let place =
            |(index, text)| read(text).map_err(|words| format!("message {}: {words}", index + 1));
        self.text.iter().enumerate().map(place).collect()
    }
}

//! Messages that come from files.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use echo_core::MAX_PAYLOAD_LEN;

use crate::escape::escape;
use crate::failure::reason;

/// That what comes from there is longer than any message.
pub(crate) fn too_long(origin: &str) -> String {
    format!("too long: {origin}: a message holds at most {MAX_PAYLOAD_LEN} bytes: send it in parts")
}

/// Reads a file that is one message. It may be a pipe: the reading blocks nobody else, and is
/// abandoned with this future. A terminal is refused where `editing`: an abandoned reader would take the
/// lines from the editor.
pub(crate) async fn read(path: PathBuf, editing: bool) -> Result<Vec<u8>, String> {
    let place = escape(&path.display().to_string());
    let read = tokio::task::spawn_blocking(move || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        if editing && file.is_terminal() {
            return Err(io::Error::other("it is a terminal"));
        }
        // One more than any server takes, so that it is seen to be too long.
        file.take(u64::from(MAX_PAYLOAD_LEN) + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let error = match read.await {
        Ok(Ok(bytes)) if bytes.len() > MAX_PAYLOAD_LEN as usize => {
            return Err(too_long(&place));
        }
        Ok(Ok(bytes)) => return Ok(bytes),
        Ok(Err(error)) => error,
        Err(error) => error.into(),
    };
    Err(format!("cannot read {place}: {}", reason(&error)))
}

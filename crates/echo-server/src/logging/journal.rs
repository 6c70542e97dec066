//! Entries of the systemd journal, in its native protocol: fields and priorities instead of lines
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! tracing-journald sends from the thread that logs, which a journal that is stopped would block.

use std::env;
use std::fmt::{Debug, Display, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::fs::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::escape::Harmless;
use crate::lines::{self, Lines};

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// What an entry ends with in the queue: its last field's line break, and an empty line. No value has a line
/// break in it.
const END: &str = "\n\n";

/// Whether stderr is the journal's: systemd tells so by device and inode (systemd.exec(5)).
pub(crate) fn is_stderr() -> bool {
    let told = env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(io::stderr()).is_ok_and(|stat| told == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A socket for the journal at `socket`, which is there.
pub(super) fn reach(socket: &Path) -> io::Result<UnixDatagram> {
    let sender = UnixDatagram::unbound()?;
    // It takes nothing that is empty for an entry.
    sender.send_to(b"", socket)?;
    Ok(sender)
}

/// A queue of entries for the journal at `socket`, which must be there now, and may come and go later.
pub(super) fn start(socket: &'static Path) -> io::Result<Lines> {
    let sender = reach(socket)?;
    Lines::to("journal", move |batch| {
        let text = String::from_utf8_lossy(batch);
        // The journal ignores a field without its line break.
        let entries = text.split_inclusive(END).map(|entry| entry.trim_end_matches('\n'));
        let sent = |entry: &str| sender.send_to(format!("{entry}\n").as_bytes(), socket).is_ok();
        entries.filter(|entry| !sent(entry)).count()
    })
}

/// Turns events into entries.
pub(super) struct Journal {
    pub(super) entries: Lines,
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = Entry(String::with_capacity(256));
        entry.put("PRIORITY", priority(*metadata.level()));
        entry.put("SYSLOG_IDENTIFIER", "echo-server");
        entry.put("ECHO_TARGET", metadata.target());
        event.record(&mut entry);
        entry.0.push('\n');
        self.entries.put(entry.0.as_bytes(), lines::reserve(metadata));
    }
}

/// syslog(3)'s.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        // A step below what systemd itself says.
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Lines of `FIELD=value`.
struct Entry(String);

impl Entry {
    fn put(&mut self, name: &str, value: impl Display) {
        // A string takes all.
        let _ = writeln!(self.0, "{name}={}", Harmless(value));
    }

    fn record(&mut self, field: &Field, value: impl Display) {
        match field.name() {
            "message" => self.put("MESSAGE", value),
            name => self.put(&format!("ECHO_{}", name.to_ascii_uppercase()), value),
        }
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value);
    }

    // Debug shows small ones with an exponent.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing_subscriber::prelude::*;

    use super::super::escape::tests::{HOSTILE, assert_harmless};
    use super::*;

    /// What a journal would receive of an event.
    #[test]
    fn an_event_is_an_entry_of_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.keep().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let path: &'static Path = Box::leak(path.into_boxed_path());
        let entries = start(path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal { entries: entries.clone() });
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "part", text = HOSTILE, shown = %HOSTILE, number = 5, seconds = 0.000_085_247, "happened: {HOSTILE}");
            tracing::info!("second");
        });
        let mut datagram = [0; 4096];
        let mut next = || {
            let len = journal.recv(&mut datagram).unwrap();
            str::from_utf8(&datagram[..len]).unwrap().to_owned()
        };
        assert_eq!(next(), "", "the question whether it is there");
        let entry = next();
        assert!(entry.ends_with('\n') && !entry.contains("\n\n"), "{entry:?}");
        let lines: Vec<_> = entry.lines().collect();
        for line in &lines {
            assert_harmless(line);
        }
        assert_eq!(lines[..3], ["PRIORITY=4", "SYSLOG_IDENTIFIER=echo-server", "ECHO_TARGET=part"]);
        let hostile = Harmless(HOSTILE).to_string();
        for field in [
            format!("MESSAGE=happened: {hostile}"),
            format!("ECHO_TEXT={hostile}"),
            format!("ECHO_SHOWN={hostile}"),
            "ECHO_NUMBER=5".to_owned(),
            "ECHO_SECONDS=0.000085247".to_owned(),
        ] {
            assert!(lines.contains(&field.as_str()), "no {field} in {entry}");
        }
        assert!(next().contains("MESSAGE=second"));
        // One that goes away costs lines, which are counted.
        drop(journal);
        entries.put(b"MESSAGE=lost\n\n", 0);
        entries.finish("", Duration::from_secs(60));
        assert_eq!(entries.dropped(), 1);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}

//! What is said on stderr while the copy runs: notices, and a line of progress on a terminal.

use std::future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long a copy may take before its progress is shown, and how often that changes then.
const FIRST: Duration = Duration::from_secs(2);
const NEXT: Duration = Duration::from_millis(500);

/// The user's stderr.
#[derive(Debug)]
pub(super) struct Progress {
    quiet: bool,
    began: Instant,
    /// When the line changes next; never, if there is none.
    next: Option<Instant>,
    /// What had been copied at the last change, and when that was.
    last: (u64, Instant),
    /// How long the line is that stands there.
    shown: usize,
}

impl Progress {
    /// The line is for people who wait for something else: not beside the copy or its lines, on the
    /// same terminal.
    pub(super) fn new(quiet: bool, copies: bool) -> Self {
        let now = Instant::now();
        let terminal = io::stderr().is_terminal() && !io::stdin().is_terminal();
        let shows = !quiet && terminal && !(copies && io::stdout().is_terminal());
        let next = shows.then(|| now + FIRST);
        Self { quiet, began: now, next, last: (0, now), shown: 0 }
    }

    /// Waits until the line changes.
    ///
    /// # Cancel safety
    /// Nothing is lost: all state is in `self`.
    pub(super) async fn due(&self) {
        match self.next {
            Some(next) => sleep_until(next).await,
            None => future::pending().await,
        }
    }

    /// Shows that so many bytes have been copied.
    pub(super) fn show(&mut self, copied: u64) {
        let now = Instant::now();
        self.next = Some(now + NEXT);
        let (before, then) = self.last;
        self.last = (copied, now);
        let rate = (copied - before) as f64 / (now - then).as_secs_f64().max(1e-3);
        let seconds = (now - self.began).as_secs();
        let line = format!("{}, {}/s, {seconds} s", size(copied as f64), size(rate));
        // Blanks take away what a longer line has left; a dumb terminal knows nothing else.
        let width = self.shown.max(line.len());
        self.shown = line.len();
        write(&format!("\r{line:width$}"));
    }

    /// Takes the line away.
    pub(super) fn erase(&mut self) {
        if self.shown > 0 {
            write(&format!("\r{:1$}\r", "", self.shown));
            self.shown = 0;
        }
    }

    /// Says something beside the matter.
    pub(super) fn say(&mut self, text: &str) {
        if !self.quiet {
            self.erase();
            crate::say(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.erase();
    }
}

/// A closed stderr is not worth a failure.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// So many bytes, with three digits and a unit.
pub(super) fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1000.0, "0.98 KiB"),
            (1536.0, "1.50 KiB"),
            (10.0 * 1024.0, "10.0 KiB"),
            (123.4 * 1_048_576.0, "123 MiB"),
            (1_073_741_824.0, "1.00 GiB"),
            (5e15, "4547 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}

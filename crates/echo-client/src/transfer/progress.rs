//! How far it is: counted for each file, and shown on a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// A bar on stderr, where that is a terminal and nobody wants silence; else nothing. It counts what goes
/// over the network, so that its rate and its time are true: what is there already is no part of it.
#[derive(Clone, Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn new(hidden: bool) -> Self {
        if hidden || !io::stderr().is_terminal() {
            return Self(None);
        }
        // Not shown before there is something to come: none of none would be all.
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let template =
            "{bar:24} {percent:>3}% {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    /// So many bytes are to be moved, where so many were before.
    pub(super) fn expect(&self, before: u64, now: u64) {
        if let Self(Some(bar)) = self {
            if now > 0 && bar.is_hidden() {
                bar.reset_elapsed();
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.inc_length(now.saturating_sub(before));
            bar.dec_length(before.saturating_sub(now));
        }
    }

    /// Nobody knows how much it will be, as of stdin: there is no part of it to show.
    fn endless(&self) {
        if let Self(Some(bar)) = self
            && let Ok(style) = ProgressStyle::with_template("{bytes}, {bytes_per_sec}")
        {
            bar.set_style(style);
        }
    }

    fn moved(&self, bytes: u64) {
        if let Self(Some(bar)) = self {
            bar.inc(bytes);
        }
    }

    /// A line for people above the bar.
    pub(super) fn say(&self, text: &str) {
        match self {
            Self(Some(bar)) => bar.suspend(|| crate::say(text)),
            Self(None) => crate::say(text),
        }
    }

    /// Writes lines to stdout above the bar, and says whether that was done: only where both are on a terminal,
    /// which may be the same.
    pub(super) fn print(&self, lines: &[u8]) -> bool {
        match self {
            Self(Some(bar)) if io::stdout().is_terminal() => bar.suspend(|| {
                let mut stdout = io::stdout().lock();
                // A terminal that is gone is told by a signal.
                let _ = stdout.write_all(lines).and_then(|()| stdout.flush());
                true
            }),
            _ => false,
        }
    }

    pub(super) fn finish(&self) {
        if let Self(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}

/// How far one file is, over all connections that it takes.
#[derive(Debug)]
pub(super) struct Meter {
    progress: Progress,
    /// When this command began with it.
    pub(super) began: Instant,
    counts: Mutex<Counts>,
}

/// Bytes of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Of the whole file, if that is known.
    pub(super) size: Option<u64>,
    /// From its beginning to where it is now.
    pub(super) at: u64,
    /// That were there before this command, and were not moved again; `None` before that is known.
    pub(super) resumed_from: Option<u64>,
    /// That this command has moved: what was lost on the way counts each time.
    pub(super) moved: u64,
    /// That it will have moved in the end, as far as one can tell.
    expected: u64,
}

impl Meter {
    /// For a file of which `expected` bytes are on the bar already.
    pub(super) fn new(progress: &Progress, expected: u64) -> Self {
        let counts = Mutex::new(Counts { expected, ..Counts::default() });
        Self { progress: progress.clone(), began: Instant::now(), counts }
    }

    /// A connection goes on at `offset`.
    pub(super) fn open(&self, offset: u64, size: Option<u64>) {
        let mut counts = self.lock();
        counts.resumed_from.get_or_insert(offset);
        (counts.at, counts.size) = (offset, size);
        if size.is_none() {
            self.progress.endless();
        }
        let left = size.map_or(0, |size| size.saturating_sub(offset));
        self.expect(&mut counts, left);
    }

    /// So many bytes more went over the network.
    pub(super) fn moved(&self, bytes: u64) {
        let mut counts = self.lock();
        counts.at = counts.at.saturating_add(bytes);
        counts.moved = counts.moved.saturating_add(bytes);
        self.progress.moved(bytes);
        if counts.size.is_none() || counts.moved > counts.expected {
            self.expect(&mut counts, 0);
        }
    }

    /// No more will go over the network.
    pub(super) fn end(&self) {
        self.expect(&mut self.lock(), 0);
    }

    pub(super) fn counts(&self) -> Counts {
        *self.lock()
    }

    fn expect(&self, counts: &mut Counts, left: u64) {
        let now = counts.moved.saturating_add(left);
        self.progress.expect(counts.expected, now);
        counts.expected = now;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_there_is_not_counted_as_moved() {
        let meter = Meter::new(&Progress::new(true), 100);
        meter.open(40, Some(100));
        meter.moved(30);
        let counts = meter.counts();
        assert_eq!((counts.at, counts.resumed_from, counts.moved), (70, Some(40), 30));
        assert_eq!(counts.expected, 60);
        // The connection is lost, and 20 of them with it.
        meter.open(50, Some(100));
        meter.moved(50);
        let counts = meter.counts();
        assert_eq!((counts.at, counts.resumed_from, counts.moved), (100, Some(40), 80));
        assert_eq!(counts.expected, 80);
        // A peer may say anything.
        meter.open(u64::MAX, Some(0));
        meter.moved(u64::MAX);
        meter.end();
    }
}

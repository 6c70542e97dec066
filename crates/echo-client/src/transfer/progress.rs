//! How far it is, on a terminal.

use std::future::Future;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on stderr, where that is a terminal and nobody wants silence; else nothing.
#[derive(Clone, Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn new(hidden: bool) -> Self {
        if hidden || !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let template =
            "{bar:24} {percent:>3}% {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    /// So many bytes more are to be done.
    pub(super) fn expect(&self, bytes: u64) {
        if let Self(Some(bar)) = self {
            bar.inc_length(bytes);
        }
    }

    /// So many bytes more are done.
    pub(super) fn done(&self, bytes: u64) {
        if let Self(Some(bar)) = self {
            bar.inc(bytes);
        }
    }

    /// So many bytes are not done after all.
    pub(super) fn undo(&self, bytes: u64) {
        if let Self(Some(bar)) = self {
            bar.set_position(bar.position().saturating_sub(bytes));
        }
    }

    /// A line for people above the bar.
    pub(super) fn say(&self, text: &str) {
        match self {
            Self(Some(bar)) => bar.suspend(|| crate::say(text)),
            Self(None) => crate::say(text),
        }
    }

    /// Lets something else write to the terminal.
    pub(super) async fn beside<T>(&self, write: impl Future<Output = T>) -> T {
        // Stdout may be the same terminal. The next tick draws the bar again.
        if let Self(Some(bar)) = self
            && io::stdout().is_terminal()
        {
            bar.suspend(|| {});
        }
        write.await
    }

    pub(super) fn finish(&self) {
        if let Self(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}

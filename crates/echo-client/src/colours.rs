//! Colours, where the terminal and the user want them.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// How text is set off from other text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colours(bool);

impl Colours {
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(false);

    #[cfg(test)]
    pub(crate) const ALL: Self = Self(true);

    /// As stdout can show them, unless `NO_COLOR` says otherwise. A dumb terminal has none, even where
    /// `CI` is set, which otherwise counts as one that has.
    pub(crate) fn of_stdout() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(!dumb && AutoStream::choice(&io::stdout()) != ColorChoice::Never)
    }

    pub(crate) fn enabled(self) -> bool {
        self.0
    }

    /// What is said beside the matter.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    /// What happens by itself.
    pub(crate) fn notice(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// A defect.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

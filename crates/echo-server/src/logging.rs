//! Logs on stderr: what, how much of it, and in which form.

use std::env;
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};

use clap::ValueEnum;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::stderr::Stderr;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// What fits the place: text
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The variable that Rust programs take for their log level.
pub(crate) const VARIABLE: &str = EnvFilter::DEFAULT_ENV;

/// How much is logged, which can change.
#[derive(Clone)]
pub(crate) struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Logs so much from here on.
    pub(crate) fn set(&self, level: &str) {
        // Fails without a subscriber, which there is until the process ends.
        let _ = self.0.reload(filter(level));
    }
}

/// Logs to `stderr` from here on, so much as `level` says.
pub(crate) fn start(format: Format, level: &str, stderr: &Stderr) -> Level {
    let target = stderr.clone();
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = fmt::layer().with_target(false).with_writer(move || target.clone());
    let lines = match format {
        Format::Json => lines.json().flatten_event(true).with_ansi(false).boxed(),
        Format::Auto | Format::Text => lines.with_ansi(colours()).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    if let Some(Err(complaint)) = from_environment() {
        tracing::warn!("{VARIABLE} is ignored: {complaint}");
    }
    panic::set_hook(Box::new(log_panic));
    Level(handle)
}

/// The filter of a level that was read as one before.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::builder().parse_lossy(level)
}

/// Reads a level, or directives that give parts of the program levels of their own.
pub(crate) fn level(text: &str) -> Result<String, String> {
    // The parser takes a word that is no level for the name of a part, as it would a misspelt level.
    let is_level =
        |it: &str| it.contains(['=', '[']) || (!it.is_empty() && it.parse::<LevelFilter>().is_ok());
    if let Some(other) = text.split(',').find(|it| !is_level(it)) {
        return Err(format!("{other:?} is no level: error, warn, info, debug, trace or off"));
    }
    let filter = EnvFilter::builder().parse(text);
    filter.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// The level that [`VARIABLE`] gives, or what is wrong with it.
pub(crate) fn from_environment() -> Option<Result<String, String>> {
    let value = env::var_os(VARIABLE).filter(|it| !it.is_empty())?;
    Some(value.to_str().map_or_else(|| Err("it is not UTF-8".into()), level))
}

fn colours() -> bool {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !unwanted
}

/// A panic is one log line: the default hook would write several, and straight to a stderr that may
/// block.
fn log_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "panicked, which is a defect: {payload:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_cannot_be_read_is_refused() {
        for right in ["info", "echo_core=debug,warn"] {
            assert_eq!(level(right).as_deref(), Ok(right));
        }
        for wrong in ["", "inf", "no=such=level", "info,"] {
            assert!(level(wrong).is_err(), "{wrong}");
        }
    }
}

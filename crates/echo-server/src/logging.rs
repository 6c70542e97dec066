//! Logs on stderr: what, how much of it, and in which form.

use std::env;
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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

/// Logs to `stderr` from here on. `RUST_LOG` says how much, `info` by default.
pub(crate) fn start(format: Format, stderr: &Stderr) {
    let (filter, complaint) = filter(env::var_os(EnvFilter::DEFAULT_ENV));
    let target = stderr.clone();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(move || target.clone());
    match format {
        Format::Json => builder.json().flatten_event(true).init(),
        Format::Auto | Format::Text => builder.with_ansi(colours()).init(),
    }
    if let Some(complaint) = complaint {
        tracing::warn!("RUST_LOG is ignored: {complaint}");
    }
    panic::set_hook(Box::new(log_panic));
}

/// The filter of `RUST_LOG`, or the default one and what is wrong with the variable.
fn filter(variable: Option<std::ffi::OsString>) -> (EnvFilter, Option<String>) {
    let default = || EnvFilter::default().add_directive(LevelFilter::INFO.into());
    let Some(variable) = variable.filter(|it| !it.is_empty()) else { return (default(), None) };
    let Some(directives) = variable.to_str() else {
        return (default(), Some("it is not UTF-8".into()));
    };
    match EnvFilter::builder().parse(directives) {
        Ok(filter) => (filter, None),
        Err(error) => (default(), Some(error.to_string())),
    }
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
    fn a_filter_that_cannot_be_read_is_reported() {
        for (variable, shown, complains) in [
            (None, "info", false),
            (Some(""), "info", false),
            (Some("echo_core=debug,warn"), "echo_core=debug,warn", false),
            (Some("no=such=level"), "info", true),
        ] {
            let (filter, complaint) = filter(variable.map(Into::into));
            assert_eq!((filter.to_string().as_str(), complaint.is_some()), (shown, complains));
        }
    }
}

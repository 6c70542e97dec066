//! Logs: what, how much of it, where to and in which form.

mod escape;
mod fields;
mod journal;

use std::env;
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::access;
use crate::exit::{self, CONFIG, Failure};
use crate::lines::{Lines, Writers};
pub(crate) use escape::Harmless;
pub(crate) use journal::is_stderr as to_journal;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// What fits the place: journald where stderr is the journal's, else text
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
    /// Entries of the systemd journal.
    Journald,
}

/// The variable that Rust programs take for their log level.
pub(crate) const VARIABLE: &str = EnvFilter::DEFAULT_ENV;

/// The log at work. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    stderr: Lines,
    journal: Option<Lines>,
}

impl Log {
    /// Logs from here on, so much as `level` says, and connections if `access`.
    pub(crate) fn start(format: Format, level: &str, access: bool) -> Result<Self, Failure> {
        let stderr = Lines::to_stderr().map_err(|error| Failure::cannot_start(&error))?;
        let journal = match format {
            Format::Journald => {
                Some(journal::start(Path::new(journal::SOCKET)).map_err(no_journal)?)
            }
            // Without a journal to talk to it takes lines, as from any other program.
            Format::Auto if journal::is_stderr() => journal::start(Path::new(journal::SOCKET)).ok(),
            _ => None,
        };
        let (filter, handle) = reload::Layer::new(filter(level, access));
        let layer = match (&journal, format) {
            (Some(entries), _) => journal::Journal { entries: entries.clone() }.boxed(),
            (None, Format::Json) => json(stderr.clone()).boxed(),
            (None, _) => text(stderr.clone(), colours()).boxed(),
        };
        tracing_subscriber::registry().with(filter).with(layer).init();
        if let Some(Err(complaint)) = from_environment() {
            tracing::warn!("{VARIABLE} is ignored: {complaint}");
        }
        panic::set_hook(Box::new(log_panic));
        Ok(Self { filter: handle, stderr, journal })
    }

    /// One that logs nothing.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let (_, filter) = reload::Layer::new(filter("off", false));
        Self { filter, stderr: Lines::default(), journal: None }
    }

    /// Logs so much from here on.
    pub(crate) fn set(&self, level: &str, access: bool) {
        // Fails without a subscriber, which there is until the process ends.
        let _ = self.filter.reload(filter(level, access));
    }

    /// How many lines were lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.stderr.dropped() + self.journal.as_ref().map_or(0, Lines::dropped)
    }

    /// Writes the last line, to stderr, after all that was logged before. Gives up after `patience`.
    pub(crate) fn finish(&self, last: &str, patience: Duration) {
        if let Some(journal) = &self.journal {
            journal.finish("", patience);
        }
        self.stderr.finish(last, patience);
    }
}

/// Whether logs of this form can be had here.
pub(crate) fn check(format: Format) -> Result<(), Failure> {
    match format {
        Format::Journald => {
            journal::reach(Path::new(journal::SOCKET)).map(drop).map_err(no_journal)
        }
        _ => Ok(()),
    }
}

fn no_journal(error: io::Error) -> Failure {
    let reason = exit::reason(&error);
    let socket = journal::SOCKET;
    Failure::new(CONFIG, format!("cannot log to journald at {socket}: {reason}; try --log text"))
}

/// Lines for people. Whatever a field holds, it stays one harmless line.
fn text<S>(lines: Lines, colours: bool) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fmt::layer()
        .fmt_fields(fields::Fields)
        .with_target(false)
        .with_ansi(colours)
        .with_ansi_sanitization(false) // More than that is done already.
        .with_writer(Writers { lines, filter: None })
}

/// One JSON object a line.
fn json<S>(lines: Lines) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_ansi(false)
        .with_writer(Writers { lines, filter: Some(escape::json) })
}

/// The filter of a level that was read as one before. The access log is a matter of its own.
fn filter(level: &str, access: bool) -> EnvFilter {
    let filter = EnvFilter::builder().parse_lossy(level);
    let directive = format!("{}={}", access::TARGET, if access { "info" } else { "off" });
    match directive.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
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
    use std::sync::mpsc;

    use super::escape::tests::{HOSTILE, assert_harmless};
    use super::*;

    /// The lines that `layer` makes of what `events` logs.
    fn logged<L: Layer<Registry> + Send + Sync>(
        layer: impl FnOnce(Lines) -> L,
        events: impl FnOnce(),
    ) -> Vec<String> {
        let (sender, receiver) = mpsc::channel();
        let lines = Lines::to("test", move |batch| {
            sender.send(String::from_utf8(batch.to_vec()).unwrap()).unwrap();
            0
        });
        let lines = lines.unwrap();
        let subscriber = tracing_subscriber::registry().with(layer(lines.clone()));
        tracing::subscriber::with_default(subscriber, events);
        lines.finish("", Duration::from_secs(60));
        receiver.iter().collect::<String>().lines().map(str::to_owned).collect()
    }

    fn hostile_event() {
        let error = io::Error::other(HOSTILE);
        tracing::error!(text = HOSTILE, shown = %HOSTILE, debug = ?HOSTILE, %error, "it was {HOSTILE}");
    }

    /// Fault 66: whatever a peer could bring into an event, a line stays one, and harmless.
    #[test]
    fn a_hostile_field_stays_in_its_line() {
        for line in [logged(|lines| text(lines, false), hostile_event), logged(json, hostile_event)]
        {
            assert_eq!(line.len(), 1, "{line:?}");
            assert_harmless(&line[0]);
        }
        // With colours the formatter's own are left.
        let coloured = logged(|lines| text(lines, true), hostile_event).remove(0);
        let (colour, rest) = coloured.split_once("it was").unwrap();
        assert!(colour.contains('\u{1b}'), "{}", colour.escape_debug());
        assert_harmless(rest);
        let json = logged(json, hostile_event).remove(0);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["text"], &json["shown"]), (&HOSTILE.into(), &HOSTILE.into()));
        assert_eq!(json["message"], format!("it was {HOSTILE}"));
    }

    #[test]
    fn a_line_says_when_how_bad_and_what() {
        let event = || tracing::info!(count = 5, text = "a b", "it happened");
        let line = logged(|lines| text(lines, false), event).remove(0);
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.len() > 20, "{line}");
        assert_eq!(rest, " INFO it happened count=5 text=\"a b\"");
    }

    /// Other programs sort and sum them: no exponent, however small.
    #[test]
    fn a_number_is_written_out() {
        let event = || tracing::info!(seconds = 0.000_085_247, whole = 2.0, "connection");
        let line = logged(|lines| text(lines, false), event).remove(0);
        assert!(line.ends_with(" connection seconds=0.000085247 whole=2"), "{line}");
    }

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

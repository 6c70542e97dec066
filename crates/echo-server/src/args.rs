//! The command line, which is stable: other programs use it.

use std::env;
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use echo_core::{Endpoint, Limits, PortRanges};

use crate::exit::{Failure, USAGE};
use crate::logging::Format;
use crate::{open_files, units};

/// What is asked for when nothing else is.
pub(crate) const DEFAULT_LISTEN: [&str; 2] = ["tcp://127.0.0.1:7777", "udp://127.0.0.1:7777"];

/// The longest greeting.
const MAX_GREETING: usize = 1024;

const NOTES: &str = "\
URIs: tcp://HOST:PORT (port 0 takes a free one, tcp://[::]:PORT takes IPv4 and IPv6), unix:PATH,
  unix:@NAME (abstract); for datagrams udp://HOST:PORT, unixgram:PATH; options joined by &:
  ?mode=auto|framed|raw, ?perm=0660 (Unix paths), ?rate=COUNT (datagrams, instead of --udp-rate)
Units: us ms s m h d; B kB MB GB KiB MiB GiB
Environment: each option's name as in ECHO_SERVER_DRAIN_TIMEOUT (ECHO_SERVER_LISTEN separates URIs
  by commas); an option wins. RUST_LOG says how much is logged (info)
Signals: the first SIGTERM or SIGINT drains, the second stops hard
Exit codes: 0 clean, 3 the drain forced some connections, 64 usage, 69 cannot listen, 70 internal
  error, 74 a listener failed, 78 the settings do not fit this host, 130/143 stopped hard";

/// An echo service over TCP, UDP and Unix sockets that loses nothing when it stops.
#[derive(Debug, Parser)]
#[command(name = "echo-server", version, after_help = NOTES, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Where to listen; repeatable
    #[arg(long, value_name = "URI", env = "ECHO_SERVER_LISTEN")]
    #[arg(default_values = DEFAULT_LISTEN)]
    pub(crate) listen: Vec<String>,

    /// What stands before a complaint about `listen`: its variable, if it came from there.
    #[arg(skip)]
    listen_source: &'static str,

    /// How long open connections have to end after the first SIGTERM or SIGINT
    #[arg(long, value_name = "DURATION", env = "ECHO_SERVER_DRAIN_TIMEOUT", default_value = "30s")]
    #[arg(value_parser = units::duration)]
    pub(crate) drain_timeout: Duration,

    /// How long to go on as before between that signal and the drain
    #[arg(long, value_name = "DURATION", env = "ECHO_SERVER_DRAIN_DELAY", default_value = "0")]
    #[arg(value_parser = units::duration)]
    pub(crate) drain_delay: Duration,

    /// Connections open at once [default: 10000, fewer where RLIMIT_NOFILE - 64 is below]
    #[arg(long, value_name = "COUNT", env = "ECHO_SERVER_MAX_CONNECTIONS")]
    #[arg(value_parser = units::count::<NonZeroUsize>)]
    max_connections: Option<NonZeroUsize>,

    /// Connections open at once from one IPv4 address or IPv6 /64 [default: 1000, loopback exempt]
    #[arg(long, value_name = "COUNT", env = "ECHO_SERVER_MAX_PER_SOURCE")]
    #[arg(value_parser = units::count::<NonZeroUsize>)]
    max_per_source: Option<NonZeroUsize>,

    /// The longest payload of a frame, up to 16 MiB - 1
    #[arg(long, value_name = "SIZE", env = "ECHO_SERVER_MAX_FRAME", default_value = "1MiB")]
    #[arg(value_parser = units::frame_len)]
    max_frame: u32,

    /// How long a connection may stay silent between frames
    #[arg(long, value_name = "DURATION", env = "ECHO_SERVER_IDLE_TIMEOUT", default_value = "10m")]
    #[arg(value_parser = units::bound)]
    idle_timeout: Duration,

    /// How long a frame may take to arrive, plus its bytes at the minimum rate
    #[arg(long, value_name = "DURATION", env = "ECHO_SERVER_FRAME_TIMEOUT", default_value = "10s")]
    #[arg(value_parser = units::bound)]
    frame_timeout: Duration,

    /// How long a peer may take to read, plus the unread bytes at the minimum rate
    #[arg(long, value_name = "DURATION", env = "ECHO_SERVER_WRITE_TIMEOUT", default_value = "10s")]
    #[arg(value_parser = units::bound)]
    write_timeout: Duration,

    /// The slowest transfer that is not a stall, in bytes a second
    #[arg(long, value_name = "RATE", env = "ECHO_SERVER_MIN_RATE", default_value = "1KiB/s")]
    #[arg(value_parser = units::rate)]
    min_rate: NonZeroU32,

    /// Datagrams a second from one IPv4 address or IPv6 /64, and as many at once
    #[arg(long, value_name = "COUNT", env = "ECHO_SERVER_UDP_RATE", default_value = "10000")]
    #[arg(value_parser = units::count::<NonZeroU32>)]
    udp_rate: NonZeroU32,

    /// Source ports of UDP that are not answered: ports and ranges, joined by commas
    #[arg(long, value_name = "PORTS", env = "ECHO_SERVER_UDP_REFUSE_PORTS")]
    #[arg(default_value = "0-1023")]
    udp_refuse_ports: PortRanges,

    /// The longest Unix datagram that is answered, up to 16 MiB
    #[arg(long, value_name = "SIZE", env = "ECHO_SERVER_MAX_DATAGRAM", default_value = "64KiB")]
    #[arg(value_parser = units::datagram_len)]
    max_datagram: u32,

    /// How long a closed connection is still read, so that its peer gets the last replies
    #[arg(long, value_name = "DURATION", env = "ECHO_SERVER_LINGER", default_value = "5s")]
    #[arg(value_parser = units::bound)]
    linger: Duration,

    /// A line that listeners with mode=raw send first, and part of the answer to HELLO
    #[arg(long, value_name = "TEXT", env = "ECHO_SERVER_GREETING", value_parser = greeting)]
    pub(crate) greeting: Option<String>,

    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "COUNT", env = "ECHO_SERVER_WORKERS")]
    #[arg(value_parser = workers)]
    pub(crate) workers: Option<u16>,

    /// How log lines on stderr look: auto (text), text or json
    #[arg(long, value_name = "FORMAT", env = "ECHO_SERVER_LOG", default_value = "auto")]
    #[arg(hide_possible_values = true)]
    pub(crate) log: Format,

    #[command(subcommand)]
    pub(crate) task: Option<Task>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Ask a server for an echo: exit 0 if it answers, 1 and the reason if not
    Healthcheck {
        /// HOST:PORT, raw://HOST:PORT or a URI [default: the first --listen]
        target: Option<String>,

        /// How long to wait for the answer
        #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::bound)]
        timeout: Duration,
    },
    /// Print what a shell needs to complete this command line
    Completions {
        /// The shell
        #[arg(value_parser = shells())]
        shell: Shell,
    },
    /// Print this program's manual page, or that of one of its commands
    Man {
        /// The command
        command: Option<String>,
    },
}

/// Those whose files are tested.
fn shells() -> impl TypedValueParser<Value = Shell> {
    PossibleValuesParser::new(["bash", "zsh", "fish"]).try_map(|name| name.parse())
}

impl Arguments {
    /// Reads a command line. The error may also be `--help` or `--version`.
    pub(crate) fn parse_from(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(arguments)?;
        let mut parsed = Self::from_arg_matches(&matches)?;
        if came_from_environment(&matches, "listen") {
            parsed.listen_source = "ECHO_SERVER_LISTEN: ";
            parsed.listen = separated(&parsed.listen.concat());
        }
        Ok(parsed)
    }

    /// Where to listen, each with the URI as it was given.
    pub(crate) fn endpoints(&self) -> Result<Vec<(String, Endpoint)>, Failure> {
        let named = |mut failure: Failure| {
            failure.message.insert_str(0, self.listen_source);
            failure
        };
        let endpoint = |uri: &String| Ok((uri.clone(), endpoint(uri).map_err(named)?));
        self.listen.iter().map(endpoint).collect()
    }

    /// The limits, fitted to the number of files that may be open.
    pub(crate) fn limits(&self, open_files: Option<u64>) -> Result<Limits, Failure> {
        let default = Limits::default();
        Ok(Limits {
            drain_timeout: self.drain_timeout,
            max_connections: open_files::fit(
                self.max_connections,
                default.max_connections,
                open_files,
            )?,
            max_per_source: self.max_per_source.unwrap_or(default.max_per_source),
            spare_loopback: self.max_per_source.is_none(),
            max_frame: self.max_frame,
            idle_timeout: self.idle_timeout,
            frame_timeout: self.frame_timeout,
            write_timeout: self.write_timeout,
            min_rate: self.min_rate,
            udp_rate: self.udp_rate,
            udp_refuse_ports: self.udp_refuse_ports.clone(),
            max_datagram: self.max_datagram,
            linger: self.linger,
        })
    }
}

/// A wrong command line in one line.
pub(crate) fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<_> = lines.filter(|line| !line.is_empty() && !line.contains("--help")).collect();
    // What clap puts on a line of its own, and belongs to the one before.
    let told = told.join("; ").replace(":; ", ": ").replace("; [", " [");
    let source = variable(error).map_or_else(String::new, |name| name + ": ");
    Failure::new(USAGE, source + &told + "; see echo-server --help")
}

/// The parser; the help text names the environment once, not at every option.
pub(crate) fn command() -> clap::Command {
    Arguments::command().mut_args(|arg: Arg| {
        let empty = arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
        // As unset: compose files and units pass on variables that nobody has given a value.
        if empty { arg.env(None::<&'static str>) } else { arg.hide_env(true) }
    })
}

/// The variable that holds the value which `error` complains about.
fn variable(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (wrong, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    let mut command = command();
    command.build();
    let arg = command.get_arguments().find(|arg| arg.to_string() == wrong)?;
    let name = arg.get_env()?;
    (env::var_os(name)? == value).then(|| name.to_string_lossy().into_owned())
}

/// The URIs of a variable; the default one where there is none.
fn separated(uris: &str) -> Vec<String> {
    let uris = uris.split(',').map(str::trim).filter(|uri| !uri.is_empty());
    let uris: Vec<_> = uris.map(str::to_owned).collect();
    if uris.is_empty() { DEFAULT_LISTEN.map(str::to_owned).to_vec() } else { uris }
}

fn came_from_environment(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(name) == Some(ValueSource::EnvVariable)
}

fn endpoint(uri: &str) -> Result<Endpoint, Failure> {
    let endpoint: Endpoint = uri
        .parse()
        .map_err(|error| Failure::new(USAGE, format!("cannot listen on {uri}: {error}")))?;
    match endpoint.options.first() {
        Some((name, _)) => Err(Failure::new(
            USAGE,
            format!(
                "cannot listen on {uri}: unknown option {name:?}: known are mode, perm and rate"
            ),
        )),
        None => Ok(endpoint),
    }
}

fn workers(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|count| (1..=1024).contains(count));
    count.ok_or_else(|| "write a whole number from 1 to 1024".to_owned())
}

fn greeting(text: &str) -> Result<String, String> {
    match text.len() {
        ..=MAX_GREETING => Ok(text.to_owned()),
        len => Err(format!("{len} bytes; at most {MAX_GREETING} are sent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, Failure> {
        let words = std::iter::once("echo-server").chain(line.split_whitespace());
        Arguments::parse_from(words.map(OsString::from)).map_err(|error| usage(&error))
    }

    #[test]
    fn the_parser_is_sound_and_every_option_has_its_variable() {
        command().debug_assert();
        for arg in command().get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long))
            else {
                continue;
            };
            let variable = format!("ECHO_SERVER_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let arguments = parse("").unwrap();
        assert_eq!(arguments.limits(None).unwrap(), Limits::default());
        assert_eq!(arguments.listen, DEFAULT_LISTEN);
        assert_eq!(arguments.drain_timeout, Duration::from_secs(30));
    }

    #[test]
    fn options_reach_the_limits() {
        let arguments = parse(
            "--max-connections 7 --max-per-source 3 --max-frame 64KiB --idle-timeout 1h \
             --frame-timeout 1s --write-timeout 2s --min-rate 10kB/s --linger 250ms \
             --udp-rate 5 --udp-refuse-ports 53,123 --max-datagram 1MiB",
        );
        let number = |n| NonZeroUsize::new(n).unwrap();
        let expected = Limits {
            drain_timeout: Limits::default().drain_timeout,
            max_connections: number(7),
            max_per_source: number(3),
            spare_loopback: false,
            max_frame: 65_536,
            idle_timeout: Duration::from_secs(3600),
            frame_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(2),
            min_rate: NonZeroU32::new(10_000).unwrap(),
            udp_rate: NonZeroU32::new(5).unwrap(),
            udp_refuse_ports: "53,123".parse().unwrap(),
            max_datagram: 1 << 20,
            linger: Duration::from_millis(250),
        };
        assert_eq!(arguments.unwrap().limits(None).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (line, told) in [
            ("--max-frame 16MiB", "16 MiB - 1"),
            ("--idle-timeout 0", "no \"unlimited\""),
            ("--linger 5", "write a number and its unit"),
            ("--idle-timeout soon", "write a number and its unit: 30s"),
            ("--max-frame big", "write a number, with a unit or not: 64KiB"),
            ("--max-connections 0", "a whole number from 1 to 18446744073709551615"),
            ("--max-per-source x", "a whole number from 1 to 18446744073709551615"),
            ("--workers 0", "a whole number from 1 to 1024"),
            ("--workers x", "a whole number from 1 to 1024"),
            ("--log xml", "<FORMAT>' [possible values"),
            ("completions", "were not provided: <SHELL>;"),
            ("--udp-rate 0", "a whole number from 1 to 4294967295"),
            ("--udp-rate many", "a whole number from 1 to 4294967295"),
            ("--udp-refuse-ports 9-1", "0-1023,5353"),
            ("--max-datagram 17MiB", "16 MiB"),
            ("--listne tcp://127.0.0.1:0", "'--listen'"),
            ("stray", "'stray'"),
        ] {
            let failure = parse(line).unwrap_err();
            assert_eq!(failure.code, USAGE);
            assert!(failure.message.contains(told), "{line}: {}", failure.message);
            assert_eq!(failure.line().lines().count(), 1);
        }
    }

    #[test]
    fn a_list_may_have_gaps() {
        assert_eq!(separated("unix:/a, unix:/b,,"), ["unix:/a", "unix:/b"]);
        assert_eq!(separated(" ,"), DEFAULT_LISTEN);
    }

    #[test]
    fn unknown_uri_options_are_refused() {
        let arguments = parse("--listen tcp://127.0.0.1:0?mode=raw&speed=5").unwrap();
        let failure = arguments.endpoints().unwrap_err();
        assert!(failure.code == USAGE && failure.message.contains("\"speed\""));
    }
}

//! The command line, which is stable: other programs use it.

mod connecting;
mod datagrams;
mod send;
mod transfer;

use std::num::NonZeroU64;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use echo_core::{Address, Endpoint, EndpointError, without_passwords};

pub(crate) use connecting::Connecting;
use datagrams::message_size;
pub(crate) use send::Sending;
pub(crate) use transfer::{Getting, Listing, Putting, Removing, own_name};

/// Talks to an echo server, and checks every byte that comes back.
///
/// On a terminal it reads lines and shows their replies: :help says what it can do. Else it is a
/// pipe: PRODUCER | echo-client HOST > COPY sends stdin and receives at the same time, ends its side
/// when stdin ends, and succeeds only if all came back, equal, before the server ended its side.
///
/// Datagrams (udp:, unixgram:) promise nothing: each may be lost, doubled, late or overtaken on its way.
/// That is counted and told, and none is sent twice. A reply that takes longer than --timeout is lost,
/// and its part of the copy is missing.
///
/// Exit status: 0 if all was answered and equal, or if whoever reads stdout has closed it; 1 if
/// something was lost, different, refused, unresolved, timed out or not sent, as one line on stderr says
/// (on a terminal, where defects are shown as they come, only if it never connected); 64 for a wrong
/// command line, or where the password is missing; 130 after Ctrl-C, 143 after SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "echo-client", version, disable_help_subcommand = true)]
#[command(override_usage = "echo-client [OPTIONS] [TARGET]
       echo-client [OPTIONS] <COMMAND>")]
pub(crate) struct Args {
    /// The server: HOST, HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or unix:@NAME; raw://HOST:PORT for
    /// any RFC 862 server; udp://HOST:PORT or unixgram:PATH for datagrams. ?mode=raw does without the
    /// first exchange on tcp: and unix: too, and has the pipe send plain datagrams, one at a time
    #[arg(default_value = "tcp://127.0.0.1:7777", value_parser = target)]
    pub(crate) target: Endpoint,

    #[command(flatten)]
    pub(crate) connecting: Connecting,

    /// Compare only: copy nothing, but say how many bytes came back, how fast, and their SHA-256
    #[arg(long)]
    pub(crate) verify: bool,

    /// With --verify, say it as a JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Cut stdin into datagrams of so many bytes at most, behind the 36 that number each [default:
    /// 1400, which passes any Ethernet whole]
    #[arg(long, value_name = "BYTES", value_parser = message_size)]
    pub(crate) message_size: Option<usize>,

    #[command(subcommand)]
    pub(crate) task: Option<Task>,
}

/// What to do instead of talking or piping. Words here would take the place of those at each one's own type.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    Send(Box<Sending>),
    Put(Box<Putting>),
    Get(Box<Getting>),
    Ls(Box<Listing>),
    Rm(Box<Removing>),
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

impl Args {
    /// Reads the command line. The error may be a wish for help or the version.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches()?;
        let mut args = Self::from_arg_matches(&matches)?;
        let wrong = |what| Self::command().error(ErrorKind::ValueValidation, what);
        args.settle(&matches).map_err(wrong)?;
        Ok(args)
    }

    /// How to connect, where anything does.
    pub(crate) fn connecting(&mut self) -> Option<(&mut Connecting, &Endpoint)> {
        Some(match &mut self.task {
            Some(Task::Send(it)) => (&mut it.connecting, &it.target),
            Some(Task::Put(it)) => (&mut it.transferring.asking.connecting, &it.target),
            Some(Task::Get(it)) => (&mut it.transferring.asking.connecting, &it.target),
            Some(Task::Ls(it)) => (&mut it.asking.connecting, &it.target),
            Some(Task::Rm(it)) => (&mut it.asking.connecting, &it.target),
            Some(Task::Completions { .. } | Task::Man { .. }) => return None,
            None => (&mut self.connecting, &self.target),
        })
    }

    /// Brings together what stands before a command and behind it, and judges whether all of it fits.
    fn settle(&mut self, matches: &ArgMatches) -> Result<(), String> {
        let given = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        if let Some(command) = matches.subcommand_name() {
            let stray = [("target", "a target"), ("verify", "--verify"), ("json", "--json")];
            let stray = stray.into_iter().chain([("message_size", "--message-size")]);
            if let Some((_, what)) = stray.into_iter().find(|(id, _)| given(id)) {
                return Err(format!("{what} cannot stand before {command}"));
            }
        }
        match &mut self.task {
            Some(Task::Send(sending)) => {
                sending.connecting.add(&self.connecting);
                sending.connecting.fits(&sending.target)?;
                sending.connecting.retries(&sending.target)?;
                sending.texts().map(drop)
            }
            Some(Task::Put(putting)) => {
                let asking = &mut putting.transferring.asking;
                asking.settle(&self.connecting, &putting.target)?;
                putting.check()
            }
            Some(Task::Get(getting)) => {
                let asking = &mut getting.transferring.asking;
                asking.settle(&self.connecting, &getting.target)?;
                getting.check()
            }
            Some(Task::Ls(listing)) => {
                listing.asking.settle(&self.connecting, &listing.target)?;
                listing.check()
            }
            Some(Task::Rm(removing)) => {
                removing.asking.settle(&self.connecting, &removing.target)?;
                removing.check()
            }
            Some(Task::Completions { .. } | Task::Man { .. }) => {
                match self.connecting == Connecting::default() {
                    true => Ok(()),
                    false => Err("options of connections are for what connects".to_owned()),
                }
            }
            None if self.json && !self.verify => Err("--json goes with --verify".to_owned()),
            None if self.message_size.is_some() && !self.target.address.is_datagram() => {
                Err("--message-size is for datagrams: leave it out".to_owned())
            }
            None => {
                self.connecting.fits(&self.target)?;
                self.connecting.retries(&self.target)
            }
        }
    }
}

/// A wrong command line in one line; clap writes a paragraph, an empty line, and its usage.
pub(crate) fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or(text);
    let words: Vec<_> = first.split_whitespace().collect();
    format!("{} (see echo-client --help)", without_passwords(&words.join(" ")))
}

/// Reads a target.
pub(crate) fn target(text: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::target(text).map_err(|error| match error {
        // The library's words fit listeners, which may take any port and any address.
        EndpointError::NoHost => "no host: write HOST, HOST:PORT or tcp://HOST:PORT".to_owned(),
        EndpointError::NoPort => "no port: write HOST:PORT".to_owned(),
        EndpointError::BadPort(port) => {
            format!("bad port {port:?}: write a number from 1 to 65535")
        }
        error => error.to_string(),
    })?;
    if endpoint.perm.is_some() {
        return Err("perm is for servers: leave it out".to_owned());
    }
    if endpoint.rate.is_some() {
        return Err("rate is for servers: leave it out".to_owned());
    }
    if matches!(endpoint.address, Address::Tcp { port: 0, .. } | Address::Udp { port: 0, .. }) {
        return Err("nobody listens on port 0: write a number from 1 to 65535".to_owned());
    }
    match endpoint.options.first() {
        Some((name, _)) => Err(format!("unknown option {name}: only mode is known")),
        None => Ok(endpoint),
    }
}

/// Reads how often something is done.
pub(crate) fn count(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(|_| format!("write a whole number from 1 to {}", u64::MAX))
}

/// Reads a duration above 0.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("nothing happens in no time: write more than 0".to_owned()),
        timeout => Ok(timeout),
    }
}

/// A number with its unit: `250ms`, `30s`, `5m`, `2h`. A bare number could mean any of them; only 0
/// needs none. `echo-server` has a parser of its own, for years and fractions: the crates under both
/// programs read no arguments.
fn duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "write a whole number with its unit: 250ms, 30s, 5m or 2h";
    const DAY: Duration = Duration::from_hours(24);
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(HINT.to_owned()),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HINT.to_owned());
    }
    let ms = digits.parse().ok().and_then(|count: u64| count.checked_mul(unit_ms));
    match ms.map(Duration::from_millis) {
        Some(duration) if duration <= DAY => Ok(duration),
        _ => Err("at most 24h".to_owned()),
    }
}

#[cfg(test)]
mod tests;

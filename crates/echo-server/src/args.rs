//! The command line, which is stable: other programs use it.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::exit::{Failure, USAGE};
use crate::settings::Settings;
use crate::{auth, logging, tls, units};

const NOTES: &str = "\
URIs: tcp://HOST:PORT (port 0 takes a free one, tcp://[::]:PORT takes IPv4 and IPv6), unix:PATH,
  unix:@NAME (abstract); for datagrams udp://HOST:PORT, unixgram:PATH; systemd:NAME (all that were
  passed as FileDescriptorName=NAME; any that was passed is adopted by its address); joined by &:
  ?mode=auto|framed|raw, ?perm=0660 (Unix paths), ?rate=COUNT (datagrams, instead of --udp-rate),
  ?auth=required (users of --users FILE alone, by password or, with --tls-client-ca, by certificate)
Units: us ms s m h d; B kB MB GB KiB MiB GiB
Settings: an option wins over its variable, as in ECHO_SERVER_DRAIN_TIMEOUT (ECHO_SERVER_LISTEN
  separates URIs by commas), that over its line in the file, as in drain-timeout = \"30s\"
Signals: the first SIGTERM or SIGINT drains, the second stops hard; SIGHUP, as `ctl reload`, reads
  the settings anew, of which all take effect or none
Exit codes: 0 clean, 3 the drain forced some connections, 64 usage, 69 cannot listen, 70 internal
  error, 74 a listener failed, 78 bad configuration, 130/143 stopped hard; of commands: 1 refused or
  no answer, 65 no good password, 66 no such file of a password, 73 a file cannot be made there,
  74 it could not be written, 78 bad configuration or file of users, 129/130/143 SIGHUP, Ctrl-C or
  SIGTERM where a password is asked for";

/// What the variables of settings begin with.
const PREFIX: &str = "ECHO_SERVER_";

/// An echo service over TCP, UDP and Unix sockets that loses nothing when it stops.
#[derive(Debug, Parser)]
#[command(name = "echo-server", version, after_help = NOTES, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) settings: Settings,

    /// Read settings from this TOML file [default: $CONFIGURATION_DIRECTORY/echo-server.toml, if any]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print the settings in force, and where each came from
    #[arg(long)]
    pub(crate) print_config: bool,

    #[command(subcommand)]
    pub(crate) task: Option<Task>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Check the settings against this host without starting: exit 0, or the reason
    Check,
    /// Ask the running server for something, through its control socket
    // Without a question it says what is missing, instead of the help's first line as an error.
    #[command(arg_required_else_help = false)]
    Ctl {
        #[command(subcommand)]
        question: Question,
    },
    /// Ask a server for an echo: exit 0 if it answers, 1 and the reason if not
    Healthcheck {
        /// HOST:PORT, raw://HOST:PORT or a URI [default: the first --listen]
        target: Option<String>,

        /// How long to wait for the answer
        #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::bound)]
        timeout: Duration,
    },
    /// Add, change, remove and list users, of whom a running server hears when it reloads
    User {
        #[command(subcommand)]
        task: auth::command::Task,
    },
    /// Make what `tls://` listeners show
    Tls {
        #[command(subcommand)]
        task: tls::self_signed::Task,
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

/// What a running server can be asked for.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Question {
    /// Read the settings anew: exit 0 when all of them are in force, 1 and the reason if none is
    Reload,
}

/// Those whose files are tested.
fn shells() -> impl TypedValueParser<Value = Shell> {
    PossibleValuesParser::new(["bash", "zsh", "fish"]).try_map(|name| name.parse())
}

impl Arguments {
    /// Reads a command line, with what the file has in place of defaults: values by the names of
    /// settings. The error may also be `--help` or `--version`.
    pub(crate) fn parse(
        argv: &[OsString],
        file: &[(&str, Vec<&str>)],
    ) -> Result<(Self, ArgMatches), clap::Error> {
        let matches = command_with(file).try_get_matches_from(argv)?;
        Ok((Self::from_arg_matches(&matches)?, matches))
    }
}

/// The parser, which help, manual page and completions are made of.
pub(crate) fn command() -> Command {
    command_with(&[])
}

/// The options that are settings, in the order of the help: those of [`Settings`].
pub(crate) fn settings() -> Vec<Arg> {
    let settings = <Settings as clap::Args>::augment_args(Command::new("settings"));
    settings.get_arguments().cloned().map(with_variable).collect()
}

/// Refuses variables that look like settings and are none, as misspelt ones.
pub(crate) fn refuse_unknown_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), Failure> {
    let command = Arguments::command();
    let known = command.get_arguments().filter(|arg| arg.get_id() != "print_config");
    let known: Vec<_> = known.filter_map(Arg::get_long).collect();
    for (variable, value) in variables {
        let Some(name) = variable.to_str().and_then(|it| it.strip_prefix(PREFIX)) else { continue };
        if value.is_empty() || is_service_link(name) || known.iter().any(|it| upper(it) == name) {
            continue;
        }
        let nearest = nearest(&name.replace('_', "-"), known.iter().copied()).map_or_else(
            || "see echo-server --help".to_owned(),
            |it| format!("the nearest known one is {PREFIX}{}", upper(it)),
        );
        return Err(Failure::new(USAGE, format!("unknown variable {PREFIX}{name}; {nearest}")));
    }
    Ok(())
}

/// What Kubernetes sets for a service that is called echo-server.
fn is_service_link(name: &str) -> bool {
    name == "PORT" || name.starts_with("PORT_") || name.starts_with("SERVICE_")
}

/// That of the `known` names which was meant by `name`, if one is so near.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let distance = |it: &str| strsim::osa_distance(it, &name);
    // One mistake in three letters is a misspelling, more are another word.
    known.min_by_key(|it| distance(it)).filter(|it| 3 * distance(it) <= it.len())
}

/// A wrong command line in one line.
pub(crate) fn usage(error: &clap::Error) -> Failure {
    let source = variable(error).map_or_else(String::new, |name| name + ": ");
    Failure::new(USAGE, source + &complaint(error) + "; see echo-server --help")
}

/// What the parser has to say, in one line.
pub(crate) fn complaint(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<_> = lines.filter(|line| !line.is_empty() && !line.contains("--help")).collect();
    // What clap puts on a line of its own, and belongs to the one before.
    told.join("; ").replace(":; ", ": ").replace("; [", " [")
}

/// Options may stand behind a command too. Only `check`, which is about them, has them in its help.
fn command_with(file: &[(&str, Vec<&str>)]) -> Command {
    let mut command = Arguments::command().mut_args(|arg| {
        let in_file = file.iter().find(|(name, _)| arg.get_long() == Some(name));
        let arg = match in_file {
            Some((_, values)) => arg.default_values(values.iter().map(|it| (*it).to_owned())),
            None => arg,
        };
        let arg = if arg.get_id() == "print_config" { arg } else { with_variable(arg) };
        arg.global(true)
    });
    command.build();
    command.mut_subcommands(|sub| if sub.get_name() == "check" { sub } else { hide_settings(sub) })
}

/// Leaves a command's help to its own options, and to the file or the running server that it is about.
fn hide_settings(command: Command) -> Command {
    let asks = match command.get_name() {
        "ctl" | "reload" => "control",
        "user" | "add" | "passwd" | "remove" | "list" => "users",
        _ => "",
    };
    let command = command.mut_args(|arg| {
        let hidden = arg.is_global_set() && arg.get_id() != "help";
        let hidden = hidden && arg.get_id() != asks;
        arg.hide(hidden)
    });
    command.mut_subcommands(hide_settings)
}

/// An option's name in that of its variable.
fn upper(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// Gives an option its variable. The help text names them once, not at every option.
fn with_variable(arg: Arg) -> Arg {
    let Some(name) = arg.get_long() else { return arg };
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut variable = format!("{PREFIX}{}", upper(name));
    if name == "log-level"
        && !is_set(&variable)
        && matches!(logging::from_environment(), Some(Ok(_)))
    {
        variable = logging::VARIABLE.to_owned();
    }
    // An empty one is as unset: compose files and units pass on variables that nobody has given a
    // value.
    let empty = env::var_os(&variable).is_some() && !is_set(&variable);
    if empty { arg } else { arg.env(variable).hide_env(true) }
}

/// A detail of what the parser has to say.
pub(crate) fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    }
}

/// The variable that holds the value which `error` complains about.
fn variable(error: &clap::Error) -> Option<String> {
    let wrong = context(error, ContextKind::InvalidArg)?;
    let value = context(error, ContextKind::InvalidValue)?;
    let command = command();
    let arg = command.get_arguments().find(|arg| arg.to_string() == wrong)?;
    let name = arg.get_env()?;
    (env::var_os(name)? == value).then(|| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments of a line, or what is wrong with it.
    fn parse(line: &str) -> Result<Arguments, Failure> {
        let words = ["echo-server"].into_iter().chain(line.split_whitespace());
        let argv: Vec<_> = words.map(OsString::from).collect();
        Arguments::parse(&argv, &[]).map(|it| it.0).map_err(|error| usage(&error))
    }

    #[test]
    fn the_parser_is_sound_and_every_setting_has_its_variable() {
        command().debug_assert();
        assert!(settings().len() > 15);
        for arg in settings() {
            let name = arg.get_long().unwrap();
            let variable = format!("ECHO_SERVER_{}", name.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
            assert!(arg.get_help().is_some(), "{name}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_refused() {
        let refused = |name: &str, value: &str| {
            let variables = [(OsString::from(name), OsString::from(value))];
            refuse_unknown_variables(variables.into_iter()).err()
        };
        for (name, value) in [
            ("ECHO_SERVER_MAX_FRAME", "1"),
            ("ECHO_SERVER_CONFIG", "x"),
            ("ECHO_SERVER_MAX_FRAM", ""),
            ("ECHO_SERVER_PORT", "tcp://10.0.0.1:7777"),
            ("ECHO_SERVER_PORT_7777_TCP_ADDR", "10.0.0.1"),
            ("ECHO_SERVER_SERVICE_HOST", "10.0.0.1"),
            ("ECHO_SERVERS", "x"),
        ] {
            assert!(refused(name, value).is_none(), "{name}");
        }
        for (name, told) in [
            ("ECHO_SERVER_MAX_FRAM", "the nearest known one is ECHO_SERVER_MAX_FRAME"),
            ("ECHO_SERVER_max_frame", "the nearest known one is ECHO_SERVER_MAX_FRAME"),
            ("ECHO_SERVER_COLOUR", "unknown variable ECHO_SERVER_COLOUR; see echo-server --help"),
            ("ECHO_SERVER_PRINT_CONFIG", "unknown variable ECHO_SERVER_PRINT_CONFIG; see"),
        ] {
            let failure = refused(name, "1").unwrap();
            assert!(failure.code == USAGE && failure.message.contains(told), "{failure}");
        }
    }

    #[test]
    fn settings_may_stand_behind_a_command() {
        let before = parse("--drain-delay 1s --listen unix:/a check").unwrap();
        let behind = parse("check --drain-delay 1s --listen unix:/a").unwrap();
        for arguments in [before, behind] {
            assert_eq!(arguments.settings.listen, ["unix:/a"]);
            assert_eq!(arguments.settings.drain_delay, Duration::from_secs(1));
            assert!(matches!(arguments.task, Some(Task::Check)));
        }
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
            ("--log-level inf", "no level"),
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
}

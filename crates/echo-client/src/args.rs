//! The command line, which is stable: other programs use it.

mod datagrams;
mod send;
mod transfer;

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use echo_core::client::{Family, Options};
use echo_core::{Address, Endpoint, EndpointError, Mode, tls, without_passwords};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use datagrams::{REPLY_TIMEOUT, message_size};
pub(crate) use send::Sending;
pub(crate) use transfer::{Getting, Listing, Putting, Removing, own_name};

use crate::login::{self, Identity, Shown, Unidentified};
use crate::stdio;
use crate::trust;

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

/// How to connect, which is the same for all that does. What is not given is left open, so that it may
/// stand before a command and behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Connecting {
    /// Connect to IPv4 addresses only
    #[arg(short = '4')]
    pub(crate) ipv4: bool,

    /// Connect to IPv6 addresses only
    #[arg(short = '6')]
    pub(crate) ipv6: bool,

    /// Connect from this address of this host
    #[arg(long, value_name = "ADDR", value_parser = ip)]
    pub(crate) source: Option<IpAddr>,

    /// How long one attempt to connect may take, over all addresses of the name [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub(crate) connect_timeout: Option<Duration>,

    /// How long the server may be silent while an answer is due [default: 30s], or the reply to a
    /// datagram may take [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub(crate) timeout: Option<Duration>,

    /// How long to keep trying to connect, at the start and after a loss [default: 30s in the
    /// REPL and for files, else 0, which is one try]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) retry: Option<Duration>,

    /// Trust tls:// servers for which one of these authorities (PEM) vouches, or which show one of these
    /// certificates themselves, if it is signed by itself and no authority's (CA:FALSE); no other can be
    /// trusted by itself [default: the authorities of this system]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Show this certificate to tls:// servers that ask, with those between it and its authority (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,

    /// The private key of --cert (PEM)
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// Believe any tls:// server, which proves nothing about who reads along: for tests
    #[arg(long)]
    pub(crate) insecure: bool,

    /// Authenticate as this user. The password comes from a file, else from $ECHO_PASSWORD (where it
    /// stays, for all to read who may read the environment), else from the terminal
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,

    /// Read the password of --user from this file; `-` is the first line of stdin, where nothing else is
    /// read from there
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,

    /// Say nothing on stderr but errors, and that --insecure believes anybody
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// The user, once the password is known.
    #[arg(skip)]
    identity: Option<Identity>,

    /// Whom to trust and what to show, once that is read.
    #[arg(skip)]
    trust: Option<Result<tls::Client, String>>,
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

impl Connecting {
    /// Takes over what is given elsewhere, unless it is given here too.
    fn add(&mut self, other: &Self) {
        self.ipv4 |= other.ipv4;
        self.ipv6 |= other.ipv6;
        self.source = self.source.or(other.source);
        self.connect_timeout = self.connect_timeout.or(other.connect_timeout);
        self.timeout = self.timeout.or(other.timeout);
        self.retry = self.retry.or(other.retry);
        self.ca = self.ca.take().or_else(|| other.ca.clone());
        self.cert = self.cert.take().or_else(|| other.cert.clone());
        self.key = self.key.take().or_else(|| other.key.clone());
        self.insecure |= other.insecure;
        self.user = self.user.take().or_else(|| other.user.clone());
        self.password_file = self.password_file.take().or_else(|| other.password_file.clone());
        self.quiet |= other.quiet;
    }

    /// Whether stdin brings the password.
    pub(crate) fn password_is_stdin(&self) -> bool {
        let is_stdin = |path: &PathBuf| path.as_os_str() == "-" || stdio::is_stdin(path);
        self.password_file.as_ref().is_some_and(is_stdin)
    }

    /// Reads whom to trust at that target, and gets the password of the user, if there is one. Here and once, as these
    /// files may be pipes: a signal still ends the wait for one, and nobody finds anything in it a second time.
    pub(crate) fn identify(&mut self, target: &Endpoint) -> Result<(), Unidentified> {
        login::show(match (&self.user, &self.cert) {
            (Some(_), _) => Shown::Password,
            (None, Some(_)) => Shown::Certificate,
            (None, None) => Shown::Nothing,
        });
        if self.user.is_some() || self.key.is_some() {
            // No core shows the secrets, and no other program of this user: PR_SET_DUMPABLE(2const).
            // Where that is forbidden they are as safe as limits make them.
            let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        }
        // Before the question for a password, after which no signal ends this process by itself.
        self.trust = target.tls.then(|| trust::client(self));
        if let Some(name) = &self.user {
            self.identity = Some(Identity::ask(name, self.password_file.as_deref())?);
        }
        Ok(())
    }

    /// What is wrong with this for that target.
    pub(crate) fn fits(&self, target: &Endpoint) -> Result<(), String> {
        self.trust_fits(target)?;
        match &self.user {
            Some(_) if target.address.is_datagram() => {
                return Err("datagrams cannot authenticate: leave out --user".to_owned());
            }
            Some(_) if target.mode == Some(Mode::Raw) => {
                return Err("a raw server knows no users: leave out --user".to_owned());
            }
            None if self.password_file.is_some() => {
                return Err("whose password? give --user NAME".to_owned());
            }
            _ => {}
        }
        let wanted = match (self.ipv4, self.ipv6) {
            (true, true) => return Err("-4 and -6 exclude each other: keep one".to_owned()),
            (true, false) => Some("IPv4"),
            (false, true) => Some("IPv6"),
            (false, false) => None,
        };
        let source = self.source.map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" });
        let host = match &target.address {
            Address::Tcp { host, .. } | Address::Udp { host, .. } => host,
            _ if wanted.or(source).is_some() => {
                return Err(
                    "-4, -6 and --source are for TCP and UDP targets: leave them out".to_owned()
                );
            }
            _ => return Ok(()),
        };
        if let (Some(wanted), Some(source)) = (wanted, source)
            && wanted != source
        {
            return Err(format!("--source is an {source} address, not {wanted} as asked for"));
        }
        // A name may have addresses of both families. No name holds a colon.
        let has = match host.parse::<Ipv4Addr>() {
            Ok(_) => "IPv4",
            Err(_) if host.contains(':') => "IPv6",
            Err(_) => return Ok(()),
        };
        match wanted.or(source).filter(|wanted| *wanted != has) {
            None => Ok(()),
            Some(wanted) => {
                let who = if self.source.is_some() { "--source" } else { "-4 or -6" };
                Err(format!("{host} is an {has} address, and {who} asks for {wanted}"))
            }
        }
    }

    fn trust_fits(&self, target: &Endpoint) -> Result<(), String> {
        let Self { ca, cert, key, insecure, .. } = self;
        let given = ca.is_some() || cert.is_some() || key.is_some() || *insecure;
        match (cert, key) {
            (Some(_), None) => Err("--cert takes its --key"),
            (None, Some(_)) => Err("--key takes its --cert"),
            _ if *insecure && ca.is_some() => {
                Err("--ca and --insecure exclude each other: keep one")
            }
            _ if given && !target.tls => Err(
                "--ca, --cert, --key and --insecure are for tls:// targets: write tls://HOST:PORT",
            ),
            _ => Ok(()),
        }
        .map_err(str::to_owned)
    }

    /// Whether there is anything to try again.
    fn retries(&self, target: &Endpoint) -> Result<(), String> {
        match self.retry {
            Some(_) if target.address.is_datagram() => {
                Err("--retry is for connections, and datagrams have none: leave it out".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The same for the library; `retry` is what counts where the user says nothing.
    ///
    /// # Errors
    /// What is wrong with the files that say whom to trust, or what to show.
    pub(crate) fn options(&self, target: &Endpoint, retry: Duration) -> Result<Options, String> {
        let default = Options::default();
        let timeout = if target.address.is_datagram() { REPLY_TIMEOUT } else { default.timeout };
        if target.tls && self.insecure {
            crate::say(&format!(
                "INSECURE: whoever answers as {} is believed, and may read and change all that is sent",
                target.to_target()
            ));
        }
        let tls = match &self.trust {
            _ if !target.tls => None,
            Some(read) => Some(read.clone()?),
            // The first target was none of TLS: no files were given.
            None => Some(trust::client(self)?),
        };
        Ok(Options {
            tls,
            family: match (self.ipv4, self.ipv6) {
                (true, _) => Family::V4,
                (_, true) => Family::V6,
                _ => Family::Any,
            },
            source: self.source,
            connect_timeout: self.connect_timeout.unwrap_or(default.connect_timeout),
            timeout: self.timeout.unwrap_or(timeout),
            retry: self.retry.unwrap_or(retry),
            login: self.identity.as_ref().map(Identity::login),
            ..default
        })
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

/// Reads an address of this host.
fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "write an IPv4 or IPv6 address: 192.0.2.1 or 2001:db8::1".to_owned())
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

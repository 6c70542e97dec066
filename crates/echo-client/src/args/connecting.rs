//! How to connect.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use echo_core::client::{Family, Options};
use echo_core::{Address, Endpoint, Mode, tls};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::datagrams::REPLY_TIMEOUT;
use super::{duration, timeout};
use crate::login::{self, Identity, Shown, Unidentified};
use crate::trust;

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

impl Connecting {
    /// Takes over what is given elsewhere, unless it is given here too.
    pub(super) fn add(&mut self, other: &Self) {
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
        self.password_file.as_deref().is_some_and(login::is_stdin)
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
    pub(super) fn retries(&self, target: &Endpoint) -> Result<(), String> {
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

/// Reads an address of this host.
fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "write an IPv4 or IPv6 address: 192.0.2.1 or 2001:db8::1".to_owned())
}

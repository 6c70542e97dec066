//! What can be set. Each setting is written here once: the same definition reads its option, its
//! variable and its key in the file, and describes it in the help and in the example file.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use echo_core::{Endpoint, Limits, PortRanges};

use crate::auth::Users;
use crate::exit::Failure;
use crate::files::{self, Bounds, Rules};
use crate::logging::{self, Format};
use crate::{admin, open_files, secrecy, units};

/// What is asked for when nothing else is.
pub(crate) const DEFAULT_LISTEN: [&str; 2] = ["tcp://127.0.0.1:7777", "udp://127.0.0.1:7777"];

/// The longest greeting.
const MAX_GREETING: usize = 1024;

/// What becomes of connections for which there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AtLimit {
    Queue,
    Refuse,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Settings {
    /// Where to listen; repeatable. Sockets that a service manager passes replace the default
    #[arg(long, value_name = "URI")]
    #[arg(default_values = DEFAULT_LISTEN)]
    pub(crate) listen: Vec<String>,

    /// Where to answer /metrics, /healthz and /readyz: HOST:PORT or unix:PATH [default: nowhere]
    #[arg(long, value_name = "ADDR", value_parser = admin::endpoint)]
    pub(crate) admin: Option<Endpoint>,

    /// How long open connections have to end after the first SIGTERM or SIGINT
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = units::duration)]
    pub(crate) drain_timeout: Duration,

    /// How long to go on as before between that signal and the drain
    #[arg(long, value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = units::duration)]
    pub(crate) drain_delay: Duration,

    /// Connections open at once [default: 10000, fewer where RLIMIT_NOFILE - 64 is below]
    #[arg(long, value_name = "COUNT")]
    #[arg(value_parser = units::count::<NonZeroUsize>)]
    max_connections: Option<NonZeroUsize>,

    /// What becomes of connections beyond that: they wait in the kernel's queue (queue), or are closed, with
    /// ERROR busy for who has sent HELLO or PROBE (refuse)
    #[arg(long, value_name = "WHAT", default_value = "queue", hide_possible_values = true)]
    at_limit: AtLimit,

    /// Connections open at once from one IPv4 address or IPv6 /64 [default: 1000, loopback exempt]
    #[arg(long, value_name = "COUNT")]
    #[arg(value_parser = units::count::<NonZeroUsize>)]
    max_per_source: Option<NonZeroUsize>,

    /// The longest payload of a frame, up to 16 MiB - 1
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    #[arg(value_parser = units::frame_len)]
    max_frame: u32,

    /// How long a connection may stay silent between frames
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    #[arg(value_parser = units::bound)]
    idle_timeout: Duration,

    /// How long a frame may take to arrive, plus its bytes at the minimum rate
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = units::bound)]
    frame_timeout: Duration,

    /// How long a peer may take to read, plus the unread bytes at the minimum rate
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = units::bound)]
    write_timeout: Duration,

    /// The slowest transfer that is not a stall, in bytes a second
    #[arg(long, value_name = "RATE", default_value = "1KiB/s")]
    #[arg(value_parser = units::rate)]
    min_rate: NonZeroU32,

    /// Datagrams a second from one IPv4 address or IPv6 /64, and as many at once
    #[arg(long, value_name = "COUNT", default_value = "10000")]
    #[arg(value_parser = units::count::<NonZeroU32>)]
    udp_rate: NonZeroU32,

    /// Source ports of UDP that are not answered: ports and ranges, joined by commas
    #[arg(long, value_name = "PORTS")]
    #[arg(default_value = "0-1023")]
    udp_refuse_ports: PortRanges,

    /// The longest Unix datagram that is answered, up to 16 MiB
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    #[arg(value_parser = units::datagram_len)]
    max_datagram: u32,

    /// How long a closed connection is still read, so that its peer gets the last replies
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = units::bound)]
    linger: Duration,

    /// A line that listeners with mode=raw send first, and part of the answer to HELLO
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    #[arg(value_parser = greeting)]
    pub(crate) greeting: String,

    /// The certificate of tls:// listeners, with those between it and its authority (PEM). With it, listeners
    /// with mode=auto take TLS too, where a connection begins with a handshake
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Its private key (PEM), read again with it at each reload
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Whoever comes by TLS must show a certificate that one of these authorities (PEM) vouches for, and where
    /// auth=required may; its common name is the user's [default: nobody is asked for one]
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_client_ca: Option<PathBuf>,

    /// Store clients' files in this folder, and let them fetch those that are there [default: no files]
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,

    /// Let everybody store and remove files, and not only users
    #[arg(long)]
    anonymous_put: bool,

    /// Bytes of files that the store holds at most, unfinished uploads among them
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = units::size)]
    files_bytes: u64,

    /// Files that the store holds at most, folders on the way to them and unfinished uploads among them
    #[arg(long, value_name = "COUNT", default_value = "1000000")]
    #[arg(value_parser = units::count::<NonZeroU64>)]
    files_count: NonZeroU64,

    /// Uploads and downloads open at once
    #[arg(long, value_name = "COUNT", default_value = "256")]
    #[arg(value_parser = units::count::<NonZeroU64>)]
    files_transfers: NonZeroU64,

    /// Bytes of files that are one user's at most; all who have not authenticated are one
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = units::size)]
    files_user_bytes: u64,

    /// Files that are one user's at most, folders and unfinished uploads among them
    #[arg(long, value_name = "COUNT", default_value = "1000000")]
    #[arg(value_parser = units::count::<NonZeroU64>)]
    files_user_count: NonZeroU64,

    /// Uploads and downloads of one user open at once
    #[arg(long, value_name = "COUNT", default_value = "128")]
    #[arg(value_parser = units::count::<NonZeroU64>)]
    files_user_transfers: NonZeroU64,

    /// Let the users of this file authenticate, which `echo-server user` keeps [default: no users]
    #[arg(long, value_name = "FILE")]
    pub(crate) users: Option<PathBuf>,

    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "COUNT")]
    #[arg(value_parser = workers)]
    pub(super) workers: Option<u16>,

    /// A socket for `ctl` [default: $RUNTIME_DIRECTORY/control.sock, if that is set]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// How logs look: text or json on stderr, journald; auto takes journald where stderr is the journal
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    #[arg(hide_possible_values = true)]
    pub(crate) log: Format,

    /// How much is logged: error, warn, info, debug or trace; or directives as in RUST_LOG
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = logging::level)]
    pub(crate) log_level: String,

    /// Log one line for each connection when it has ended
    #[arg(long)]
    pub(crate) access_log: bool,
}

impl Settings {
    /// Worker threads: as asked for, or one for each core that this process may use.
    pub(crate) fn workers(&self) -> NonZeroUsize {
        let wanted = self.workers.and_then(|wanted| NonZeroUsize::new(wanted.into()));
        wanted.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }

    /// What holds for files.
    pub(crate) fn rules(&self) -> Rules {
        Rules {
            anonymous_put: self.anonymous_put,
            total: Bounds {
                bytes: self.files_bytes,
                files: self.files_count.get(),
                transfers: self.files_transfers.get(),
            },
            each: Bounds {
                bytes: self.files_user_bytes,
                files: self.files_user_count.get(),
                transfers: self.files_user_transfers.get(),
            },
        }
    }

    /// Descriptors for files that clients have open, where there is a store.
    fn stored_at_once(&self) -> u64 {
        if self.files.is_none() { 0 } else { files::descriptors(self.files_transfers.get()) }
    }

    /// The limits, fitted to the number of files that may be open.
    pub(crate) fn limits(&self, open_files: Option<u64>) -> Result<Limits, Failure> {
        let default = Limits::default();
        Ok(Limits {
            drain_timeout: self.drain_timeout,
            max_connections: open_files::fit(
                self.max_connections,
                default.max_connections,
                self.stored_at_once(),
                open_files,
            )?,
            refuse: self.at_limit == AtLimit::Refuse,
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

impl Settings {
    /// The users, if there are any.
    pub(crate) fn users(&self) -> Result<Option<Users>, Failure> {
        let Some(path) = self.users.as_deref() else { return Ok(None) };
        secrecy::protect();
        Users::read(path).map(Some)
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
    use crate::args::Arguments;

    fn settings(line: &str) -> Settings {
        let words = ["echo-server"].into_iter().chain(line.split_whitespace());
        let argv: Vec<_> = words.map(Into::into).collect();
        Arguments::parse(&argv, &[]).unwrap().0.settings
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let settings = settings("");
        assert_eq!(settings.limits(None).unwrap(), Limits::default());
        assert_eq!(settings.listen, DEFAULT_LISTEN);
        assert_eq!(settings.drain_timeout, Duration::from_secs(30));
    }

    #[test]
    fn settings_reach_the_limits() {
        let settings = settings(
            "--max-connections 7 --at-limit refuse --max-per-source 3 --max-frame 64KiB --idle-timeout 1h \
             --frame-timeout 1s --write-timeout 2s --min-rate 10kB/s --linger 250ms \
             --udp-rate 5 --udp-refuse-ports 53,123 --max-datagram 1MiB",
        );
        let number = |n| NonZeroUsize::new(n).unwrap();
        let expected = Limits {
            drain_timeout: Limits::default().drain_timeout,
            max_connections: number(7),
            refuse: true,
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
        assert_eq!(settings.limits(None).unwrap(), expected);
    }
}

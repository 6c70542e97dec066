//! Where to listen or to connect, and how to speak there, written as one URI.

mod syntax;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::listener::LocalAddr;

/// The port of this project's servers, where none is written.
pub const DEFAULT_PORT: u16 = 7777;

/// A message in which an address stands as somebody has written it, without a password that may be in it
/// (`USER:PASSWORD@HOST`): no endpoint has one, and no message shall show it.
pub fn without_passwords(message: &str) -> String {
    let is_between = |c: char| c.is_whitespace() || matches!(c, '\'' | '"');
    let hide = |word: &str| {
        let (before, after) = word.rsplit_once('@')?;
        let user = before.find("://").map_or(0, |at| at + 3);
        let password = user + before[user..].find(':')? + 1;
        // `unix:@NAME` has none.
        (password < before.len()).then(|| format!("{}…@{after}", &before[..password]))
    };
    let words = message.split_inclusive(is_between);
    words.map(|word| hide(word).unwrap_or_else(|| word.to_owned())).collect()
}

/// An address, the mode spoken there, and options.
///
/// Written `tcp://HOST:PORT`, `tls://HOST:PORT` (TCP under TLS), `unix:PATH` or `unix:@NAME` (an abstract name), for datagrams
/// `udp://HOST:PORT` or `unixgram:PATH`, or `systemd:NAME` (what the service manager hands over), with `?mode=auto|framed|raw`, `?perm=0660` (Unix paths
/// only), `?rate=10000` (datagrams only) and options of the caller's own, joined by `&`. Bytes that
/// have a meaning, and blanks, are percent-encoded; an IPv6 address stands in brackets and may carry
/// a scope: `tcp://[fe80::1%25eth0]:7777`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// Whether connections are under TLS from their first byte (`tls://`).
    pub tls: bool,
    /// How connections are spoken to, if that was written.
    pub mode: Option<Mode>,
    /// The permissions of a Unix path, if they were written.
    pub perm: Option<u32>,
    /// How many datagrams a second each source may send, if that was written.
    pub rate: Option<NonZeroU32>,
    /// Options that this crate does not know, in the order written. The caller judges them.
    pub options: Vec<(String, String)>,
}

impl Endpoint {
    /// Parses what a user gives a client: a URI, or `HOST` or `HOST:PORT` (TCP, port
    /// [`DEFAULT_PORT`]), or `raw://HOST:PORT` (any RFC 862 server over TCP).
    pub fn target(text: &str) -> Result<Self, EndpointError> {
        syntax::target(text)
    }

    /// What [`target`](Self::target) reads, for people: `raw://HOST:PORT` where it is that.
    pub fn to_target(&self) -> String {
        match (&self.address, self.mode) {
            (Address::Tcp { .. }, Some(Mode::Raw)) if !self.tls => {
                let plain = Self { mode: None, ..self.clone() };
                plain.to_string().replacen("tcp:", "raw:", 1)
            }
            _ => self.to_string(),
        }
    }

    /// The URI `given`, which was bound as `bound`, for people and programs that want to connect:
    /// as it was written, but the host numeric where a name was written and the real port where 0
    /// was.
    pub fn with_bound(given: &str, bound: &LocalAddr) -> String {
        let Ok(Self { address, .. }) = given.parse() else { return given.to_owned() };
        let (Some((host, port)), LocalAddr::Tcp(bound) | LocalAddr::Udp(bound)) =
            (address.host_port(), bound)
        else {
            return given.to_owned();
        };
        let ip = if numeric(host).is_some() { host.to_owned() } else { bound.ip().to_string() };
        let port = if port == 0 { bound.port() } else { port };
        let (scheme, rest) = given.split_once("//").unwrap_or(("tcp:", given));
        let query = rest.find('?').map_or("", |start| &rest[start..]);
        format!("{scheme}//{}:{port}{query}", syntax::Host(&ip))
    }

    /// The addresses of a TCP or UDP endpoint, in the resolver's order and each once.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let Some((host, port)) = self.address.host_port() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{self} has no host to resolve"),
            ));
        };
        if let Some((ip, scope)) = numeric(host) {
            return Ok(vec![match (ip, scope) {
                (IpAddr::V6(ip), Some(scope)) => {
                    SocketAddrV6::new(ip, port, 0, scope_id(scope)?).into()
                }
                (ip, _) => SocketAddr::new(ip, port),
            }]);
        }
        let unresolved = |kind, error: &dyn fmt::Display| {
            io::Error::new(kind, format!("{host:?} does not resolve: {error}"))
        };
        let mut seen = HashSet::new();
        let addrs: Vec<_> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| unresolved(error.kind(), &error))?
            .filter(|addr| seen.insert(*addr))
            .collect();
        if addrs.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound, &"the name has no address"));
        }
        Ok(addrs)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        syntax::uri(text)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        syntax::write(self, f)
    }
}

/// An address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// TCP.
    Tcp {
        /// A name, or an IP address without brackets, with its scope as in `fe80::1%eth0`.
        host: String,
        /// 0 stands for any free port.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(UnixName),
    /// UDP.
    Udp {
        /// As in [`Tcp`](Self::Tcp).
        host: String,
        /// 0 stands for any free port.
        port: u16,
    },
    /// A Unix datagram socket.
    Unixgram(UnixName),
    /// Sockets of any kind that the service manager hands over under a name (`FileDescriptorName=`).
    Systemd(String),
}

impl Address {
    /// Whether datagrams are spoken there, not streams.
    pub fn is_datagram(&self) -> bool {
        matches!(self, Self::Udp { .. } | Self::Unixgram(_))
    }

    /// The host and port of an IP address.
    fn host_port(&self) -> Option<(&str, u16)> {
        match self {
            Self::Tcp { host, port } | Self::Udp { host, port } => Some((host, *port)),
            Self::Unix(_) | Self::Unixgram(_) | Self::Systemd(_) => None,
        }
    }
}

/// The name of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixName {
    /// A path.
    Path(PathBuf),
    /// A name of Linux's abstract namespace, without the zero byte in front.
    Abstract(Vec<u8>),
}

impl UnixName {
    /// The bytes of the path or the abstract name.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Path(path) => path.as_os_str().as_bytes(),
            Self::Abstract(name) => name,
        }
    }
}

/// The path, or `@` and the abstract name with its unprintable bytes escaped.
impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
        }
    }
}

/// How a connection is spoken to. For datagrams, which have an end of their own, `Framed` is the same as
/// `Auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// What the first bytes look like decides.
    #[default]
    Auto,
    /// Frames.
    Framed,
    /// Every byte comes back (RFC 862).
    Raw,
}

impl FromStr for Mode {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        match text {
            "auto" => Ok(Self::Auto),
            "framed" => Ok(Self::Framed),
            "raw" => Ok(Self::Raw),
            _ => Err(EndpointError::BadMode(text.to_owned())),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Framed => "framed",
            Self::Raw => "raw",
        })
    }
}

/// What is wrong with the text of an endpoint, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Nothing says what kind of address it is.
    #[error(
        "no scheme: write tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, unix:PATH or unixgram:PATH"
    )]
    NoScheme,
    /// A host right after the colon.
    #[error("no slashes before the host: write tcp://HOST:PORT or udp://HOST:PORT")]
    NoSlashes,
    /// A scheme that means nothing here.
    #[error(
        "unknown scheme {0:?}: write tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, unix:PATH or unixgram:PATH"
    )]
    UnknownScheme(String),
    /// A scheme that is known, but that this version does not serve.
    #[error("{0}: has no place here: write tcp://HOST:PORT or unix:PATH")]
    Unserved(String),
    /// A blank or a control character.
    #[error("a blank or control character: write it percent-encoded, a space as %20")]
    Blank,
    /// No host where one belongs.
    #[error("no host: write tcp://HOST:PORT, or tcp://[::]:PORT for every address")]
    NoHost,
    /// A host that is neither a name nor an IP address.
    #[error("bad host {0:?}: write a name, an IPv4 address, or an IPv6 address in brackets")]
    BadHost(String),
    /// No port where one belongs.
    #[error("no port: write HOST:PORT, port 0 for any free one")]
    NoPort,
    /// A port that is not one.
    #[error("bad port {0:?}: write a number from 0 to 65535")]
    BadPort(String),
    /// A user name before the host.
    #[error("a user name has no place in an address: write HOST:PORT without it")]
    UserInfo,
    /// A path where a host belongs.
    #[error("a path has no place after a host: write HOST:PORT, or unix:PATH")]
    TcpPath,
    /// A host where the path of a Unix socket belongs.
    #[error("unix: has no host: write unix:PATH, or unix:///PATH for an absolute path")]
    UnixHost,
    /// An empty path or abstract name.
    #[error("no path: write unix:PATH or unix:@NAME")]
    NoPath,
    /// A path or name that does not fit into a socket address.
    #[error("a Unix path or name of {0} bytes: at most 107 fit into a socket address")]
    PathTooLong(usize),
    /// A path that no file system knows.
    #[error("a zero byte in a Unix path: only abstract names (unix:@NAME) may hold one")]
    ZeroInPath,
    /// A percent sign without two hexadecimal digits.
    #[error("bad percent-encoding: write % and two hexadecimal digits, a percent sign as %25")]
    BadPercent,
    /// An option that has no name or is not text.
    #[error("bad option {0:?}: write ?NAME=VALUE, joined by &")]
    BadOption(String),
    /// An option that was given twice.
    #[error("{0} is given twice: keep one")]
    Repeated(&'static str),
    /// A mode that is not one.
    #[error("bad mode {0:?}: write auto, framed or raw")]
    BadMode(String),
    /// A name that no socket of the service manager has.
    #[error("bad name {0:?}: write systemd:NAME, the FileDescriptorName= of a socket unit")]
    BadName(String),
    /// Permissions that are none.
    #[error("bad perm {0:?}: write octal permissions such as 0660")]
    BadPerm(String),
    /// Permissions of something that has none.
    #[error("perm belongs to Unix paths only: leave it out")]
    PermWithoutPath,
    /// A rate that is not one.
    #[error("bad rate {0:?}: write a number of datagrams per second, from 1 to 4294967295")]
    BadRate(String),
    /// A rate of something that is not datagrams.
    #[error("rate belongs to udp:// and unixgram: only: leave it out")]
    RateWithoutDatagrams,
}

/// The IP address that `host` writes, with the text of its scope.
fn numeric(host: &str) -> Option<(IpAddr, Option<&str>)> {
    match host.split_once('%') {
        Some((ip, scope)) => Some((ip.parse::<Ipv6Addr>().ok()?.into(), Some(scope))),
        None => Some((host.parse().ok()?, None)),
    }
}

/// The index of the network interface `scope`: a number, or a name.
fn scope_id(scope: &str) -> io::Result<u32> {
    if let Ok(index) = scope.parse() {
        return Ok(index);
    }
    // The kernel answers on any socket.
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET6,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    rustix::net::netdevice::name_to_index(socket, scope).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("no network interface {scope:?}: {error}"))
    })
}

//! The text of an endpoint: parsed and written.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStringExt;

use super::{Address, DEFAULT_PORT, Endpoint, EndpointError, Mode, UnixName, numeric};

/// What `sun_path` holds beside the zero byte at the end of a path or in front of a name.
const MAX_UNIX_LEN: usize = 107;

/// Parses a URI.
pub(super) fn uri(text: &str) -> Result<Endpoint, EndpointError> {
    refuse_blanks(text)?;
    let (scheme, rest) = split_scheme(text).ok_or(EndpointError::NoScheme)?;
    match scheme.to_ascii_lowercase().as_str() {
        "tcp" => tcp(after_slashes(rest)?, None),
        "tls" => Ok(Endpoint { tls: true, ..tcp(after_slashes(rest)?, None)? }),
        "udp" => internet(after_slashes(rest)?, None, |host, port| Address::Udp { host, port }),
        "unix" => unix(rest, Address::Unix),
        "unixgram" => unix(rest, Address::Unixgram),
        "systemd" => systemd(rest),
        _ => Err(EndpointError::UnknownScheme(scheme.to_owned())),
    }
}

/// Parses a URI or one of the short forms that a client takes.
pub(super) fn target(text: &str) -> Result<Endpoint, EndpointError> {
    refuse_blanks(text)?;
    if let Some((scheme, rest)) = split_scheme(text) {
        let is = |name: &str| scheme.eq_ignore_ascii_case(name);
        match rest.strip_prefix("//") {
            Some(rest) if is("raw") => {
                let endpoint = tcp(rest, None)?;
                return match endpoint.mode {
                    None => Ok(Endpoint { mode: Some(Mode::Raw), ..endpoint }),
                    Some(_) => Err(EndpointError::Repeated("the mode")),
                };
            }
            // None is handed to a client.
            _ if is("systemd") => {
                return Err(EndpointError::Unserved(scheme.to_ascii_lowercase()));
            }
            // Without slashes only these are schemes: `tls:443` may be a host and its port.
            rest if rest.is_some() || ["unix", "unixgram"].into_iter().any(is) => {
                return uri(text);
            }
            _ => {}
        }
    }
    tcp(text, Some(DEFAULT_PORT))
}

/// Writes the URI.
pub(super) fn write(endpoint: &Endpoint, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match &endpoint.address {
        Address::Tcp { host, port } => {
            let scheme = if endpoint.tls { "tls" } else { "tcp" };
            write!(f, "{scheme}://{}:{port}", Host(host))?;
        }
        Address::Udp { host, port } => write!(f, "udp://{}:{port}", Host(host))?,
        Address::Unix(name) => write!(f, "unix:{}", Name(name))?,
        Address::Unixgram(name) => write!(f, "unixgram:{}", Name(name))?,
        Address::Systemd(name) => write!(f, "systemd:{}", Encoded(name.as_bytes()))?,
    }
    let mut separator = '?';
    let mut option = |f: &mut fmt::Formatter<'_>, name: &str, value: &str| {
        f.write_char(separator)?;
        separator = '&';
        write!(f, "{}={}", Encoded(name.as_bytes()), Encoded(value.as_bytes()))
    };
    if let Some(mode) = endpoint.mode {
        option(f, "mode", &mode.to_string())?;
    }
    if let Some(perm) = endpoint.perm {
        option(f, "perm", &format!("{perm:04o}"))?;
    }
    if let Some(rate) = endpoint.rate {
        option(f, "rate", &rate.to_string())?;
    }
    for (name, value) in &endpoint.options {
        option(f, name, value)?;
    }
    Ok(())
}

/// A host as it stands before `:PORT`.
pub(super) struct Host<'a>(pub(super) &'a str);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once('%') {
            Some((ip, scope)) => write!(f, "[{ip}%25{scope}]"),
            None if self.0.contains(':') => write!(f, "[{}]", self.0),
            None => f.write_str(self.0),
        }
    }
}

/// A Unix name as it stands after the scheme.
struct Name<'a>(&'a UnixName);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.0.as_bytes()) {
            (UnixName::Abstract(_), name) => write!(f, "@{}", Encoded(name)),
            // Would be an abstract name.
            (UnixName::Path(_), [b'@', rest @ ..]) => write!(f, "%40{}", Encoded(rest)),
            // Would be a host.
            (UnixName::Path(_), [b'/', b'/', rest @ ..]) => write!(f, "/%2F{}", Encoded(rest)),
            (UnixName::Path(_), path) => Encoded(path).fmt(f),
        }
    }
}

/// Bytes, percent-encoded where they are not plain or mean something.
struct Encoded<'a>(&'a [u8]);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            if byte.is_ascii_alphanumeric() || b"-._~/:@,".contains(&byte) {
                f.write_char(byte.into())?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// The daemon repeats a URI on a line of its own, where a blank would break it.
fn refuse_blanks(text: &str) -> Result<(), EndpointError> {
    match text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => Err(EndpointError::Blank),
        false => Ok(()),
    }
}

fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(plain))
        .then_some((scheme, rest))
}

fn after_slashes(rest: &str) -> Result<&str, EndpointError> {
    rest.strip_prefix("//").ok_or(EndpointError::NoSlashes)
}

fn tcp(text: &str, default_port: Option<u16>) -> Result<Endpoint, EndpointError> {
    internet(text, default_port, |host, port| Address::Tcp { host, port })
}

/// `HOST:PORT?OPTIONS`; the port may be missing where there is a `default_port`.
fn internet(
    text: &str,
    default_port: Option<u16>,
    address: impl FnOnce(String, u16) -> Address,
) -> Result<Endpoint, EndpointError> {
    let (authority, query) = split_query(text);
    if authority.contains('/') {
        return Err(EndpointError::TcpPath);
    }
    if authority.contains('@') {
        return Err(EndpointError::UserInfo);
    }
    let (host, port) = split_port(authority, default_port.is_some())?;
    let port = match port {
        Some(port) => parse_port(port)?,
        None => default_port.ok_or(EndpointError::NoPort)?,
    };
    let endpoint = with_options(address(host, port), query)?;
    if endpoint.perm.is_some() {
        return Err(EndpointError::PermWithoutPath);
    }
    Ok(endpoint)
}

/// `PATH?OPTIONS` or `@NAME?OPTIONS`.
fn unix(text: &str, address: impl FnOnce(UnixName) -> Address) -> Result<Endpoint, EndpointError> {
    let (name, query) = split_query(text);
    if name.starts_with("//") && !name.starts_with("///") {
        return Err(EndpointError::UnixHost);
    }
    let name = match name.strip_prefix('@') {
        Some(name) => UnixName::Abstract(decode(name)?),
        None => UnixName::Path(OsString::from_vec(decode(name)?).into()),
    };
    match name.as_bytes().len() {
        0 => return Err(EndpointError::NoPath),
        len if len > MAX_UNIX_LEN => return Err(EndpointError::PathTooLong(len)),
        _ => {}
    }
    let is_path = matches!(name, UnixName::Path(_));
    if is_path && name.as_bytes().contains(&0) {
        return Err(EndpointError::ZeroInPath);
    }
    let endpoint = with_options(address(name), query)?;
    if endpoint.perm.is_some() && !is_path {
        return Err(EndpointError::PermWithoutPath);
    }
    Ok(endpoint)
}

/// `NAME?OPTIONS`; a name is what systemd.socket(5) allows.
fn systemd(text: &str) -> Result<Endpoint, EndpointError> {
    let (name, query) = split_query(text);
    let bad = || EndpointError::BadName(name.to_owned());
    let plain = |name: &str| {
        (1..=255).contains(&name.len()) && !name.contains(|c: char| c == ':' || c.is_control())
    };
    let decoded = String::from_utf8(decode(name)?).ok().filter(|name| plain(name));
    let endpoint = with_options(Address::Systemd(decoded.ok_or_else(bad)?), query)?;
    if endpoint.perm.is_some() {
        return Err(EndpointError::PermWithoutPath);
    }
    Ok(endpoint)
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (text, None),
    }
}

/// The host, and the text of the port if there is one. `short` also takes an IPv6 address without
/// brackets, which leaves no room for a port.
fn split_port(text: &str, short: bool) -> Result<(String, Option<&str>), EndpointError> {
    let bad = || EndpointError::BadHost(text.to_owned());
    if let Some(text) = text.strip_prefix('[') {
        let (ip, after) = text.split_once(']').ok_or_else(bad)?;
        let port = match after.strip_prefix(':') {
            None if !after.is_empty() => return Err(bad()),
            port => port,
        };
        return Ok((ipv6(ip).ok_or_else(bad)?, port));
    }
    if short && let Some(host) = ipv6(text) {
        return Ok((host, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if host.is_empty() {
        return Err(EndpointError::NoHost);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !host.chars().all(plain) {
        return Err(bad());
    }
    Ok((host.to_owned(), port))
}

/// An IPv6 address with an optional scope, whose percent sign may itself be percent-encoded.
fn ipv6(text: &str) -> Option<String> {
    let (ip, scope) = match text.split_once('%') {
        Some((ip, scope)) => {
            (ip, Some(scope.strip_prefix("25").filter(|scope| !scope.is_empty()).unwrap_or(scope)))
        }
        None => (text, None),
    };
    ip.parse::<Ipv6Addr>().ok()?;
    match scope {
        None => Some(ip.to_owned()),
        Some(scope) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            let host = format!("{ip}%{scope}");
            (!scope.is_empty() && scope.chars().all(plain) && numeric(&host).is_some())
                .then_some(host)
        }
    }
}

fn parse_port(text: &str) -> Result<u16, EndpointError> {
    if text.is_empty() {
        return Err(EndpointError::NoPort);
    }
    // `parse` alone would take a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|_| digits);
    port.ok_or_else(|| EndpointError::BadPort(text.to_owned()))
}

fn parse_perm(text: &str) -> Result<u32, EndpointError> {
    let octal = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    let perm = u32::from_str_radix(text, 8).ok().filter(|&perm| octal && perm <= 0o777);
    perm.ok_or_else(|| EndpointError::BadPerm(text.to_owned()))
}

fn parse_rate(text: String) -> Result<NonZeroU32, EndpointError> {
    // `parse` alone would take a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(EndpointError::BadRate(text))
}

fn with_options(address: Address, query: Option<&str>) -> Result<Endpoint, EndpointError> {
    let mut endpoint =
        Endpoint { address, tls: false, mode: None, perm: None, rate: None, options: Vec::new() };
    for option in query.into_iter().flat_map(|query| query.split('&')) {
        let bad = || EndpointError::BadOption(option.to_owned());
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let name = String::from_utf8(decode(name)?).map_err(|_| bad())?;
        let value = String::from_utf8(decode(value)?).map_err(|_| bad())?;
        match name.as_str() {
            "" => return Err(bad()),
            "mode" => match endpoint.mode.replace(value.parse()?) {
                None => {}
                Some(_) => return Err(EndpointError::Repeated("the mode")),
            },
            "perm" => match endpoint.perm.replace(parse_perm(&value)?) {
                None => {}
                Some(_) => return Err(EndpointError::Repeated("the perm")),
            },
            "rate" => match endpoint.rate.replace(parse_rate(value)?) {
                None => {}
                Some(_) => return Err(EndpointError::Repeated("the rate")),
            },
            _ => endpoint.options.push((name, value)),
        }
    }
    let datagrams =
        endpoint.address.is_datagram() || matches!(endpoint.address, Address::Systemd(_));
    if endpoint.rate.is_some() && !datagrams {
        return Err(EndpointError::RateWithoutDatagrams);
    }
    Ok(endpoint)
}

fn decode(text: &str) -> Result<Vec<u8>, EndpointError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(EndpointError::BadPercent);
        };
        decoded.push((high << 4 | low) as u8);
    }
    Ok(decoded)
}

//! The server's own addresses, which must not stand in each other's way.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use echo_core::{Address, Endpoint, UnixName};

use crate::config::Config;
use crate::control;
use crate::exit::{Failure, UNAVAILABLE};

/// All of them, each with what it is called: those to listen on, the admin endpoint, the control socket.
pub(crate) fn addresses(config: &Config) -> Vec<(String, Endpoint)> {
    let settings = &config.settings;
    let admin = settings.admin.clone().map(|it| (format!("--admin {it}"), it));
    let control = control::path(settings.control.as_deref())
        .map(|path| (control::name(&path), control::endpoint(path)));
    config.listen.iter().cloned().chain(admin).chain(control).collect()
}

/// What is wrong where two of them are one, as far as they can be told.
pub(crate) async fn clash(addresses: &[(String, Endpoint)]) -> Option<Failure> {
    let mut places: Vec<(&str, Place)> = Vec::new();
    for (name, endpoint) in addresses {
        // What does not resolve is a failure of its own.
        let new = places_of(endpoint).await.unwrap_or_default();
        let is_taken = |(_, place): &&(&str, Place)| new.iter().any(|it| it.excludes(place));
        if let Some((other, _)) = places.iter().find(is_taken) {
            let message = format!("cannot listen on {name}: the server's own {other} is there");
            return Some(Failure::new(UNAVAILABLE, message));
        }
        places.extend(new.into_iter().map(|place| (name.as_str(), place)));
    }
    None
}

/// What only one socket can have.
#[derive(PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Path(PathBuf),
    Other(Address),
}

async fn places_of(endpoint: &Endpoint) -> io::Result<Vec<Place>> {
    Ok(match &endpoint.address {
        Address::Tcp { .. } => endpoint.resolve().await?.into_iter().map(Place::Tcp).collect(),
        Address::Udp { .. } => endpoint.resolve().await?.into_iter().map(Place::Udp).collect(),
        Address::Unix(UnixName::Path(path)) | Address::Unixgram(UnixName::Path(path)) => {
            // The last part is a socket that may not be there yet, and is never followed.
            let path = std::path::absolute(path)?;
            let folder = path.parent().and_then(|it| it.canonicalize().ok());
            let real = folder.zip(path.file_name()).map(|(folder, name)| folder.join(name));
            vec![Place::Path(real.unwrap_or(path))]
        }
        other => vec![Place::Other(other.clone())],
    })
}

impl Place {
    fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            // Of port 0 there are many.
            (Self::Tcp(one), Self::Tcp(other)) | (Self::Udp(one), Self::Udp(other)) => {
                let same_ip = one == other || covers(one, other) || covers(other, one);
                one.port() == other.port() && one.port() != 0 && same_ip
            }
            _ => self == other,
        }
    }
}

/// Whether one address stands for all, those of the `other`'s family included: `[::]` takes IPv4 as well.
fn covers(one: &SocketAddr, other: &SocketAddr) -> bool {
    one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
}

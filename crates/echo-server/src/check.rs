//! `check`: whether a server with these settings could start on this host, found out without
//! starting one, and so beside one that runs.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use echo_core::{Address, DatagramOptions, DatagramSocket, Endpoint, UnixName};
use rustix::fs::{Access, access};
use tokio::runtime;

use crate::bind;
use crate::config::Config;
use crate::exit::Failure;
use crate::files;
use crate::logging;
use crate::open_files;
use crate::own;
use crate::passed::{Descriptors, Passed};
use crate::tls::{self, Secured};

/// Ports that not everybody may have, so that only trying tells.
const PRIVILEGED: RangeInclusive<u16> = 1..=1023;

/// Says what would be served, or the first reason why not.
pub(crate) fn run(config: &Config) -> Result<String, Failure> {
    let descriptors = Descriptors::take()?;
    let limits = config.settings.limits(open_files::raise())?;
    logging::check(config.settings.log)?;
    let secured = tls::secured(config)?;
    config.settings.users()?;
    if let Some(path) = &config.settings.files {
        files::probe(path).map_err(|error| files::unusable(path, &error))?;
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::cannot_start(&error))?;
    let manager = runtime.block_on(addresses_can_be_used(config, descriptors))?;
    // A name that still resolves holds nobody up.
    runtime.shutdown_background();
    let (listeners, connections) = (config.listen.len(), limits.max_connections);
    let mut words =
        format!("the settings are right: {listeners} to listen on, {connections} connections");
    if !manager.is_empty() {
        words +=
            &format!("; only the service manager can tell whether it has {}", manager.join(", "));
    }
    if let Some(warning) = secured.as_ref().and_then(Secured::warning) {
        words += &format!("; but {warning}");
    }
    Ok(words)
}

/// Gives those that a service manager is to pass, where there is none that passes any: in a shell, where
/// settings are checked before the units start.
async fn addresses_can_be_used(
    config: &Config,
    descriptors: Descriptors,
) -> Result<Vec<&str>, Failure> {
    let passed = Passed::new(descriptors)?;
    let own = own::addresses(config);
    let is_passed = |endpoint: &Endpoint| matches!(endpoint.address, Address::Systemd(_));
    let unknown = |endpoint: &Endpoint| passed.is_empty() && is_passed(endpoint);
    for (name, endpoint) in own.iter().filter(|(_, endpoint)| !unknown(endpoint)) {
        let checked = match passed.adopt(endpoint).await {
            Ok(adopted) if adopted.is_empty() => endpoint_can_be_used(endpoint).await,
            adopted => adopted.map(drop),
        };
        checked.map_err(|error| bind::failure(name, &endpoint.address, &error))?;
    }
    let manager = config.listen.iter().filter(|(_, endpoint)| unknown(endpoint));
    let manager = manager.map(|(uri, _)| uri.as_str()).collect();
    own::clash(&own).await.map_or(Ok(manager), Err)
}

async fn endpoint_can_be_used(endpoint: &Endpoint) -> io::Result<()> {
    match &endpoint.address {
        Address::Unix(UnixName::Path(path)) | Address::Unixgram(UnixName::Path(path)) => {
            path_can_be_bound(path)
        }
        Address::Tcp { .. } | Address::Udp { .. } => {
            let mut absent = None;
            for address in endpoint.resolve().await? {
                match is_of_this_host(address) {
                    // Of several addresses those that this host does not have are left out.
                    Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                        absent = Some(error);
                    }
                    result => return result,
                }
            }
            absent.map_or(Ok(()), Err)
        }
        _ => Ok(()),
    }
}

fn is_of_this_host(mut address: SocketAddr) -> io::Result<()> {
    // For streams too: to listen there would take connections.
    let bind = |address| DatagramSocket::bind_udp(address, &DatagramOptions::default()).map(drop);
    if PRIVILEGED.contains(&address.port()) {
        match bind(address) {
            // By a server that runs, for example.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            result => result?,
        }
    }
    // Else any port but the one that a server may want right now.
    address.set_port(0);
    bind(address)
}

fn path_can_be_bound(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
    match path.symlink_metadata() {
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(
            ErrorKind::AlreadyExists,
            "a file that is not a socket is there: remove it, or choose another path",
        )),
        _ => Ok(()),
    }
}

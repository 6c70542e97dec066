//! Sockets that a service manager has passed: those of its socket units, and those that it stored
//! for this service before a crash.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use echo_core::{Address, DatagramSocket, Endpoint, Listener, LocalAddr, SocketOptions, UnixName};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::exit::{Failure, UNAVAILABLE, reason};
use crate::notify::Notify;

/// What the names of stored sockets begin with; a URI follows. No socket unit's name does.
const STORED: &str = "stored ";

/// The descriptors as they were passed, each with its name.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(Vec<(String, OwnedFd)>);

impl Descriptors {
    /// Takes them over. To be called before anything else opens descriptors.
    pub(crate) fn take() -> Result<Self, Failure> {
        let names = sd_notify::listen_fds_with_names().map_err(|error| refused("", &error))?;
        let names: Vec<_> = names.map(|(_, name)| name).collect();
        let descriptors = echo_sys::take_passed(names.len());
        Ok(Self(names.into_iter().zip(descriptors).collect()))
    }
}

/// All sockets that were passed, kept for the life of the process: what is served are duplicates.
#[derive(Debug, Default)]
pub(crate) struct Passed(Vec<One>);

#[derive(Debug)]
struct One {
    name: String,
    fd: OwnedFd,
    address: LocalAddr,
    datagrams: bool,
}

/// Sockets to be served, adopted or bound here.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) datagrams: Vec<DatagramSocket>,
}

impl Passed {
    /// Looks at what was passed. In a Tokio runtime.
    pub(crate) fn new(descriptors: Descriptors) -> Result<Self, Failure> {
        let socket = |(name, fd): (String, OwnedFd)| {
            let looked = look(&fd).map_err(|error| refused(&name, &error));
            looked.map(|(address, datagrams)| One { name, fd, address, datagrams })
        };
        descriptors.0.into_iter().map(socket).collect::<Result<_, _>>().map(Self)
    }

    /// Whether nothing was passed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of their addresses once, as what to listen on.
    pub(crate) fn endpoints(&self) -> Vec<(String, Endpoint)> {
        let mut endpoints: Vec<(String, Endpoint)> = Vec::new();
        for One { address, datagrams, .. } in &self.0 {
            let (host, port) = match address {
                LocalAddr::Tcp(it) | LocalAddr::Udp(it) => (it.ip().to_string(), it.port()),
                _ => Default::default(),
            };
            let address = match address.clone() {
                LocalAddr::Tcp(_) => Address::Tcp { host, port },
                LocalAddr::Udp(_) => Address::Udp { host, port },
                LocalAddr::Unix(name) if *datagrams => Address::Unixgram(name),
                LocalAddr::Unix(name) => Address::Unix(name),
                _ => continue,
            };
            let endpoint = Endpoint {
                address,
                tls: false,
                mode: None,
                perm: None,
                rate: None,
                options: Vec::new(),
            };
            let uri = endpoint.to_string();
            if endpoints.iter().all(|(other, _)| *other != uri) {
                endpoints.push((uri, endpoint));
            }
        }
        endpoints
    }

    /// Duplicates of those that an endpoint means: all of a `FileDescriptorName=`, or those bound to
    /// one of its addresses, if there are any.
    pub(crate) async fn adopt(&self, endpoint: &Endpoint) -> io::Result<Sockets> {
        let mut adopted = Sockets::default();
        if self.is_empty() && !matches!(endpoint.address, Address::Systemd(_)) {
            return Ok(adopted);
        }
        let addresses = addresses(endpoint).await?;
        let wanted = |one: &&One| one.is_meant_by(endpoint, &addresses);
        for one in self.0.iter().filter(wanted) {
            if endpoint.perm.is_some() && !one.is_stored() {
                let text = "SocketMode= of the socket unit sets it: leave perm out";
                return Err(io::Error::new(ErrorKind::InvalidInput, text));
            }
            adopted.add(one.fd.try_clone()?, one.datagrams, one.is_stored())?;
        }
        if adopted.is_empty() && matches!(endpoint.address, Address::Systemd(_)) {
            let text = "the service manager has passed no socket of this name";
            return Err(io::Error::new(ErrorKind::NotFound, text));
        }
        Ok(adopted)
    }

    /// Closes the stored ones that none of `endpoints` means, or would store under another name, here and at the
    /// manager, before they stand in the way of what is to be bound: the settings may have changed before the crash.
    pub(crate) async fn forget_unwanted(
        &mut self,
        endpoints: &[(String, Endpoint)],
        notify: &Notify,
    ) {
        if !self.0.iter().any(One::is_stored) {
            return;
        }
        let mut wanted = Vec::new();
        for (uri, endpoint) in endpoints {
            // What does not resolve cannot be bound, and says so itself.
            let Ok(addresses) = addresses(endpoint).await else { return };
            wanted.push((uri, endpoint, addresses));
        }
        let is_wanted = |one: &One| {
            wanted.iter().any(|(uri, endpoint, addresses)| {
                // One of those that share the name has given it.
                let is_its_name = |other: &One| {
                    other.name == one.name && other.would_be_stored(uri, endpoint) == one.name
                };
                one.is_meant_by(endpoint, addresses) && self.0.iter().any(is_its_name)
            })
        };
        // All that have one name: the manager forgets them together.
        let unwanted = self.0.iter().filter(|one| one.is_stored() && !is_wanted(one));
        let names: Vec<_> = unwanted.map(|one| one.name.clone()).collect();
        if !names.is_empty() {
            self.forget(notify, "the settings mean it no longer", |one| names.contains(&one.name));
            notify.settled().await;
        }
    }

    /// Closes the stored ones that are none of `in_use`, here and at the manager.
    pub(crate) fn forget_unused(&mut self, in_use: &[String], notify: &Notify) {
        self.forget(notify, "is no longer listened on", |one| !in_use.contains(&one.name));
    }

    /// Closes the stored ones that no peer finds, since their paths are gone, here and at the manager.
    pub(crate) fn forget_lost(&mut self, notify: &Notify) {
        self.forget(notify, "its path is gone", |one| is_gone(&one.address, &one.name));
    }

    fn forget(&mut self, notify: &Notify, why: &str, of_no_use: impl Fn(&One) -> bool) {
        self.0.retain(|one| {
            let forget = one.is_stored() && of_no_use(one);
            if forget {
                tracing::info!("{} was stored, but {why}", one.address);
                notify.forget(&one.name);
            }
            !forget
        });
    }

    /// Whether no peer finds a Unix socket of this server's own any more, which has this name where it is
    /// stored.
    pub(crate) fn is_lost(&self, address: &Address, name: &str) -> bool {
        let (Address::Unix(path) | Address::Unixgram(path)) = address else { return false };
        let address = LocalAddr::Unix(path.clone());
        is_gone(&address, name) && self.0.iter().all(|one| one.address != address)
    }
}

impl Sockets {
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.datagrams.is_empty()
    }

    /// Adds a socket that was passed. One that this service had bound is its own again.
    fn add(&mut self, fd: OwnedFd, datagrams: bool, own: bool) -> io::Result<()> {
        if datagrams {
            let socket = DatagramSocket::inherited(fd)?;
            self.datagrams.push(if own { socket.owned() } else { socket });
        } else {
            let listener = Listener::inherited(fd, &SocketOptions::default())?;
            self.listeners.push(if own { listener.owned() } else { listener });
        }
        Ok(())
    }

    /// The sockets themselves.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let listeners = self.listeners.iter().filter_map(Listener::fd);
        listeners.chain(self.datagrams.iter().map(DatagramSocket::fd)).collect()
    }

    /// The addresses that they are bound to.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &LocalAddr> {
        let datagrams = self.datagrams.iter().map(DatagramSocket::local_addr);
        self.listeners.iter().map(Listener::local_addr).chain(datagrams)
    }
}

impl One {
    /// Whether `endpoint` means it, whose `addresses` these are.
    fn is_meant_by(&self, endpoint: &Endpoint, addresses: &[LocalAddr]) -> bool {
        match &endpoint.address {
            Address::Systemd(name) => self.name == *name,
            address => self.datagrams == address.is_datagram() && addresses.contains(&self.address),
        }
    }

    /// Whether this service had bound and stored it.
    fn is_stored(&self) -> bool {
        self.name.starts_with(STORED)
    }

    /// The name under which it would be stored as the first socket of `endpoint`.
    fn would_be_stored(&self, uri: &str, endpoint: &Endpoint) -> String {
        let uri = Endpoint::with_bound(uri, &self.address);
        stored_name(&uri, endpoint.perm, Some(&self.address))
    }
}

/// Where `endpoint` is, if it is anywhere.
async fn addresses(endpoint: &Endpoint) -> io::Result<Vec<LocalAddr>> {
    Ok(match &endpoint.address {
        Address::Systemd(_) => Vec::new(),
        Address::Unix(name) | Address::Unixgram(name) => vec![LocalAddr::Unix(name.clone())],
        Address::Udp { .. } => endpoint.resolve().await?.into_iter().map(LocalAddr::Udp).collect(),
        _ => endpoint.resolve().await?.into_iter().map(LocalAddr::Tcp).collect(),
    })
}

/// The name under which the sockets of a URI are stored: the same after a change of its options. With a Unix path it
/// ends with what cannot change: the permissions asked for, and the mark of the path.
pub(crate) fn stored_name(uri: &str, perm: Option<u32>, address: Option<&LocalAddr>) -> String {
    let mut mark = address.and_then(mark).unwrap_or_default();
    if !mark.is_empty() {
        let perm = perm.map_or_else(|| "umask".to_owned(), |perm| format!("{perm:o}"));
        mark = format!(" {perm}{mark}");
    }
    let address = uri.split('?').next().unwrap_or_default();
    // A name has no colon and at most 255 bytes, all of them plain in a URI.
    let name = format!("{STORED}{}", address.replace(':', "|"));
    name.chars().take(255 - mark.len()).chain(mark.chars()).collect()
}

/// Which file a Unix socket's path leads to, none if to nothing. Another one there is not the socket's, whose
/// own inode no other file gets while the socket is open.
fn mark(address: &LocalAddr) -> Option<String> {
    let LocalAddr::Unix(UnixName::Path(path)) = address else { return Some(String::new()) };
    let found = fs::symlink_metadata(path).ok()?;
    Some(format!(" {}-{}", found.dev(), found.ino()))
}

/// Whether no peer finds the Unix socket that was stored under a name, since its path is gone.
fn is_gone(address: &LocalAddr, name: &str) -> bool {
    mark(address).is_none_or(|mark| !name.ends_with(&mark))
}

/// Where a socket is bound, and whether it is for datagrams.
fn look(fd: &OwnedFd) -> io::Result<(LocalAddr, bool)> {
    let mut socket = Sockets::default();
    let datagrams = match socket_type(fd)? {
        SocketType::STREAM => false,
        SocketType::DGRAM => true,
        _ => return Err(io::Error::new(ErrorKind::InvalidInput, "neither streams nor datagrams")),
    };
    socket.add(fd.try_clone()?, datagrams, false)?;
    let address = socket.addresses().next().cloned().unwrap_or(LocalAddr::Memory);
    Ok((address, datagrams))
}

fn refused(name: &str, error: &io::Error) -> Failure {
    let reason = reason(error);
    Failure::new(UNAVAILABLE, format!("cannot use a socket that was passed ({name}): {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[tokio::test]
    async fn sockets_are_adopted_by_address_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        // As two sockets of one socket unit have them: the same port, told apart by their kind.
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (stream, datagram) =
            (UnixListener::bind(path("s")).unwrap(), UnixDatagram::bind(path("d")).unwrap());
        let udp_address = udp.local_addr().unwrap();
        let named = |name: &str, fd: OwnedFd| (name.to_owned(), fd);
        let passed = Passed::new(Descriptors(vec![
            named("echo-server", tcp.into()),
            named("echo-server", udp.into()),
            named("other", stream.into()),
            named("stored unix|/d", datagram.into()),
        ]));
        let mut passed = passed.unwrap();

        let uris: Vec<_> = passed.endpoints().into_iter().map(|(uri, _)| uri).collect();
        let expected = [
            format!("tcp://{address}"),
            format!("udp://{udp_address}"),
            format!("unix:{}", path("s").display()),
            format!("unixgram:{}", path("d").display()),
        ];
        assert_eq!(uris, expected);
        for (uri, listeners, datagrams) in [
            ("systemd:echo-server", 1, 1),
            (&format!("tcp://{address}"), 1, 0),
            (&format!("tcp://localhost:{}", address.port()), 1, 0),
            (&format!("tcp://{udp_address}"), 0, 0),
            (&format!("udp://{udp_address}?mode=raw"), 0, 1),
            (&format!("unixgram:{}", path("d").display()), 0, 1),
            (&format!("unix:{}", path("d").display()), 0, 0),
        ] {
            let adopted = passed.adopt(&uri.parse().unwrap()).await.unwrap();
            let counted = (adopted.listeners.len(), adopted.datagrams.len());
            assert_eq!(counted, (listeners, datagrams), "{uri}");
        }

        let nobody = passed.adopt(&"systemd:nobody".parse().unwrap()).await.unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::NotFound);

        passed.forget_unused(&["stored unix|/d".into()], &Notify::default());
        assert_eq!(passed.endpoints().len(), 4);
        passed.forget_unused(&[], &Notify::default());
        assert_eq!(passed.endpoints().len(), 3);
    }

    #[tokio::test]
    async fn what_is_no_bound_socket_is_refused() {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = fs::File::open("/dev/null").unwrap();
        for fd in [stream.into(), file.into()] {
            let failure = Passed::new(Descriptors(vec![("x".into(), fd)])).unwrap_err();
            assert_eq!(failure.code, UNAVAILABLE);
            assert!(failure.message.contains("(x)"), "{}", failure.message);
        }
    }

    #[test]
    fn a_stored_name_is_one_for_all_options() {
        assert_eq!(stored_name("tcp://[::1]:7?mode=raw", None, None), "stored tcp|//[||1]|7");
        assert_eq!(stored_name("tcp://[::1]:7", None, None), "stored tcp|//[||1]|7");
        assert_eq!(stored_name(&format!("unix:{}", "%20".repeat(107)), None, None).len(), 255);
    }
}

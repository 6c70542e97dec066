//! Unix peers that have a path: to whom it leads is looked at before anything is sent there.
//!
//! The name that the kernel tells is the text that the peer gave bind(2), in its own directory and its own
//! mount namespace; to send to it is to look it up once more, with the rights of the service. In between
//! the peer can put a link there: to the service's own socket, which would answer itself for ever, or to
//! one that only the service may write to.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use echo_sys::{Batch, Source};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::own::OwnSockets;

/// The path that a name is, if it is one.
pub(super) fn path(source: Source<'_>) -> Option<&[u8]> {
    match source {
        Source::Unix(name) if name.first() != Some(&0) => name.split(|byte| *byte == 0).next(),
        _ => None,
    }
}

/// How many of `which`, from the first one on, are sent together: those with one path, from one user, or
/// those without. So no more than one descriptor is open at a time.
pub(super) fn together(batch: &Batch, which: &[u8]) -> usize {
    let key = |index: &u8| {
        let datagram = batch.get(usize::from(*index));
        path(datagram.source).map(|path| (path, datagram.user))
    };
    let first = which.first().and_then(key);
    which.iter().take_while(|index| key(index) == first).count()
}

/// The number that stands for all users who have none in this user namespace, so that they cannot be told from
/// each other, unless it is our own. To be asked once: user_namespaces(7).
pub(super) fn nobody() -> Option<u32> {
    /// What it is unless somebody has changed it.
    const USUAL: u32 = 65_534;
    let told = fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    let number = told.and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL);
    (rustix::process::geteuid().as_raw() != number).then_some(number)
}

/// Opens the socket that the datagrams `which` came from, which have one path, and has them answered to
/// it, whatever becomes of the path. What is returned must be open when they are sent.
///
/// # Errors
/// `LOOP` where it is reached by a link, or is one of our own sockets; `NOTSOCK`; `ACCESS` where it is
/// another user's than the datagram, or the kernel does not tell whose that is (the user is unknown, or
/// [`nobody`]); `CONNREFUSED` where there is nothing, or nothing that the kernel knows; `NOSYS` where openat2(2)
/// is not known or not allowed; and what else that says.
pub(super) fn open(
    batch: &mut Batch,
    which: &[u8],
    own: &OwnSockets,
    nobody: Option<u32>,
) -> Result<Option<OwnedFd>, Errno> {
    let Some(first) = which.first() else { return Ok(None) };
    let datagram = batch.get(usize::from(*first));
    let Some(path) = path(datagram.source) else { return Ok(None) };
    let file = look_up(path)?;
    // Nor is a server asked here.
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(&file, c"", how, StatxFlags::BASIC_STATS)?;
    if FileType::from_raw_mode(found.stx_mode.into()) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    if own.has_file(device, found.stx_ino) {
        return Err(Errno::LOOP);
    }
    let is_senders = match datagram.user {
        Some(user) if Some(user) != nobody => user == 0 || user == found.stx_uid,
        _ => false,
    };
    if !is_senders {
        return Err(Errno::ACCESS);
    }
    let mut name = [0; 32];
    let mut rest = &mut name[..];
    // It fits: a descriptor has ten digits at most.
    let _ = write!(rest, "/proc/self/fd/{}", file.as_raw_fd());
    let len = 32 - rest.len();
    for index in which {
        batch.answer_to(usize::from(*index), &name[..len]);
    }
    Ok(Some(file))
}

/// Opens a path that has no links in it, where the kernel knows it already: a bound socket keeps its name, and the
/// folders above it, in the kernel's cache. What is not there is no socket, or is on the file system of a server
/// that may not answer, or would have to be mounted first, for which nobody waits.
fn look_up(path: &[u8]) -> Result<OwnedFd, Errno> {
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |resolve| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve)
    };
    let mut opened = open(no_links | ResolveFlags::CACHED);
    // Also where something was mounted or moved at this very moment.
    if matches!(opened, Err(Errno::AGAIN)) {
        opened = open(no_links | ResolveFlags::CACHED);
    }
    // Before Linux 5.12.
    if matches!(opened, Err(Errno::INVAL)) {
        opened = open(no_links);
    }
    opened.map_err(|errno| match errno {
        // What a filter of system calls says.
        Errno::PERM => Errno::NOSYS,
        Errno::NOENT | Errno::AGAIN => Errno::CONNREFUSED,
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;

    use super::*;
    use crate::datagram::{DatagramOptions, DatagramSocket};
    use crate::endpoint::UnixName;

    /// What becomes of a datagram that lies in the queue of `server`, where this number stands for everybody.
    fn opened(server: &DatagramSocket, nobody: Option<u32>) -> (Option<u32>, Result<bool, Errno>) {
        let mut batch = Batch::default();
        batch.fit(100);
        assert_eq!(server.socket.receive_queued(&mut batch, 1).unwrap(), 1);
        let user = batch.get(0).user;
        let opened = open(&mut batch, &[0], &OwnSockets::default(), nobody);
        (user, opened.map(|file| file.is_some()))
    }

    #[tokio::test]
    async fn a_path_is_answered_only_if_it_is_known_who_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let bind = |path: &Path| UnixDatagram::bind(path).unwrap();
        let (peer, unnamed) = (bind(&path("peer")), UnixDatagram::unbound().unwrap());
        let us = rustix::process::geteuid().as_raw();

        // What came before anybody asked who sends.
        let early = bind(&path("early"));
        peer.send_to(b"?", path("early")).unwrap();
        let early = DatagramSocket::inherited(early.into()).unwrap();
        assert_eq!(opened(&early, None), (None, Err(Errno::ACCESS)));

        let name = UnixName::Path(path("server"));
        let options = DatagramOptions::default();
        let server = DatagramSocket::bind_unix(&name, None, &options).unwrap();
        for (nobody, answered) in
            [(None, Ok(true)), (Some(us + 1), Ok(true)), (Some(us), Err(Errno::ACCESS))]
        {
            peer.send_to(b"?", path("server")).unwrap();
            assert_eq!(opened(&server, nobody), (Some(us), answered), "{nobody:?}");
        }
        // Nothing is looked up for who has no path.
        unnamed.send_to(b"?", path("server")).unwrap();
        assert_eq!(opened(&server, Some(us)), (Some(us), Ok(false)));
    }

    #[test]
    fn our_own_number_is_nobody_elses() {
        let us = rustix::process::geteuid().as_raw();
        assert!(nobody().is_none_or(|number| number != us));
    }
}

//! Unix sockets: their files are made, replaced and unlinked with care for other processes.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::endpoint::UnixName;

/// How often the lock of a directory is tried, and the pause in between: binding takes far less.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A socket file of ours, unlinked on drop if it is still the file at its path. To be dropped
/// before its socket: an open socket keeps others from replacing the file between look and unlink,
/// and its inode's number from going to another file.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketPath {
    /// Its device and inode.
    pub(crate) fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
        }
    }
}

/// A socket bound to `name`, and the file it made: one that listens with `backlog`, or one for
/// datagrams without.
pub(crate) fn bind(
    name: &UnixName,
    perm: Option<u32>,
    backlog: Option<i32>,
) -> io::Result<(Option<SocketPath>, Socket)> {
    let kind = if backlog.is_some() { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::UNIX, kind.nonblocking(), None)?;
    let path = match name {
        UnixName::Path(path) => Some(bind_path(&socket, path, perm, backlog, kind)?),
        UnixName::Abstract(_) if perm.is_some() => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an abstract name has no permissions: leave perm out",
            ));
        }
        UnixName::Abstract(name) => {
            let name = [b"\0", name.as_slice()].concat();
            socket.bind(&SockAddr::unix(OsStr::from_bytes(&name))?)?;
            backlog.map(|backlog| socket.listen(backlog)).transpose()?;
            None
        }
    };
    Ok((path, socket))
}

/// Binds, and listens where there is a `backlog`. From its first moment the file has at most the permissions asked for.
///
/// Two processes that start at once could each take the other's file for a stale one: between bind
/// and listen, or between look and unlink. So all of it happens under a lock of the directory, which
/// leaves nothing behind, unlike a lock file, and ends with the process. The alternative, to listen
/// under a temporary name and rename it, needs no lock but leaves the socket with a wrong name for
/// getsockname, `ss` and whoever inherits it.
fn bind_path(
    socket: &Socket,
    path: &Path,
    perm: Option<u32>,
    backlog: Option<i32>,
    kind: Type,
) -> io::Result<SocketPath> {
    if path.as_os_str().as_bytes().contains(&0) {
        // The kernel would take what is before it.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in the path"));
    }
    let _lock = lock_directory(path);
    if let Some(perm) = perm {
        // Linux makes the file with the socket's own mode, less the umask. The umask itself belongs
        // to the whole process.
        rustix::fs::fchmod(socket, Mode::from_raw_mode(perm))?;
    }
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, &address, kind)?;
            socket.bind(&address)?;
        }
        result => result?,
    }
    let bound = identify(path, perm)?;
    backlog.map(|backlog| socket.listen(backlog)).transpose()?;
    Ok(bound)
}

/// Locks the directory of `path` against other starters until the descriptor is dropped. Goes on
/// without a lock where that is impossible (no right to read the directory) or takes too long
/// (somebody keeps it locked for purposes of their own): it guards only against a rare race.
fn lock_directory(path: &Path) -> Option<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = rustix::fs::open(
        directory,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
    None
}

/// Removes the file at `path` if it is a socket that nobody answers on.
fn remove_stale(path: &Path, address: &SockAddr, kind: Type) -> io::Result<()> {
    let refused = |kind, why| Err(io::Error::new(kind, why));
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            return refused(
                io::ErrorKind::AlreadyExists,
                "a file that is not a socket is there: remove it, or choose another path",
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let probe = Socket::new(Domain::UNIX, kind.nonblocking(), None)?;
    match probe.connect(address).map_err(|error| error.kind()) {
        Err(io::ErrorKind::ConnectionRefused) => fs::remove_file(path),
        Err(io::ErrorKind::NotFound) => Ok(()),
        Err(io::ErrorKind::PermissionDenied) => refused(
            io::ErrorKind::PermissionDenied,
            "a socket is there that this user may not connect to: remove it, or choose another path",
        ),
        // Its queue may be full, or it may be of another type.
        _ => refused(
            io::ErrorKind::AddrInUse,
            "another process listens there: stop it, or choose another path",
        ),
    }
}

/// Remembers which file was made at `path`, and gives it `perm` where the umask took from it.
pub(crate) fn identify(path: &Path, perm: Option<u32>) -> io::Result<SocketPath> {
    // A handle, so that the file looked at is the one whose permissions change.
    let handle =
        rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = rustix::fs::fstat(&handle)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "another process put a file there: remove it, or choose another path",
        ));
    }
    // From here on an error unlinks the file. The path is made absolute because the working
    // directory may change before the end.
    let bound =
        SocketPath { path: std::path::absolute(path)?, device: found.st_dev, inode: found.st_ino };
    if let Some(perm) = perm
        && Mode::from_raw_mode(found.st_mode) != Mode::from_raw_mode(perm)
    {
        let handle = format!("/proc/self/fd/{}", handle.as_raw_fd());
        fs::set_permissions(handle, Permissions::from_mode(perm))?;
    }
    Ok(bound)
}

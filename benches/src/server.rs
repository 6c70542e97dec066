//! The servers that are compared.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use echo_core::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use crate::{epoll, process, tasks};

/// An echo server: three baselines, and what this workspace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// A single-threaded epoll loop by hand: what the kernel allows.
    Epoll,
    /// Tokio, `read` and `write_all`: what the simplest task costs.
    ReadWrite,
    /// Tokio, `Framed<LengthDelimitedCodec>` with `next` and `send`: what the simplest framed task
    /// costs.
    NaiveFramed,
    /// echo-core's echo, raw.
    CoreRaw,
    /// echo-core's echo, framed: every header is parsed.
    CoreFramed,
    /// An echo-core handler that takes whole frames through `recv` and `send`.
    CoreRecvSend,
}

impl Server {
    /// All of them, baselines first.
    pub const ALL: [Self; 6] = [
        Self::Epoll,
        Self::ReadWrite,
        Self::NaiveFramed,
        Self::CoreRaw,
        Self::CoreFramed,
        Self::CoreRecvSend,
    ];

    /// Its name in reports. No slash: criterion has those between group and name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll loop",
            Self::ReadWrite => "tokio read+write_all",
            Self::NaiveFramed => "tokio naive Framed",
            Self::CoreRaw => "echo-core raw",
            Self::CoreFramed => "echo-core framed",
            Self::CoreRecvSend => "echo-core recv+send",
        }
    }

    /// Starts it on a thread of its own.
    pub fn start(self, transport: Transport) -> Result<Running> {
        Running::start(self.name(), transport, move |listener, stop| self.serve(listener, stop))
    }

    /// Runs it on `address` until the process is killed.
    pub fn run(self, address: SocketAddr) -> Result<()> {
        let (_never, stopped) = UnixStream::pair()?;
        stopped.set_nonblocking(true)?;
        self.serve(listen_on(address).context("cannot listen")?, stopped)
    }

    fn serve(self, listener: Socket, stop: UnixStream) -> Result<()> {
        match self {
            Self::Epoll => Ok(epoll::serve(&listener, &stop)?),
            Self::ReadWrite => tasks::run(stop, tasks::read_write(listener)),
            Self::NaiveFramed => tasks::run(stop, tasks::naive_framed(listener)),
            Self::CoreRaw => tasks::run(stop, tasks::core_echo(listener, Mode::Raw)),
            Self::CoreFramed => tasks::run(stop, tasks::core_echo(listener, Mode::Framed)),
            Self::CoreRecvSend => tasks::run(stop, tasks::core_recv_send(listener)),
        }
    }
}

/// What a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// 127.0.0.1, on a free port.
    Tcp,
    /// A path in a folder of its own.
    Unix,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Unix];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

/// A server that runs until this is dropped.
#[derive(Debug)]
pub struct Running {
    address: SockAddr,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Result<()>>>,
    _folder: Option<TempDir>,
}

impl Running {
    /// Starts `serve` on a thread of its own, until the other end of its second argument closes.
    pub(crate) fn start<F>(name: &str, transport: Transport, serve: F) -> Result<Self>
    where
        F: FnOnce(Socket, UnixStream) -> Result<()> + Send + 'static,
    {
        let (listener, folder) = listen(transport).context("cannot listen")?;
        let address = listener.local_addr()?;
        let (stop, stopped) = UnixStream::pair()?;
        stopped.set_nonblocking(true)?;
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            process::pin_server();
            serve(listener, stopped)
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread), _folder: folder })
    }

    /// Where it listens.
    pub fn address(&self) -> &SockAddr {
        &self.address
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(Err(error)) = self.thread.take().map(join) {
            // A client that lost its server has failed already; this says why.
            let _ = writeln!(io::stderr(), "server: {error:#}");
        }
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")))
}

/// One and the same socket for all, with echo-core's settings: a backlog that a burst fits into,
/// and TCP_NODELAY, which accepted sockets inherit.
fn listen(transport: Transport) -> Result<(Socket, Option<TempDir>)> {
    match transport {
        Transport::Tcp => Ok((listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?, None)),
        Transport::Unix => {
            let folder = tempfile::tempdir()?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(folder.path().join("echo"))?)?;
            Ok((listening(socket)?, Some(folder)))
        }
    }
}

fn listen_on(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    listening(socket)
}

fn listening(socket: Socket) -> io::Result<Socket> {
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

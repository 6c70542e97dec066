//! Echo over UDP: the servers that are compared, and the client that drives them.

#![allow(clippy::disallowed_types, reason = "a bench measures real time")]

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use echo_core::{DatagramEcho, DatagramSocket, Mode, Service, serve_datagrams};
use socket2::SockRef;

use crate::{process, tasks};

/// A burst of replies, or of requests, must fit.
const QUEUE: usize = 4 << 20;
/// How often a blocking server looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// A server that is silent for so long has lost something.
const STALL: Duration = Duration::from_secs(10);

/// An echo server for datagrams: two baselines, and what this workspace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramServer {
    /// A thread that blocks in `recv_from`, and `send_to`: what the kernel allows without batches.
    Plain,
    /// Tokio's `recv_from` and `send_to`: what the simplest task costs.
    Tokio,
    /// echo-core: batches, every source judged and limited.
    Core,
}

impl DatagramServer {
    /// All of them, baselines first.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Tokio, Self::Core];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "blocking recv_from+send_to",
            Self::Tokio => "tokio recv_from+send_to",
            Self::Core => "echo-core",
        }
    }

    /// Starts it on a thread of its own.
    pub fn start(self) -> Result<RunningDatagrams> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind")?;
        SockRef::from(&socket).set_recv_buffer_size(QUEUE)?;
        SockRef::from(&socket).set_send_buffer_size(QUEUE)?;
        let address = socket.local_addr()?;
        let (stop, stopped) = UnixStream::pair()?;
        stopped.set_nonblocking(true)?;
        let thread = thread::Builder::new().name(self.name().to_owned()).spawn(move || {
            process::pin_server();
            match self {
                Self::Plain => Ok(plain(&socket, &stopped)?),
                Self::Tokio => tasks::run(stopped, tokio_echo(socket)),
                Self::Core => tasks::run(stopped, core_echo(socket)),
            }
        })?;
        Ok(RunningDatagrams { address, stop: Some(stop), thread: Some(thread) })
    }
}

/// A server that runs until this is dropped.
#[derive(Debug)]
pub struct RunningDatagrams {
    address: SocketAddr,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Drop for RunningDatagrams {
    fn drop(&mut self) {
        self.stop = None;
        // A client that lost its server has failed already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One socket, with so many datagrams under way together: one is latency, more are batches.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    depth: u64,
    message: Vec<u8>,
    reply: Vec<u8>,
}

impl Datagrams {
    /// A client of `server`.
    pub fn connect(server: &RunningDatagrams, depth: u64, size: usize) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        SockRef::from(&socket).set_recv_buffer_size(QUEUE)?;
        socket.set_read_timeout(Some(STALL))?;
        socket.connect(server.address)?;
        let mut random = fastrand::Rng::with_seed(7);
        let message: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
        Ok(Self { socket, depth, reply: vec![0; size + 1], message })
    }

    /// Exchanges `count` datagrams; how long that took.
    pub fn run(&mut self, count: u64) -> Result<Duration> {
        let began = Instant::now();
        let mut left = count;
        while left > 0 {
            let burst = left.min(self.depth);
            for _ in 0..burst {
                self.socket.send(&self.message).context("cannot send")?;
            }
            for _ in 0..burst {
                let len = self.socket.recv(&mut self.reply).context("no reply")?;
                ensure!(self.reply[..len] == self.message[..], "the reply differs");
            }
            left -= burst;
        }
        Ok(began.elapsed())
    }
}

fn plain(socket: &UdpSocket, stop: &UnixStream) -> io::Result<()> {
    socket.set_read_timeout(Some(LOOK))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, peer)) => {
                socket.send_to(&buffer[..len], peer)?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // At its end when the other side is dropped.
                if io::Read::read(&mut &*stop, &mut [0]).is_ok() {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

async fn tokio_echo(socket: UdpSocket) -> Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (len, peer) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..len], peer).await?;
    }
}

async fn core_echo(socket: UdpSocket) -> Result<()> {
    let socket = DatagramSocket::inherited(socket.into())?;
    let echo = DatagramEcho::new(Mode::Auto).rate(std::num::NonZeroU32::new(u32::MAX));
    serve_datagrams(socket, Service::default(), Arc::new(echo)).await?;
    Ok(())
}

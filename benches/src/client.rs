//! The clients: plain blocking sockets and a small epoll loop, which favour no server. Each compares
//! what comes back. A message is a u32 big-endian length and its payload, which framed and raw
//! servers echo alike.

#![allow(clippy::disallowed_types, reason = "a bench measures real time")]

mod messages;
mod pipeline;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::server::Running;
pub use messages::Messages;
pub use pipeline::Pipeline;

/// A server that is silent for so long has lost something.
const STALL: Duration = Duration::from_secs(30);

/// One connection, one message at a time: the latency of one exchange.
#[derive(Debug)]
pub struct RoundTrip<S = Socket> {
    stream: S,
    message: Vec<u8>,
    reply: Vec<u8>,
}

impl RoundTrip {
    /// Connects.
    pub fn connect(server: &Running, size: usize) -> Result<Self> {
        Ok(Self::over(connect(server.address())?, size))
    }
}

impl<S: Read + Write> RoundTrip<S> {
    /// Over a connection that stands.
    pub(crate) fn over(stream: S, size: usize) -> Self {
        let message = Messages::new(size, 1).first().to_vec();
        Self { stream, reply: vec![0; message.len()], message }
    }

    /// Exchanges `count` messages; how long that took.
    pub fn run(&mut self, count: u64) -> Result<Duration> {
        let began = Instant::now();
        for _ in 0..count {
            self.stream.write_all(&self.message).context("cannot send")?;
            self.stream.read_exact(&mut self.reply).context("no reply")?;
            ensure!(self.reply == self.message, "the reply differs");
        }
        Ok(began.elapsed())
    }
}

/// Connections that each carry one message: connect, send, receive, close.
#[derive(Debug)]
pub struct Churn {
    address: SockAddr,
    at_a_time: usize,
    message: Vec<u8>,
}

impl Churn {
    /// Connections to `server`, `at_a_time` open together.
    pub fn new(server: &Running, at_a_time: usize, size: usize) -> Self {
        let message = Messages::new(size, 1).first().to_vec();
        Self { address: server.address().clone(), at_a_time, message }
    }

    /// Opens and closes `count` connections; how long that took.
    ///
    /// Blocking calls will do: the oldest connection is waited for while the server works on those
    /// behind it.
    pub fn run(&mut self, count: u64) -> Result<Duration> {
        let mut open = VecDeque::with_capacity(self.at_a_time);
        let mut reply = vec![0; self.message.len()];
        let mut started = 0;
        let began = Instant::now();
        for _ in 0..count {
            while started < count && open.len() < self.at_a_time {
                let socket = connect(&self.address)?;
                (&socket).write_all(&self.message).context("cannot send")?;
                open.push_back(socket);
                started += 1;
            }
            let oldest = open.pop_front().context("none is open")?;
            (&oldest).read_exact(&mut reply).context("no reply")?;
            ensure!(reply == self.message, "the reply differs");
        }
        Ok(began.elapsed())
    }
}

/// A blocking socket that does not wait for ever.
pub(crate) fn connect(address: &SockAddr) -> Result<Socket> {
    let domain = if address.is_unix() { Domain::UNIX } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if domain == Domain::IPV4 {
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_read_timeout(Some(STALL))?;
    socket.connect(address).context("cannot connect")?;
    Ok(socket)
}

//! Many connections, many messages under way on each.

#![allow(clippy::disallowed_types, reason = "a bench measures real time")]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Messages, STALL, connect};
use crate::server::Running;

const BUFFER: usize = 256 << 10;
const EVENTS: usize = 512;

/// Connections on an epoll loop, each with up to `depth` messages under way: the next one is sent
/// when one has come back.
#[derive(Debug)]
pub struct Pipeline {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    depth: usize,
    messages: Messages,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// Where the next bytes to send and to receive stand among the messages.
    send_at: usize,
    receive_at: usize,
    /// Bytes that are due and not sent yet.
    unsent: usize,
    /// Bytes received of a message that is not whole yet.
    partial: usize,
    waits_to_send: bool,
}

impl Pipeline {
    /// Opens `connections`, for messages with `size` bytes of payload, and uses each once: the
    /// server has accepted them all, and their first steps are not measured.
    pub fn connect(
        server: &Running,
        connections: usize,
        depth: usize,
        size: usize,
    ) -> Result<Self> {
        let messages = Messages::new(size, depth);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let connections = (0..connections)
            .map(|index| {
                let socket = connect(server.address())?;
                socket.set_nonblocking(true)?;
                let socket = OwnedFd::from(socket);
                epoll::add(&epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
                // Each begins with another message: a server that mixes them up is found out.
                let start = messages.offset(index);
                Ok(Connection {
                    socket,
                    send_at: start,
                    receive_at: start,
                    unsent: 0,
                    partial: 0,
                    waits_to_send: false,
                })
            })
            .collect::<Result<_>>()?;
        let mut this = Self { epoll, connections, depth, messages, buffer: vec![0; BUFFER].into() };
        this.run((this.connections.len() * depth) as u64)?;
        Ok(this)
    }

    /// Exchanges `count` messages, over all connections; how long that took.
    pub fn run(&mut self, count: u64) -> Result<Duration> {
        let began = Instant::now();
        let mut unstarted = count;
        for index in 0..self.connections.len() {
            self.push(index, self.depth, &mut unstarted)?;
        }
        let mut missing = count;
        let stall = Timespec::try_from(STALL)?;
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        while missing > 0 {
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&stall))?;
            ensure!(!events.is_empty(), "nothing came back for {STALL:?}");
            for event in events.drain(..) {
                let Event { flags, data } = event;
                let index = data.u64() as usize;
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    let complete = self.receive(index)?;
                    missing = missing
                        .checked_sub(complete as u64)
                        .context("more came back than was sent")?;
                    self.push(index, complete, &mut unstarted)?;
                } else {
                    self.send_due(index)?;
                }
            }
        }
        Ok(began.elapsed())
    }

    /// Starts up to `most` messages.
    fn push(&mut self, index: usize, most: usize, unstarted: &mut u64) -> Result<()> {
        let count = (*unstarted).min(most as u64);
        *unstarted -= count;
        self.connections[index].unsent += count as usize * self.messages.message();
        self.send_due(index)
    }

    fn send_due(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        while connection.unsent > 0 {
            let bytes = self.messages.from(connection.send_at, connection.unsent);
            let sent = match send(&connection.socket, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => break,
                sent => sent.context("cannot send")?,
            };
            connection.send_at = (connection.send_at + sent) % self.messages.len();
            connection.unsent -= sent;
        }
        let wait = connection.unsent > 0;
        if wait != connection.waits_to_send {
            connection.waits_to_send = wait;
            let flags = if wait { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &connection.socket, data, flags)?;
        }
        Ok(())
    }

    /// Reads once; how many messages came to their end.
    fn receive(&mut self, index: usize) -> Result<usize> {
        let connection = &mut self.connections[index];
        let received = match recv(&connection.socket, &mut *self.buffer, RecvFlags::empty()) {
            Err(Errno::AGAIN) => return Ok(0),
            received => received.context("cannot receive")?.0,
        };
        if received == 0 {
            bail!("closed by the server");
        }
        for part in self.buffer[..received].chunks(self.messages.len()) {
            let expected = self.messages.from(connection.receive_at, part.len());
            ensure!(part == expected, "what came back differs");
            connection.receive_at = (connection.receive_at + part.len()) % self.messages.len();
        }
        connection.partial += received;
        let complete = connection.partial / self.messages.message();
        connection.partial %= self.messages.message();
        Ok(complete)
    }
}

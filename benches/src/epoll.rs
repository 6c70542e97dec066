//! The baseline without a runtime: an echo as one writes it by hand on epoll, in one thread.
//!
//! `peers/epoll_echo.c` in Rust: level-triggered, one read into a buffer that all connections share,
//! one write of the same bytes. It knows no frames, limits or deadlines; what a server with them
//! needs on top of this is their price.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use socket2::Socket;

/// Larger ones gain nothing.
const BUFFER: usize = 64 << 10;
const EVENTS: usize = 1024;

/// Echoes on every connection of `listener` until the other end of `stop` closes.
pub(crate) fn serve(listener: &Socket, stop: &UnixStream) -> io::Result<()> {
    let mut serving = Serving {
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        connections: Vec::new(),
        buffer: vec![0; BUFFER].into(),
    };
    watch(&serving.epoll, listener)?;
    watch(&serving.epoll, stop)?;
    let listener_key = key(listener);
    let stop_key = key(stop);
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
    loop {
        epoll::wait(&serving.epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            match event.data.u64() {
                key if key == stop_key => return Ok(()),
                key if key == listener_key => serving.accept_all(listener)?,
                key => serving.turn(key as usize),
            }
        }
    }
}

struct Serving {
    epoll: OwnedFd,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    buffer: Box<[u8]>,
}

struct Connection {
    socket: OwnedFd,
    /// What the peer has not read yet, and how much of it is out.
    unwritten: Vec<u8>,
    written: usize,
}

impl Serving {
    fn accept_all(&mut self, listener: &Socket) -> io::Result<()> {
        loop {
            let socket = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            watch(&self.epoll, &socket)?;
            let index = key(&socket) as usize;
            if index >= self.connections.len() {
                self.connections.resize_with(index + 1, || None);
            }
            let connection = Connection { socket, unwritten: Vec::new(), written: 0 };
            self.connections[index] = Some(connection);
        }
    }

    fn turn(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        let turn = if connection.unwritten.is_empty() {
            connection.echo(&self.epoll, &mut self.buffer)
        } else {
            connection.write_rest(&self.epoll)
        };
        match turn {
            Ok(()) | Err(Errno::AGAIN) => {}
            // Closes the socket, which leaves the epoll instance by that.
            Err(_) => self.connections[index] = None,
        }
    }
}

impl Connection {
    /// One read and one write; the end of the stream is an error as any other.
    fn echo(&mut self, epoll: &OwnedFd, buffer: &mut [u8]) -> Result<(), Errno> {
        let (received, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
        if received == 0 {
            return Err(Errno::PIPE);
        }
        let sent = self.send(&buffer[..received])?;
        if sent < received {
            self.unwritten = buffer[sent..received].to_vec();
            self.wait_for(epoll, EventFlags::OUT)?;
        }
        Ok(())
    }

    fn write_rest(&mut self, epoll: &OwnedFd) -> Result<(), Errno> {
        self.written += self.send(&self.unwritten[self.written..])?;
        if self.written == self.unwritten.len() {
            self.unwritten = Vec::new();
            self.written = 0;
            self.wait_for(epoll, EventFlags::IN)?;
        }
        Ok(())
    }

    /// Sends what the socket takes.
    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => Ok(0),
            sent => sent,
        }
    }

    fn wait_for(&self, epoll: &OwnedFd, flags: EventFlags) -> Result<(), Errno> {
        epoll::modify(epoll, &self.socket, EventData::new_u64(key(&self.socket)), flags)
    }
}

/// A descriptor is never negative.
fn key(source: &impl AsRawFd) -> u64 {
    source.as_raw_fd() as u64
}

fn watch(epoll: &OwnedFd, source: &(impl AsFd + AsRawFd)) -> io::Result<()> {
    Ok(epoll::add(epoll, source, EventData::new_u64(key(source)), EventFlags::IN)?)
}

//! A service manager, as far as it listens.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use super::PATIENCE;

/// A manager that writes down what it is told.
pub(crate) struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    /// One that listens on this path.
    pub(crate) fn new(path: &str) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path: path.to_owned() }
    }

    /// Has the command tell it.
    pub(crate) fn of(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path);
    }

    /// Waits for a message, and gives it.
    pub(crate) fn next(&self) -> String {
        let mut message = [0; 4096];
        let len = loop {
            match self.socket.recv(&mut message) {
                // A wait with a limit ends so whatever wakes the thread (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8_lossy(&message[..len]).into_owned()
    }

    /// Waits for a message with lines that begin with each of these, and gives it.
    pub(crate) fn hears(&self, wanted: &[&str]) -> String {
        loop {
            let message = self.next();
            if wanted.iter().all(|it| message.lines().any(|line| line.starts_with(it))) {
                return message;
            }
        }
    }
}

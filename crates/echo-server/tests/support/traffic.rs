//! A client for black-box tests: sockets of both families, frames, and how a stream ends. It has
//! its own few lines of protocol, so that a mistake in the library's cannot hide itself.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{PATIENCE, Server};

pub(crate) const ECHO: u8 = 0x00;
pub(crate) const HELLO: u8 = 0x80;
pub(crate) const GOAWAY: u8 = 0x81;
pub(crate) const ERROR: u8 = 0x82;
pub(crate) const PROBE: u8 = 0x83;

/// How the server ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By FIN: everything before it has been delivered.
    Fin,
    /// By a reset, or by a send that failed.
    Reset,
}

/// One frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The `answered` of a GOAWAY and its reason.
    pub(crate) fn goaway(&self) -> (u16, u64) {
        assert_eq!(self.kind, GOAWAY, "{self:02x?} is no GOAWAY");
        (be(&self.payload[..2]) as u16, be(&self.payload[2..10]))
    }

    /// The code of an ERROR, and whether it says that the connection closes.
    pub(crate) fn error(&self) -> (u16, bool) {
        assert_eq!(self.kind, ERROR, "{self:02x?} is no ERROR");
        (be(&self.payload[..2]) as u16, self.payload[2] & 1 == 1)
    }
}

/// A big-endian number of up to eight bytes.
pub(crate) fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A header alone.
pub(crate) fn header(kind: u8, len: usize) -> [u8; 4] {
    assert!(len < 1 << 24, "a length has 24 bits");
    ((u32::from(kind)) << 24 | len as u32).to_be_bytes()
}

/// A whole frame.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&header(kind, payload.len())[..], payload].concat()
}

/// An ECHO frame.
pub(crate) fn echo(payload: &[u8]) -> Vec<u8> {
    frame(ECHO, payload)
}

/// Splits bytes into the whole frames at their start and what is left.
pub(crate) fn frames(mut bytes: &[u8]) -> (Vec<Frame>, &[u8]) {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
        let len = be(&head[1..]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        found.push(Frame { kind: head[0], payload: payload.to_vec() });
        bytes = rest;
    }
    (found, bytes)
}

/// A connected client socket. Its reads and writes panic rather than wait for ever.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: Socket,
    /// Whether a send has met the server's reset. The kernel tells of it once; to the next who
    /// asks, the stream looks as if it had ended by FIN.
    was_reset: AtomicBool,
}

impl From<Socket> for Peer {
    fn from(socket: Socket) -> Self {
        Self { socket, was_reset: AtomicBool::new(false) }
    }
}

impl Peer {
    /// Connects to the URI of a `listening` line.
    pub(crate) fn connect(uri: &str) -> Self {
        Self::try_connect(uri, |_| Ok(())).unwrap_or_else(|error| panic!("{uri}: {error}"))
    }

    /// Connects with a receive buffer as small as the kernel allows.
    pub(crate) fn connect_narrow(uri: &str) -> Self {
        Self::try_connect(uri, |socket| socket.set_recv_buffer_size(1))
            .unwrap_or_else(|error| panic!("{uri}: {error}"))
    }

    /// Connects, with the socket prepared before.
    pub(crate) fn try_connect(
        uri: &str,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (address, domain) = address(uri);
        let socket = Socket::new(domain, Type::STREAM, None)?;
        prepare(&socket)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&address)?;
        if domain != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        Ok(socket.into())
    }

    /// The socket, for what has no method here.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The port of this end and of the server's, for a TCP socket.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        let local = self.socket.local_addr().ok()?.as_socket()?;
        Some((local.port(), self.socket.peer_addr().ok()?.as_socket()?.port()))
    }

    /// Sends all of it.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes what it is sent");
    }

    /// Sends all of it, or says why not. A wait of [`PATIENCE`] is a failure of the test.
    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<()> {
        match (&self.socket).write_all(bytes) {
            Err(error) if timed_out(&error) => panic!("nobody reads within {PATIENCE:?}"),
            Err(error) => {
                self.was_reset.fetch_or(error.kind() == ErrorKind::ConnectionReset, Relaxed);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Sends until nothing more fits for `quiet`; gives the number of bytes that went out, or an
    /// error when the server ended the connection.
    pub(crate) fn flood(&self, pattern: &[u8], quiet: Duration) -> io::Result<u64> {
        self.socket.set_write_timeout(Some(quiet))?;
        let mut sent = 0;
        let result = loop {
            match (&self.socket).write(&pattern[sent as usize % pattern.len()..]) {
                Ok(written) => sent += written as u64,
                Err(error) if timed_out(&error) => break Ok(sent),
                Err(error) => break Err(error),
            }
        };
        self.socket.set_write_timeout(Some(PATIENCE))?;
        result
    }

    /// Sends FIN.
    pub(crate) fn half_close(&self) {
        self.socket.shutdown(Shutdown::Write).expect("the server has not reset the connection");
    }

    /// Ends the connection by a reset.
    pub(crate) fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set");
    }

    /// Reads some bytes: none at the server's FIN. `Err` is its reset.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<usize, End> {
        loop {
            match (&self.socket).read(buffer) {
                Ok(0) if self.was_reset.load(Relaxed) => return Err(End::Reset),
                Ok(read) => return Ok(read),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => panic!("nothing came within {PATIENCE:?}"),
                Err(_) => return Err(End::Reset),
            }
        }
    }

    /// Reads exactly so many bytes; `None` when the stream ends before.
    pub(crate) fn read_exact(&self, len: usize) -> Option<Vec<u8>> {
        let (mut bytes, mut filled) = (vec![0; len], 0);
        while filled < len {
            match self.read(&mut bytes[filled..]) {
                Ok(0) | Err(_) => return None,
                Ok(read) => filled += read,
            }
        }
        Some(bytes)
    }

    /// Reads one frame; `None` when the stream ends before it is whole.
    pub(crate) fn read_frame(&self) -> Option<Frame> {
        let head = self.read_exact(4)?;
        let payload = self.read_exact(be(&head[1..]) as usize)?;
        Some(Frame { kind: head[0], payload })
    }

    /// Reads to the end of the stream, which must be in sight.
    pub(crate) fn read_to_end(&self) -> (Vec<u8>, End) {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return (bytes, End::Fin),
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                Err(end) => return (bytes, end),
            }
            assert!(bytes.len() < 256 << 20, "the server goes on and on");
        }
    }

    /// Whether nothing comes and the stream does not end within `wait`.
    pub(crate) fn is_silent_for(&self, wait: Duration) -> bool {
        self.socket.set_read_timeout(Some(wait)).expect("a timeout can be set");
        let result = (&self.socket).read(&mut [0]);
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        result.is_err_and(|error| timed_out(&error))
    }

    /// Sends HELLO and reads its answer.
    pub(crate) fn hello(&self) -> Frame {
        self.send(&frame(HELLO, &[]));
        let reply = self.read_frame().expect("HELLO is answered");
        assert_eq!(reply.kind, HELLO, "HELLO is answered by HELLO");
        reply
    }

    /// Sends bytes of which every one comes back, and checks that.
    pub(crate) fn round_trip(&self, bytes: &[u8]) {
        self.send(bytes);
        assert_same(&self.read_exact(bytes.len()).expect("all of the echo"), bytes);
    }
}

/// Sends all of it on a fresh connection, half-closes, and gives what came and how it ended. For
/// what fits into the sockets' buffers.
pub(crate) fn exchange(uri: &str, bytes: &[u8]) -> (Vec<u8>, End) {
    let peer = Peer::connect(uri);
    // The server may have refused the rest already.
    if peer.try_send(bytes).is_ok() {
        let _ = peer.socket().shutdown(Shutdown::Write);
    }
    peer.read_to_end()
}

/// Compares what may be megabytes, and says where they differ.
#[track_caller]
pub(crate) fn assert_same(got: &[u8], want: &[u8]) {
    let same = got.iter().zip(want).take_while(|(got, want)| got == want).count();
    let (got, want) = (got.len(), want.len());
    assert!(same == got && same == want, "of {want} bytes, {got} came, {same} of them right");
}

/// Checks that a server takes a new connection and echoes on it.
pub(crate) fn assert_serves(uri: &str) {
    Peer::connect(uri).round_trip(&echo(b"still there?"));
}

/// Stops a server and checks that no peer has made it say anything above debug, or count a fault of
/// its own. Its first listener takes frames.
pub(crate) fn assert_clean_end(mut server: Server) {
    assert_serves(&server.uris()[0]);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.summary()["panicked"], 0);
    let log = server.stderr();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

fn address(uri: &str) -> (SockAddr, Domain) {
    let plain = uri.split('?').next().unwrap_or_default();
    if let Some(path) = plain.strip_prefix("unix:") {
        return (SockAddr::unix(path).expect("a short path"), Domain::UNIX);
    }
    let address = plain.strip_prefix("tcp://").and_then(|rest| rest.parse::<SocketAddr>().ok());
    let address = address.unwrap_or_else(|| panic!("{uri} is no address"));
    (address.into(), Domain::for_address(address))
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

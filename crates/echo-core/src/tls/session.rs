//! A stream under TLS: what rustls does between the socket and the connection.
//!
//! Ciphertext is read into a buffer of the worker's, as plain bytes are, and an idle session keeps no more
//! than rustls does. A write is over when the kernel has all of its ciphertext: until then it is pending, and
//! must be made again with the same bytes, so that what a connection holds as output is all there is.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};

use super::{Client, Server};
use crate::buffer::Buffer;
use crate::connection::READ_BUFFER;
use crate::stream::Stream;
use crate::waiting::{TURN, come_back};

/// The label of the value that ties an authentication to its channel (RFC 9266, section 4).
const BINDING: &[u8] = b"EXPORTER-Channel-Binding";

thread_local! {
    /// The worker's buffer for ciphertext, which comes and goes while the one for plaintext is in use.
    static WIRE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn with_wire<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    WIRE.with_borrow_mut(f)
}

/// TLS over a stream.
#[derive(Debug)]
pub(crate) struct Session {
    inner: Stream,
    tls: Connection,
    /// Ciphertext that was read and not yet looked at: before the handshake, or since nobody took the
    /// plaintext before it.
    wire: Buffer,
    /// Plaintext that is here, and that the peer's close_notify is.
    plain: usize,
    closed: bool,
    /// Bytes of the write under way, whose ciphertext goes out.
    claimed: usize,
    /// Ours was queued.
    closing: bool,
    /// The peer's stream ended without close_notify.
    truncated: bool,
    /// What came was no TLS. It is told once the plaintext before it was taken.
    failed: Option<rustls::Error>,
}

impl Session {
    /// A server's, over a stream of which `begun` has been read.
    pub(crate) fn server(inner: Stream, server: &Server, begun: &[u8]) -> io::Result<Self> {
        let tls = ServerConnection::new(Arc::clone(&server.0)).map_err(broken)?;
        Ok(Self::new(inner, Connection::Server(tls), begun))
    }

    /// A client's, of the server that is known as `name`.
    pub(crate) fn client(
        inner: Stream,
        client: &Client,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let tls = ClientConnection::new(Arc::clone(&client.0), name).map_err(broken)?;
        Ok(Self::new(inner, Connection::Client(tls), &[]))
    }

    fn new(inner: Stream, tls: Connection, begun: &[u8]) -> Self {
        Self {
            inner,
            tls,
            wire: Buffer::from(begun),
            plain: 0,
            closed: false,
            claimed: 0,
            closing: false,
            truncated: false,
            failed: None,
        }
    }

    /// The stream under it.
    pub(crate) fn inner(&self) -> &Stream {
        &self.inner
    }

    /// The same, to be read without a look at what it brings.
    pub(crate) fn inner_mut(&mut self) -> &mut Stream {
        &mut self.inner
    }

    /// Whether the peer's stream ended without its close_notify: somebody may have cut it.
    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Plaintext and ciphertext that is here already.
    pub(crate) fn held(&self) -> usize {
        self.plain + self.wire.len()
    }

    /// No fewer bytes than there can be plaintext in what is here: rustls does not tell how much it has of a
    /// record that is not whole.
    pub(crate) fn may_hold(&self) -> usize {
        self.held() + MAX_RECORD
    }

    /// The certificate that the peer has shown, in DER.
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        self.tls.peer_certificates()?.first().map(|certificate| certificate.as_ref())
    }

    /// What both ends of this channel know, and nobody else (RFC 9266). `None` before the handshake's end.
    pub(crate) fn channel_binding(&self) -> Option<[u8; 32]> {
        self.tls.export_keying_material([0; 32], BINDING, None).ok()
    }

    /// Agrees on keys.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut seen = 0;
        loop {
            ready!(self.poll_send(cx))?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(broken(error)));
            }
            match ready!(self.poll_receive(cx, &mut [], &mut seen))? {
                Received::End => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Received::Plaintext(_) | Received::Nothing => {}
            }
        }
    }

    /// Reads plaintext: 0 is the peer's close_notify, and `UnexpectedEof` its end without that.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut seen = 0;
        loop {
            let filled = self.take(buf)?;
            if filled > 0 || self.closed || buf.is_empty() {
                return Poll::Ready(Ok(filled));
            }
            if self.truncated {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(error) = self.failed.take() {
                // It tells the peer why, if that can be told at once.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(broken(error)));
            }
            match ready!(self.poll_receive(cx, buf, &mut seen))? {
                Received::Plaintext(len) => return Poll::Ready(Ok(len)),
                Received::End => self.truncated = !self.closed,
                Received::Nothing => {}
            }
        }
    }

    /// Waits for something to read, as [`Stream::poll_readable`] does.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held() > 0 || self.closed || self.truncated || self.failed.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.inner.poll_readable(cx)
    }

    /// Writes plaintext. Pending, it must be called again with the same bytes, and perhaps more behind them.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.claimed == 0 {
            // What is still to go out, an answer to a change of keys, bounds how much is taken.
            ready!(self.poll_send(cx))?;
            self.claimed = self.tls.writer().write(bytes)?;
        }
        ready!(self.poll_send(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.claimed).min(bytes.len())))
    }

    /// Of a write that is pending, takes what is encrypted already for written: some of it may be out, and answered.
    /// The rest goes out with the next write, or by [`poll_flush`](Self::poll_flush).
    pub(crate) fn claim(&mut self) -> usize {
        std::mem::take(&mut self.claimed)
    }

    /// Sends what is encrypted.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    /// Ends our side: close_notify, then FIN.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing && !self.tls.is_handshaking() {
            self.tls.send_close_notify();
        }
        self.closing = true;
        ready!(self.poll_send(cx))?;
        self.inner.poll_shutdown(cx)
    }

    /// Takes what plaintext there is.
    fn take(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while self.plain > 0 && filled < buf.len() {
            let read = self.tls.reader().read(&mut buf[filled..])?;
            if read == 0 {
                break;
            }
            self.plain = self.plain.saturating_sub(read);
            filled += read;
        }
        Ok(filled)
    }

    /// Takes ciphertext from what is held, or from the socket.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        seen: &mut usize,
    ) -> Poll<io::Result<Received>> {
        if !self.wire.is_empty() {
            let wire = std::mem::take(&mut self.wire);
            return Poll::Ready(Ok(self.feed(&wire, buf)));
        }
        // Records without plaintext must not keep the worker for ever.
        if *seen >= TURN {
            return come_back(cx);
        }
        with_wire(|wire| {
            if wire.len() < READ_BUFFER {
                wire.resize(READ_BUFFER, 0);
            }
            let read = ready!(self.inner.poll_read(cx, &mut wire[..READ_BUFFER]))?;
            *seen += read;
            Poll::Ready(Ok(if read == 0 { Received::End } else { self.feed(&wire[..read], buf) }))
        })
    }

    /// Hands ciphertext to rustls, and takes the plaintext that comes of it as far as it fits.
    fn feed(&mut self, mut wire: &[u8], buf: &mut [u8]) -> Received {
        let mut filled = 0;
        while !wire.is_empty() && self.failed.is_none() && !self.closed {
            // rustls takes 4 KiB at a time, and nothing while more than a record waits to be taken.
            if self.tls.read_tls(&mut wire).is_err() {
                self.wire.put(wire);
                break;
            }
            match self.tls.process_new_packets() {
                Ok(state) => {
                    self.plain = state.plaintext_bytes_to_read();
                    self.closed = state.peer_has_closed();
                }
                Err(error) => self.failed = Some(error),
            }
            match self.take(&mut buf[filled..]) {
                Ok(taken) => filled += taken,
                // Nobody has called for more than is here.
                Err(_) => break,
            }
        }
        if filled > 0 { Received::Plaintext(filled) } else { Received::Nothing }
    }

    /// Sends what rustls has for the peer.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            let sent = self.tls.write_tls(&mut Outward { inner: &mut self.inner, cx });
            match sent {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

enum Received {
    /// Bytes in the caller's buffer.
    Plaintext(usize),
    /// Something of TLS's own, or part of a record.
    Nothing,
    /// The socket's end.
    End,
}

/// An error of TLS as one of reading and writing.
pub(super) fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The way to the socket, as rustls writes.
struct Outward<'a, 'c> {
    inner: &'a mut Stream,
    cx: &'a mut Context<'c>,
}

impl Write for Outward<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.inner.poll_write(self.cx, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Records in one piece: one call for up to four of them.
    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [record] = records {
            return self.write(record);
        }
        with_wire(|wire| {
            wire.clear();
            for record in records {
                if !wire.is_empty() && wire.len() + record.len() > WRITE_AT_ONCE {
                    break;
                }
                wire.extend_from_slice(record);
            }
            self.write(wire)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The longest record (RFC 8446, section 5.2).
const MAX_RECORD: usize = 5 + (16 << 10) + 256;

/// Four of them.
const WRITE_AT_ONCE: usize = 4 * MAX_RECORD;

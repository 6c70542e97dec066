//! TLS around a plain stream, by rustls alone: what is written into a tunnel comes out under TLS at its other end.

#![allow(dead_code, reason = "each test file uses its own part of this module")]
#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::Connection;

/// A tunnel's plain end. It ends when the TLS does.
pub(crate) struct Tunnel {
    pub(crate) plain: UnixStream,
    /// What both ends of the TLS know and nobody else (RFC 9266).
    pub(crate) binding: [u8; 32],
}

impl Tunnel {
    /// Shakes hands over `outer`, and lets two threads carry what comes.
    pub(crate) fn through(tls: impl Into<Connection>, mut outer: TcpStream) -> io::Result<Self> {
        let mut tls = tls.into();
        tls.set_buffer_limit(None);
        while tls.is_handshaking() {
            tls.complete_io(&mut outer)?;
        }
        let label = b"EXPORTER-Channel-Binding";
        let binding = tls.export_keying_material([0; 32], label, None);
        let binding = binding.map_err(io::Error::other)?;
        let (plain, inner) = UnixStream::pair()?;
        let tls = Arc::new(Mutex::new(tls));
        let other = (Arc::clone(&tls), outer.try_clone()?, inner.try_clone()?);
        thread::spawn(move || seal(&tls, &outer, inner));
        thread::spawn(move || unseal(&other.0, &other.1, other.2));
        Ok(Self { plain, binding })
    }
}

/// Carries what is written into the plain end, and its end as close_notify.
fn seal(tls: &Mutex<Connection>, mut outer: &TcpStream, mut inner: UnixStream) {
    let mut buffer = [0; 16 << 10];
    loop {
        let read = inner.read(&mut buffer).unwrap_or_default();
        let mut tls = tls.lock().expect("no holder panics");
        match read {
            0 => tls.send_close_notify(),
            _ => tls.writer().write_all(&buffer[..read]).expect("there is no limit"),
        }
        let sent = send(&mut tls, &mut outer);
        if read == 0 || sent.is_err() {
            let _ = outer.shutdown(Shutdown::Write);
            return;
        }
    }
}

/// Carries what the TLS brings to the plain end, to its end, be it in order or not.
fn unseal(tls: &Mutex<Connection>, mut outer: &TcpStream, mut inner: UnixStream) {
    let (mut buffer, mut read) = ([0; 16 << 10], 0);
    loop {
        let mut wire = &buffer[..read];
        let (mut plain, mut ended) = (Vec::new(), false);
        let mut tls = tls.lock().expect("no holder panics");
        // The first time for what came with the handshake.
        loop {
            // It tells an end by 0, and that there is no more for now by an error.
            ended |= tls.reader().read_to_end(&mut plain).is_ok();
            if wire.is_empty() || ended {
                break;
            }
            tls.read_tls(&mut wire).expect("there is no limit");
            ended = tls.process_new_packets().is_err();
            let _ = send(&mut tls, &mut outer);
        }
        drop(tls);
        ended |= inner.write_all(&plain).is_err();
        read = if ended { 0 } else { outer.read(&mut buffer).unwrap_or_default() };
        if read == 0 {
            let _ = inner.shutdown(Shutdown::Write);
            return;
        }
    }
}

fn send(tls: &mut Connection, outer: &mut &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(outer)?;
    }
    Ok(())
}

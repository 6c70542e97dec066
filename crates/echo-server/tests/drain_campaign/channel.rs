//! A connection's bytes, plain or under TLS, and what of them has certainly arrived.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};

use echo_core::tls;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::support::process::Queues;
use crate::support::traffic::{End, Peer};

/// The certificate that servers of the campaign show, and a client that trusts it: one of rustls's own.
pub(crate) struct Trust {
    pub(crate) cert: String,
    pub(crate) key: String,
    config: Arc<ClientConfig>,
}

impl Trust {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        Self { cert: certificate.pem(), key: key.serialize_pem(), config }
    }
}

/// One thread sends and one reads.
pub(crate) enum Channel {
    Plain(Peer),
    Tls(Box<Session>),
}

pub(crate) struct Session {
    peer: Peer,
    state: Mutex<State>,
}

struct State {
    tls: ClientConnection,
    /// After each send, how many bytes of plaintext and of ciphertext were sent in all.
    sent: Vec<(u64, u64)>,
    /// Ciphertext that came and was not looked at: rustls takes little at a time.
    wire: Vec<u8>,
}

impl Channel {
    pub(crate) fn connect(uri: &str, trust: Option<&Trust>) -> Self {
        let Some(trust) = trust else { return Self::Plain(Peer::connect(uri)) };
        let peer = Peer::connect(&uri.replace("tls://", "tcp://"));
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(&trust.config), name).unwrap();
        let shaken = (0, tls.complete_io(&mut peer.socket()).expect("a handshake").1 as u64);
        assert!(!tls.is_handshaking() && !tls.wants_write());
        let state = Mutex::new(State { tls, sent: vec![shaken], wire: Vec::new() });
        Self::Tls(Box::new(Session { peer, state }))
    }

    fn peer(&self) -> &Peer {
        match self {
            Self::Plain(peer) => peer,
            Self::Tls(session) => &session.peer,
        }
    }

    /// Whether it is a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        self.peer().ports().is_none()
    }

    /// How many of `sent` bytes have certainly arrived: of ciphertext, records that are whole.
    pub(crate) fn arrived(&self, sent: u64, queues: &Queues) -> u64 {
        let waiting = self.peer().ports().map_or(0, |ports| queues.unacknowledged(ports));
        match self {
            Self::Plain(_) => sent.saturating_sub(waiting),
            Self::Tls(session) => {
                let log = &session.lock().sent;
                // What was sent since the queues were read makes it fewer.
                let whole = |(plain, _): &&(u64, u64)| *plain <= sent;
                let last = log.iter().rev().find(whole).map_or(0, |(_, cipher)| *cipher);
                let came = last.saturating_sub(waiting);
                log.iter().rev().find(|(_, cipher)| *cipher <= came).map_or(0, |(plain, _)| *plain)
            }
        }
    }

    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(peer) => peer.try_send(bytes),
            Self::Tls(session) => session.send(bytes, |tls| tls.writer().write_all(bytes)),
        }
    }

    /// Reads some bytes: none at the server's FIN, before which close_notify has to come. `Err` is its reset.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<usize, End> {
        match self {
            Self::Plain(peer) => peer.read(buffer),
            Self::Tls(session) => session.read(buffer),
        }
    }

    /// Ends our side.
    pub(crate) fn half_close(&self) -> io::Result<()> {
        if let Self::Tls(session) = self {
            session.send(&[], |tls| {
                tls.send_close_notify();
                Ok(())
            })?;
        }
        self.peer().socket().shutdown(Shutdown::Write)
    }

    pub(crate) fn close(&self) {
        let _ = self.peer().socket().shutdown(Shutdown::Both);
    }
}

impl Session {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encrypts under the lock and sends without it, as the reader must go on meanwhile.
    fn send(
        &self,
        bytes: &[u8],
        encrypt: impl FnOnce(&mut ClientConnection) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut wire = Vec::new();
        let after = {
            let State { tls, sent, .. } = &mut *self.lock();
            encrypt(tls)?;
            while tls.wants_write() {
                tls.write_tls(&mut wire)?;
            }
            let (plain, cipher) = sent.last().copied().unwrap_or_default();
            (plain + bytes.len() as u64, cipher + wire.len() as u64)
        };
        self.peer.try_send(&wire)?;
        self.lock().sent.push(after);
        Ok(())
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, End> {
        let mut fresh = vec![0; 16 << 10];
        loop {
            let mut state = self.lock();
            match state.tls.reader().read(buffer) {
                Ok(0) => {
                    // close_notify: nothing but FIN may follow.
                    assert!(state.wire.is_empty(), "bytes behind close_notify");
                    drop(state);
                    assert_eq!(self.peer.read(&mut fresh)?, 0, "bytes behind close_notify");
                    return Ok(0);
                }
                Ok(read) => return Ok(read),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
            if state.wire.is_empty() {
                drop(state);
                let read = self.peer.read(&mut fresh)?;
                assert_ne!(read, 0, "FIN without close_notify");
                state = self.lock();
                state.wire.extend_from_slice(&fresh[..read]);
            }
            let State { tls, wire, .. } = &mut *state;
            let taken = tls.read_tls(&mut &wire[..]).unwrap();
            wire.drain(..taken);
            tls.process_new_packets().expect("records in order");
        }
    }
}

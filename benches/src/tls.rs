//! echo-core behind TLS, with a certificate that is made for it, and a blocking client of rustls's own.

#![allow(clippy::disallowed_types, reason = "a bench measures real time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use echo_core::tls::{self, Identity, Policy};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::Socket;

use crate::client::{RoundTrip, connect};
use crate::server::{Running, Transport};
use crate::tasks;

/// A stream that rustls drives.
type Stream = StreamOwned<ClientConnection, Socket>;

/// echo-core's echo on a port where every connection begins with a handshake (TLS 1.3, ECDSA P-256).
#[derive(Debug)]
pub struct Secured {
    running: Running,
    client: Arc<ClientConfig>,
}

impl Secured {
    /// Starts it on a thread of its own.
    pub fn start() -> Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(["localhost".to_owned()])?.signed_by(&key, &authority)?;
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes())?;
        let server = tls::Server::new(identity, None)?;

        let mut trusted = RootCertStore::empty();
        trusted.add(authority.der().clone())?;
        let client = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let running = Running::start("echo-core tls", Transport::Tcp, move |listener, stop| {
            tasks::run(stop, tasks::core_tls(listener, Policy::Always(server)))
        })?;
        Ok(Self { running, client: Arc::new(client) })
    }

    /// A connection whose handshake is done, for messages one at a time.
    pub fn round_trip(&self, size: usize) -> Result<RoundTrip<Stream>> {
        let mut stream = self.connect()?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).context("no handshake")?;
        }
        Ok(RoundTrip::over(stream, size))
    }

    fn connect(&self) -> Result<Stream> {
        let socket = connect(self.running.address())?;
        let name = ServerName::try_from("localhost")?;
        Ok(StreamOwned::new(ClientConnection::new(Arc::clone(&self.client), name)?, socket))
    }
}

/// Connections one after the other that each carry one message: connect, handshake, send, receive, close.
#[derive(Debug)]
pub struct Handshakes<'a> {
    server: &'a Secured,
    size: usize,
}

impl<'a> Handshakes<'a> {
    /// Connections to `server`, with a message of `size` bytes each.
    pub fn new(server: &'a Secured, size: usize) -> Self {
        Self { server, size }
    }

    /// Opens and closes `count` connections; how long that took.
    pub fn run(&self, count: u64) -> Result<Duration> {
        let began = Instant::now();
        for _ in 0..count {
            self.server.round_trip(self.size)?.run(1)?;
        }
        Ok(began.elapsed())
    }
}

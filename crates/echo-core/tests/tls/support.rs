//! Certificates that are made here, a server, and a client of rustls's own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use echo_core::client::Options;
use echo_core::tls::{Authorities, Client, Identity, Policy, Port, Server};
use echo_core::{
    Drain, Echo, Handler, Limits, Listener, LocalAddr, Mode, Report, ServeError, Service,
    SocketOptions, serve,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Far more than anything here takes, on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) type Other = StreamOwned<ClientConnection, TcpStream>;

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self::named(&format!("authority {}", NUMBER.fetch_add(1, Relaxed)))
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn trusted(&self) -> Authorities {
        Authorities::from_pem(self.0.pem().as_bytes()).unwrap()
    }

    pub(crate) fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.issue(|_| {})
    }

    pub(crate) fn client_identity(&self) -> Identity {
        self.issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    pub(crate) fn server(&self) -> Server {
        Server::new(self.identity(), None).unwrap()
    }

    pub(crate) fn options(&self) -> Options {
        self.options_with(None)
    }

    pub(crate) fn options_with(&self, identity: Option<Identity>) -> Options {
        Options { tls: Some(Client::new(Some(self.trusted()), identity).unwrap()), ..quick() }
    }

    /// A client that is no part of this project.
    pub(crate) fn other_client(&self, addr: SocketAddr) -> Other {
        self.other_client_with(addr, self.other_config())
    }

    /// The same, which remembers what it may resume.
    pub(crate) fn other_client_with(&self, addr: SocketAddr, config: Arc<ClientConfig>) -> Other {
        self.other_client_over(TcpStream::connect(addr).unwrap(), config)
    }

    /// The same over a connection that there is.
    pub(crate) fn other_client_over(&self, socket: TcpStream, config: Arc<ClientConfig>) -> Other {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(config, name).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        StreamOwned::new(connection, socket)
    }

    pub(crate) fn other_config(&self) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(echo_core::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_early_data = true;
        Arc::new(config)
    }
}

pub(crate) fn quick() -> Options {
    Options { connect_timeout: SOON, timeout: SOON, ..Options::default() }
}

pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) port: Port,
    pub(crate) service: Service,
    serving: JoinSet<Result<Report, ServeError>>,
}

impl Running {
    pub(crate) fn start(policy: Policy, limits: Limits) -> Self {
        Self::with(policy, limits, Echo::new(Mode::Auto))
    }

    pub(crate) fn with(policy: Policy, limits: Limits, handler: impl Handler) -> Self {
        let any = ([127, 0, 0, 1], 0).into();
        let listener = Listener::bind_tcp(any, &SocketOptions::default()).unwrap();
        let LocalAddr::Tcp(addr) = *listener.local_addr() else { panic!("TCP") };
        let (port, service) = (Port::new(policy), Service::new(limits, Drain::new()));
        let listener = listener.secured(port.clone());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, service.clone(), Arc::new(handler)));
        Self { addr, port, service, serving }
    }

    pub(crate) fn target(&self) -> echo_core::Endpoint {
        format!("tls://{}", self.addr).parse().unwrap()
    }

    pub(crate) async fn drain(mut self) -> Report {
        self.service.drain().start(SOON);
        self.serving.join_next().await.unwrap().unwrap().unwrap()
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: impl Fn() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < SOON, "it never became so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the kernel at the other end has all that was written: it acknowledges what it has queued.
pub(crate) async fn acknowledged(socket: &TcpStream) {
    let (ours, theirs) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
    until(|| queues(ours, theirs).0 == 0).await;
}

/// The same, and until the other end has read it.
pub(crate) async fn taken(socket: &TcpStream) {
    acknowledged(socket).await;
    let (ours, theirs) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
    until(|| queues(theirs, ours).1 == 0).await;
}

/// What a socket has sent and not seen acknowledged, and what it was sent and has not read.
fn queues(local: SocketAddr, remote: SocketAddr) -> (u64, u64) {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ports = [local, remote].map(|addr| format!(":{:04X}", addr.port()));
    // Behind the number: this end, the other, the state, and the queues.
    let mut fields = sockets.lines().map(|line| line.split_whitespace().skip(1));
    let ours = fields.find(|ends| ends.clone().zip(&ports).all(|(end, port)| end.ends_with(port)));
    let (sent, received) = ours.unwrap().nth(3).unwrap().split_once(':').unwrap();
    let bytes = |field| u64::from_str_radix(field, 16).unwrap();
    (bytes(sent), bytes(received))
}

/// Runs a peer that blocks.
pub(crate) async fn blocking<T: Send + 'static>(peer: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(peer).await.unwrap()
}

pub(crate) fn all(mut stream: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

pub(crate) fn write(mut stream: impl Write, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.flush().unwrap();
}

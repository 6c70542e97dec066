//! An authority, certificates of clients that it vouches for, and connections on which they are shown.

use std::fs;
use std::net::TcpStream;
use std::sync::Arc;

use echo_core::tls::provider;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::Socket;

use crate::house::*;
use crate::support::Server;
use crate::support::traffic::*;
use crate::tunnel::Tunnel;

/// Vouches for a server, and for clients.
pub(crate) struct Trust {
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in DER and PKCS #8.
pub(crate) struct Shown {
    pub(crate) certificate: Vec<u8>,
    key: Vec<u8>,
}

/// A connection under TLS.
pub(crate) struct Secured {
    pub(crate) peer: Peer,
    pub(crate) binding: [u8; 32],
}

impl Trust {
    /// An authority whose server's certificate and key, and itself, are in the house.
    pub(crate) fn in_house(house: &House) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        fs::write(house.path("cert.pem"), certificate.pem()).unwrap();
        fs::write(house.path("key.pem"), key.serialize_pem()).unwrap();
        fs::write(house.path("ca.pem"), authority.pem()).unwrap();
        Self { authority }
    }

    /// A client's certificate with that subject.
    pub(crate) fn issue(&self, subject: DistinguishedName) -> Shown {
        self.issue_with(subject, &[])
    }

    /// The same with other names beside the subject.
    pub(crate) fn issue_with(&self, subject: DistinguishedName, others: &[&str]) -> Shown {
        let others: Vec<_> = others.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(others).unwrap();
        params.distinguished_name = subject;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        Shown { certificate: certificate.der().to_vec(), key: key.serialize_der() }
    }

    /// One for the user of that name.
    pub(crate) fn issue_to(&self, name: impl Into<DnValue>) -> Shown {
        self.issue(named(name))
    }

    /// Connects to a listener, and shows a certificate if there is one to show.
    pub(crate) fn connect(&self, uri: &str, shown: Option<&Shown>) -> Secured {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&TLS13]).unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(Shown { certificate, key }) => {
                let chain = vec![CertificateDer::from(certificate.clone())];
                let key = PrivateKeyDer::try_from(key.clone()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let address = uri.split("://").nth(1).unwrap().split('?').next().unwrap();
        let tunnel = Tunnel::through(tls, TcpStream::connect(address).unwrap()).unwrap();
        let socket = Socket::from(tunnel.plain);
        socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        Secured { peer: Peer::from(socket), binding: tunnel.binding }
    }

    /// The same, and HELLO is said.
    pub(crate) fn meet(&self, uri: &str, shown: Option<&Shown>) -> Peer {
        let peer = self.connect(uri, shown).peer;
        peer.hello();
        peer
    }
}

/// A subject with that common name alone.
pub(crate) fn named(name: impl Into<DnValue>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

impl House {
    /// A server with a listener for users alone and one for everybody, and the same under TLS, where clients are
    /// asked for certificates.
    pub(crate) fn open_secured(&self, more: &[&str]) -> Server {
        let path = |name: &str| self.path(name).display().to_string();
        let (cert, key, ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
        let listen = ["--listen=tls://127.0.0.1:0?auth=required", "--listen=tls://127.0.0.1:0"];
        self.open(&[&tls[..], &listen, more].concat())
    }
}

//! TLS between one of our sides and one of rustls's own, whose bytes a script sends, splits, changes and holds
//! back.

pub(crate) mod client;
pub(crate) mod server;
mod wire;

use std::sync::{Arc, LazyLock};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// A certificate for localhost that vouches for itself, and its key.
struct Certified {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

static CERTIFIED: LazyLock<Certified> = LazyLock::new(|| {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Certified { certificate, key }
});

/// The other end, by rustls alone.
fn other_client() -> ClientConnection {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add(CERTIFIED.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(echo_core::tls::provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    });
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::clone(&CONFIG), name).unwrap()
}

fn other_server() -> ServerConnection {
    static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(CERTIFIED.key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(echo_core::tls::provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth();
        let chain = vec![CERTIFIED.certificate.der().clone()];
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    });
    ServerConnection::new(Arc::clone(&CONFIG)).unwrap()
}

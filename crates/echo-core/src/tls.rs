//! TLS 1.3 on connections, by rustls: what a server shows, and whom a client trusts.
//!
//! A [`Listener`](crate::Listener) gets a [`Port`], which says whether its connections begin with a
//! handshake, always or where the first byte is one's. The handshake runs on the connection's own task, and
//! the [`Handler`](crate::Handler) sees the bytes under it. What a `Port` says can change while it is
//! served: connections that have begun go on as they are.
//!
//! Only TLS 1.3 is spoken (RFC 8446), and nothing is resumed: each connection shows its certificates.

mod fault;
mod session;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};

use zeroize::Zeroizing;

use fault::wrong_key;
pub(crate) use fault::{refusal, untrusted};
pub(crate) use session::Session;

/// The first byte of a TLS connection: a record of the handshake (RFC 8446, section 5.1).
pub(crate) const HANDSHAKE: u8 = 0x16;

/// Who does the cryptography: this place decides it, for both sides and for programs that make keys.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No certificate is in the text.
    #[error("no certificate: write PEM, with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// No private key is in the text.
    #[error("no private key: write PEM, with -----BEGIN PRIVATE KEY-----, and not encrypted")]
    NoKey,
    /// The text is no PEM, or a certificate in it is none.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// The private key is no PEM.
    #[error("unreadable: {0}")]
    UnreadableKey(String),
    /// The private key is encrypted: nobody is asked for a password here.
    #[error("the key is encrypted: decrypt it (openssl pkey -in KEY -out PLAIN_KEY)")]
    EncryptedKey,
    /// The key is of a kind that cannot sign here.
    #[error("the key cannot be used: {0}")]
    BadKey(String),
    /// The key belongs to another certificate.
    #[error("the key is not that of the first certificate")]
    Mismatch,
}

impl Error {
    /// What to tell whoever gave these two files, by the name of the one at fault.
    pub fn in_files(&self, certificates: &str, key: &str) -> String {
        match self {
            Self::EncryptedKey => format!(
                "cannot use {key}: the key is encrypted: decrypt it (openssl pkey -in {key} -out PLAIN.key) and give \
                 that, readable by you alone"
            ),
            Self::NoKey | Self::BadKey(_) | Self::UnreadableKey(_) => {
                format!("cannot use {key}: {self}")
            }
            Self::Mismatch => format!("cannot use {certificates} and {key}: {self}"),
            _ => format!("cannot use {certificates}: {self}"),
        }
    }
}

/// What is wrong with PEM, in words about the file, which may be a secret.
fn pem_fault(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off: an -----END line is missing",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line of it is broken",
        pem::Error::Base64Decode(_) => "what stands between -----BEGIN and -----END is no Base64",
        pem::Error::SectionTooLarge => "it is too long",
        pem::Error::NoItemsFound => "nothing of use is in it",
        _ => "it is no PEM",
    }
    .to_owned()
}

/// Whether a private key is encrypted: in PKCS #8, or by headers of its own as OpenSSL did before (RFC 1421).
fn is_encrypted(key: &[u8]) -> bool {
    let holds = |words: &[u8]| key.windows(words.len()).any(|it| it == words);
    holds(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(b"Proc-Type: 4,ENCRYPTED")
}

/// A certificate with those that vouch for it, and its private key.
#[derive(Clone)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// Reads PEM: the certificate first, then those between it and its authority; and its key, in PKCS #8,
    /// PKCS #1 or SEC 1. The key's DER is zeroized, and `key` is the caller's to zeroize;
    /// buffers in which the parser puts a line of PEM together are not, and the key in use lies in aws-lc's memory.
    ///
    /// # Errors
    /// What is missing or does not fit.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = certificates_in(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            _ if is_encrypted(key) => Error::EncryptedKey,
            pem::Error::NoItemsFound => Error::NoKey,
            error => Error::UnreadableKey(pem_fault(&error)),
        })?;
        // Lent and not given, as the provider would let go of it as it is.
        let key = Zeroizing::new(key);
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| Error::BadKey(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // Some keys do not tell their public half: then the handshake will.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self(Arc::new(certified)))
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(Error::Mismatch),
            Err(error) => Err(Error::Unreadable(error.to_string())),
        }
    }

    /// The certificate itself, in DER.
    pub fn certificate(&self) -> &[u8] {
        self.chain().next().unwrap_or_default()
    }

    /// The certificate and those that vouch for it, in DER.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.0.cert.iter().map(|certificate| certificate.as_ref())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

fn certificates_in(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| Error::Unreadable(pem_fault(&error)))?;
    if found.is_empty() { Err(Error::NoCertificate) } else { Ok(found) }
}

/// Certificates of authorities that are trusted.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads PEM.
    ///
    /// # Errors
    /// The text holds no certificate, or one that cannot be read.
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for certificate in certificates_in(text)? {
            store.add(certificate).map_err(|error| Error::Unreadable(error.to_string()))?;
        }
        Ok(Self(Arc::new(store)))
    }

    /// Takes those certificates in DER that can be read: a system has many, and some are of no use.
    ///
    /// # Errors
    /// There is none.
    pub fn from_der<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(
            certificates.into_iter().map(|it| CertificateDer::from(it.to_vec())),
        );
        if store.is_empty() { Err(Error::NoCertificate) } else { Ok(Self(Arc::new(store))) }
    }
}

/// What a server shows to whoever connects, and what it asks for.
#[derive(Clone, Debug)]
pub struct Server(Arc<ServerConfig>);

impl Server {
    /// A server that shows `identity`. With `clients` every client must show a certificate that one of these
    /// authorities vouches for.
    ///
    /// # Errors
    /// rustls cannot use them.
    pub fn new(identity: Identity, clients: Option<Authorities>) -> Result<Self, Error> {
        match clients {
            None => Self::with_verifier(identity, WebPkiClientVerifier::no_client_auth()),
            Some(clients) => Self::with_verifier(identity, verifier(clients, false)?),
        }
    }

    /// A server that shows `identity`, and takes clients with a certificate that one of these authorities
    /// vouches for, and clients that show none. A certificate that nobody vouches for is refused.
    ///
    /// # Errors
    /// rustls cannot use them.
    pub fn with_optional_clients(identity: Identity, clients: Authorities) -> Result<Self, Error> {
        Self::with_verifier(identity, verifier(clients, true)?)
    }

    fn with_verifier(
        identity: Identity,
        clients: Arc<dyn ClientCertVerifier>,
    ) -> Result<Self, Error> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Error::Unreadable(error.to_string()))?;
        let builder = builder.with_client_cert_verifier(clients);
        let mut config =
            builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.0)));
        // A ticket that a client has not read resets its connection when it closes, and what was resumed
        // would outlive a certificate that was replaced.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }
}

/// Judges the certificates of clients.
fn verifier(
    Authorities(roots): Authorities,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| Error::Unreadable(error.to_string()))
}

/// Whether the connections of a listener begin with a handshake.
#[derive(Clone, Debug, Default)]
pub enum Policy {
    /// None does.
    #[default]
    Plain,
    /// Those do whose first byte is a handshake's, 0x16: text does not begin so, nor does a frame.
    Detect(Server),
    /// All do.
    Always(Server),
}

impl Policy {
    fn is_tls_alone(&self) -> bool {
        matches!(self, Self::Always(_))
    }
}

/// The [`Policy`] of a listener, which can be changed while it is served: for connections to come.
#[derive(Clone, Debug, Default)]
pub struct Port {
    policy: Arc<RwLock<Policy>>,
    tls_alone: Arc<AtomicBool>,
}

impl Port {
    /// A port with this policy.
    pub fn new(policy: Policy) -> Self {
        let tls_alone = Arc::new(AtomicBool::new(policy.is_tls_alone()));
        Self { policy: Arc::new(RwLock::new(policy)), tls_alone }
    }

    /// Changes it.
    pub fn set(&self, policy: Policy) {
        let mut current = self.policy.write().unwrap_or_else(PoisonError::into_inner);
        self.tls_alone.store(policy.is_tls_alone(), Relaxed);
        *current = policy;
    }

    /// Tells, now and later, whether nothing but TLS is spoken.
    pub(crate) fn tls_alone(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.tls_alone)
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whom a client trusts, and what it shows. Cheap to clone; equal to its clones alone.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    /// A client that trusts servers which one of these authorities vouches for, under the name it knows them
    /// by; `None` trusts anybody, which tells nothing of who is at the other end. It shows `identity` to
    /// servers that ask.
    ///
    /// # Errors
    /// rustls cannot use them.
    pub fn new(trusted: Option<Authorities>, identity: Option<Identity>) -> Result<Self, Error> {
        let unusable = |error: &dyn fmt::Display| Error::Unreadable(error.to_string());
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(&error))?;
        let chain = trusted.map(|Authorities(roots)| {
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()
        });
        let chain = chain.transpose().map_err(|error| unusable(&error))?;
        let verifier = Arc::new(Verifier { chain, provider });
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity(key)) => builder
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))),
        };
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Client {}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Trusts whoever has the key of the certificate that it shows, if somebody trusted vouches for that.
#[derive(Debug)]
struct Verifier {
    /// `None` trusts anybody.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.chain {
            Some(chain) => chain.verify_server_cert(certificate, between, name, ocsp, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    /// Not asked where only TLS 1.3 is spoken.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms).map_err(wrong_key)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

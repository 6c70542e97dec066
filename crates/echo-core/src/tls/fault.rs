//! What went wrong between two ends of TLS, in words.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};

use crate::HandshakeFault;

/// The error of rustls in an error of reading or writing.
fn tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

impl HandshakeFault {
    /// Why a handshake failed, as the server sees it.
    pub(crate) fn of(error: &io::Error) -> Self {
        match tls(error) {
            None => Self::Ended,
            Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => Self::NotTls,
            Some(Error::PeerIncompatible(_)) => Self::Incompatible,
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(_)) => Self::BadCertificate,
            Some(Error::AlertReceived(_)) => Self::Rejected,
            Some(_) => Self::Other,
        }
    }
}

/// Why a client does not take the server at the other end, in words; `None` if it was not TLS that failed.
pub(crate) fn untrusted(error: &io::Error, name: &str) -> Option<String> {
    Some(match tls(error)? {
        Error::InvalidCertificate(wrong) => certificate(wrong, name),
        Error::AlertReceived(alert) => return Some(told(*alert)),
        Error::InvalidMessage(_) | Error::InappropriateHandshakeMessage { .. } => {
            "the server does not speak TLS there: try tcp://".to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "the server speaks an older TLS: only TLS 1.3 is spoken here".to_owned(),
        Error::NoCertificatesPresented => "the server showed no certificate".to_owned(),
        error => format!("TLS failed: {error}"),
    })
}

/// What the server has against this client, if that is what ended the connection.
pub(crate) fn refusal(error: &io::Error) -> Option<String> {
    match tls(error)? {
        Error::AlertReceived(alert) => Some(told(*alert)),
        _ => None,
    }
}

fn certificate(wrong: &CertificateError, name: &str) -> String {
    use CertificateError as Wrong;
    match wrong {
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            "the server's certificate has expired: it needs a new one (or is this host's clock wrong?)"
                .to_owned()
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: is this host's clock wrong, or the server's?"
                .to_owned()
        }
        Wrong::NotValidForName => format!("the server's certificate is not for {name}"),
        Wrong::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> = presented.iter().map(|it| plain_name(it)).collect();
            if names.is_empty() {
                return format!(
                    "the server's certificate names no host: it needs one for {name} (as a subjectAltName)"
                );
            }
            format!(
                "the server's certificate is for {}, not for {name}: connect by such a name",
                names.join(", ")
            )
        }
        Wrong::UnknownIssuer => "nobody trusted here vouches for the server's certificate: give the \
                                 certificate of its authority, or itself where it has none (--ca FILE)"
            .to_owned(),
        Wrong::Revoked => "the server's certificate was revoked: it needs a new one".to_owned(),
        Wrong::BadEncoding => "the server's certificate cannot be read".to_owned(),
        Wrong::BadSignature | Wrong::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the server's certificate is not signed by the authority that is trusted here under the \
             same name, which may have a new key: give its certificate (--ca FILE)"
                .to_owned()
        }
        Wrong::UnsupportedSignatureAlgorithmContext { .. } => {
            "the server's certificate is signed in a way that is not safe any more (with SHA-1?), or that \
             is not known here: it needs a new one"
                .to_owned()
        }
        Wrong::Other(OtherError(other)) if other.is::<WrongKey>() => {
            "the key of the server's certificate does not prove anything: it is another one, or too short \
             (RSA has 2048 bits or more)"
                .to_owned()
        }
        Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => {
            "the server's certificate is not for servers: it needs one for serverAuth".to_owned()
        }
        // webpki's word for one that is an authority's, as `openssl req -x509` makes them.
        Wrong::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server shows a certificate for authorities: it needs one that is not (CA:FALSE), as \
             `echo-server tls self-signed` makes them"
                .to_owned()
        }
        other => format!("the server's certificate is wrong: {other}"),
    }
}

/// The certificate may be right, but what was to be signed with its key is not.
#[derive(Debug, thiserror::Error)]
#[error("not signed by the key of the certificate")]
struct WrongKey;

/// Tells a wrong signature of the handshake from one in a certificate: rustls has one error for both.
pub(super) fn wrong_key(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            CertificateError::Other(OtherError(Arc::new(WrongKey))).into()
        }
        error => error,
    }
}

/// `DnsName("localhost")` without what only Rust writes.
fn plain_name(presented: &str) -> String {
    let inner = presented.split_once('(').map_or(presented, |(_, rest)| rest.trim_end_matches(')'));
    inner.trim_matches('"').escape_debug().to_string()
}

fn told(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => {
            "the server requires a client certificate (--cert FILE --key FILE)".to_owned()
        }
        Alert::UnknownCA => "the server does not know the authority of our certificate: take one \
                             that its --tls-client-ca vouches for (--cert FILE --key FILE)"
            .to_owned(),
        Alert::CertificateExpired => "the server says that our certificate has expired, or is not \
                                      valid yet: get a new one (--cert FILE --key FILE)"
            .to_owned(),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateUnknown
        | Alert::AccessDenied
        | Alert::DecryptError => {
            format!("the server does not take our certificate ({alert:?}): --cert FILE --key FILE")
        }
        Alert::UnrecognisedName => "the server knows no such name".to_owned(),
        Alert::ProtocolVersion => {
            "the server does not speak TLS 1.3: no other is spoken here".to_owned()
        }
        alert => format!("the server ended TLS: {alert:?}"),
    }
}

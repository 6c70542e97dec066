//! What became of handshakes, and of streams under TLS.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a handshake of TLS failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandshakeFault {
    /// What came was no TLS.
    NotTls,
    /// The peer speaks no TLS 1.3, or no cipher that is spoken here.
    Incompatible,
    /// The peer showed no certificate, and has to.
    NoCertificate,
    /// Nobody trusted here vouches for the peer's certificate, or it is expired or for something else.
    BadCertificate,
    /// The peer ended it with an alert: it does not take our certificate, most likely.
    Rejected,
    /// The peer's stream ended, or failed.
    Ended,
    /// It took too long.
    TimedOut,
    /// It took its time while others waited for its place.
    Displaced,
    /// Something else.
    Other,
}

impl HandshakeFault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NotTls,
        Self::Incompatible,
        Self::NoCertificate,
        Self::BadCertificate,
        Self::Rejected,
        Self::Ended,
        Self::TimedOut,
        Self::Displaced,
        Self::Other,
    ];

    /// A word for labels: `not_tls` and so on.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::Rejected => "rejected",
            Self::Ended => "ended",
            Self::TimedOut => "timed_out",
            Self::Displaced => "displaced",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTls => "what came is no TLS",
            Self::Incompatible => "the peer speaks no TLS 1.3 that is spoken here",
            Self::NoCertificate => "the peer showed no certificate",
            Self::BadCertificate => "the peer's certificate is not trusted",
            Self::Rejected => "the peer rejected it",
            Self::Ended => "the peer ended it",
            Self::TimedOut => "it took too long",
            Self::Displaced => "it took too long for those who waited for its place",
            Self::Other => "it failed",
        })
    }
}

/// The counters of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsCounts {
    /// Handshakes that came to an end.
    pub handshakes: u64,
    /// Handshakes under way now.
    pub under_way: u64,
    /// Those that failed, in the order of [`HandshakeFault::ALL`].
    pub failed: [u64; HandshakeFault::ALL.len()],
    /// Handshakes that had to wait, as too many were under way.
    pub waited: u64,
    /// Streams that ended without close_notify.
    pub truncated: u64,
    /// Streams that were broken by what was no TLS, or was changed on its way.
    pub broken: u64,
}

impl TlsCounts {
    /// How many handshakes failed so.
    pub fn failed(&self, fault: HandshakeFault) -> u64 {
        self.failed[fault as usize]
    }
}

#[derive(Debug, Default)]
pub(crate) struct TlsStats {
    pub(crate) handshakes: AtomicU64,
    failed: [AtomicU64; HandshakeFault::ALL.len()],
    pub(crate) waited: AtomicU64,
    pub(crate) truncated: AtomicU64,
    pub(crate) broken: AtomicU64,
}

impl TlsStats {
    pub(crate) fn failed(&self, fault: HandshakeFault) -> &AtomicU64 {
        &self.failed[fault as usize]
    }

    /// All of them, but for what others know.
    pub(crate) fn snapshot(&self) -> TlsCounts {
        TlsCounts {
            handshakes: self.handshakes.load(Relaxed),
            under_way: 0,
            failed: HandshakeFault::ALL.map(|fault| self.failed(fault).load(Relaxed)),
            waited: self.waited.load(Relaxed),
            truncated: self.truncated.load(Relaxed),
            broken: self.broken.load(Relaxed),
        }
    }
}

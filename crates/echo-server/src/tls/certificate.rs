//! What is read of certificates: whom they name, and whether their time is right.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, X509Certificate};

/// A renewal that has not come by then is late: those that renew by themselves do so 30 days before the end.
const SOON: i64 = 30 * DAY;

const DAY: i64 = 24 * 60 * 60;

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unnamed {
    #[error("it cannot be read")]
    Unreadable,
    #[error("its subject has no common name")]
    None,
    #[error("its subject has several common names")]
    Several,
    #[error("its common name is no UTF-8, ASCII or printable string")]
    Encoding,
}

/// The subject's common name, if it is the only one. Whoever checks the certificate has to have done so.
pub(crate) fn common_name(certificate: &[u8]) -> Result<String, Unnamed> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| Unnamed::Unreadable)?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().ok_or(Unnamed::None)?;
    match names.next() {
        None => name.as_str().map(str::to_owned).map_err(|_| Unnamed::Encoding),
        Some(_) => Err(Unnamed::Several),
    }
}

/// What is wrong with a certificate's time, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Since that many seconds.
    Expired(u64),
    /// For that many seconds more.
    NotYetValid(u64),
    Unreadable,
    /// In that many seconds.
    ExpiresSoon(u64),
}

impl Trouble {
    /// What is wrong with this certificate at that time, if anything is.
    pub(crate) fn of(certificate: &[u8], now: SystemTime) -> Option<Self> {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Some(Self::Unreadable);
        };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
        let validity = certificate.validity();
        let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        // The last second of a certificate is one of its own.
        match (begin.saturating_sub(now), end.saturating_sub(now)) {
            (_, ..0) => Some(Self::Expired(now.abs_diff(end))),
            (1.., _) => Some(Self::NotYetValid(now.abs_diff(begin))),
            (_, ..SOON) => Some(Self::ExpiresSoon(now.abs_diff(end))),
            _ => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(ago) => {
                write!(f, "has expired {} ago: clients refuse it", Roughly(*ago))
            }
            Self::NotYetValid(wait) => {
                write!(f, "is not valid before {} from now: clients refuse it", Roughly(*wait))
            }
            Self::Unreadable => f.write_str("does not tell when it expires"),
            Self::ExpiresSoon(left) => write!(f, "expires in {}", Roughly(*left)),
        }
    }
}

/// Seconds in the unit in which people think of so many.
struct Roughly(u64);

impl fmt::Display for Roughly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(DAY.cast_unsigned(), "day"), (3600, "hour"), (60, "minute"), (1, "second")];
        let unit = units.into_iter().find(|(seconds, _)| self.0 >= *seconds);
        let (count, unit) = unit.map_or((0, "second"), |(seconds, unit)| (self.0 / seconds, unit));
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

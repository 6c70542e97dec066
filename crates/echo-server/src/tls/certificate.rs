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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn named(name: &str) -> Vec<u8> {
        made(|params| params.distinguished_name.push(DnType::CommonName, name))
    }

    #[test]
    fn a_certificate_has_one_name_or_none() {
        assert_eq!(common_name(&named("m\u{fc}ller")).as_deref(), Ok("m\u{fc}ller"));
        assert_eq!(common_name(&named("alice\0")).as_deref(), Ok("alice\0"));
        assert_eq!(common_name(&made(|_| {})), Err(Unnamed::None));
        let two = made(|params| {
            params.distinguished_name.push(DnType::CommonName, "alice");
            let again = DnType::CustomDnType(vec![2, 5, 4, 3]);
            params.distinguished_name.push(again, "alice");
        });
        assert_eq!(common_name(&two), Err(Unnamed::Several));
        for garbage in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", &two[..two.len() / 2]] {
            assert_eq!(common_name(garbage), Err(Unnamed::Unreadable));
            assert_eq!(Trouble::of(garbage, UNIX_EPOCH), Some(Trouble::Unreadable));
        }
    }

    #[test]
    fn a_certificate_is_judged_to_the_second() {
        // 2000-01-01 to 2001-01-01, both inclusive.
        let (begin, end) = (946_684_800, 978_307_200);
        let certificate = made(|params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        });
        let day = DAY.cast_unsigned();
        for (now, told) in [
            (0, "is not valid before 10957 days from now: clients refuse it"),
            (begin - 1, "is not valid before 1 second from now: clients refuse it"),
            (begin, ""),
            (end - 30 * day, ""),
            (end - 30 * day + 1, "expires in 29 days"),
            (end - 7300, "expires in 2 hours"),
            (end, "expires in 0 seconds"),
            (end + 1, "has expired 1 second ago: clients refuse it"),
            (end + 90, "has expired 1 minute ago: clients refuse it"),
            (end + 400 * day, "has expired 400 days ago: clients refuse it"),
        ] {
            let now = UNIX_EPOCH + std::time::Duration::from_secs(now);
            let trouble = Trouble::of(&certificate, now);
            assert_eq!(trouble.map_or(String::new(), |it| it.to_string()), told, "{now:?}");
        }
    }

    /// Whatever a certificate holds, it is read or it is not.
    #[test]
    fn nothing_that_is_read_panics() {
        let good = named("alice");
        let rounds = if std::env::var_os("LONG").is_some() { 1_000_000 } else { 10_000 };
        for seed in 0..rounds {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = good.clone();
            for _ in 0..random.usize(0..8) {
                let index = random.usize(..bytes.len());
                bytes[index] = random.u8(..);
            }
            if random.bool() {
                bytes.truncate(random.usize(..bytes.len()));
            }
            let _ = common_name(&bytes);
            let _ = Trouble::of(&bytes, UNIX_EPOCH);
        }
    }
}

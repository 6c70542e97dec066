//! `tls self-signed`: a certificate without an authority, and its key.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::exit::{Failure, SOFTWARE, reason};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks of hosts differ a little: for those that are behind it is valid as well.
const BEFORE: Duration = Duration::from_secs(60);
/// What a common name may hold (RFC 5280, appendix A.1: ub-common-name).
const MAX_COMMON_NAME: usize = 64;

/// What is made for TLS.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Make a certificate that no authority vouches for, and its key, for tests
    SelfSigned {
        /// A DNS name or an IP address by which clients connect; may be given several times
        #[arg(long = "name", value_name = "HOST", required = true, value_parser = host)]
        names: Vec<String>,

        /// The folder for cert.pem and key.pem, made if it is missing
        #[arg(long, value_name = "DIR")]
        out: PathBuf,

        /// For how many days it is valid
        #[arg(long, value_name = "COUNT", default_value_t = 90)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
}

/// Makes them, and says where they are.
pub(crate) fn run(task: &Task) -> Result<String, Failure> {
    let Task::SelfSigned { names, out, days } = task;
    let (cert_path, key_path) = (out.join("cert.pem"), out.join("key.pem"));
    let made = make(names, *days)
        .map_err(|error| Failure::new(SOFTWARE, format!("cannot make the certificate: {error}")))?;
    DirBuilder::new().recursive(true).mode(0o755).create(out).map_err(|e| failed(out, true, &e))?;
    let key = New::write(&key_path, 0o600, made.key.as_bytes())?;
    let cert = New::write(&cert_path, 0o644, made.certificate.as_bytes())?;
    File::open(out).and_then(|it| it.sync_all()).map_err(|error| failed(out, true, &error))?;
    key.keep();
    cert.keep();
    let first = names.first().map_or("", String::as_str);
    let brackets = first.parse::<Ipv6Addr>().is_ok();
    let host = if brackets { format!("[{first}]") } else { first.to_owned() };
    let (cert, key, print) = (cert_path.display(), key_path.display(), made.fingerprint);
    Ok(format!(
        "certificate {cert}\nkey {key}\nSHA-256 {print}\ntry echo-client --ca {cert} tls://{host}:7777\n"
    ))
}

struct Made {
    certificate: String,
    key: Zeroizing<String>,
    /// As `openssl x509 -fingerprint -sha256` writes it.
    fingerprint: String,
}

fn make(names: &[String], days: u32) -> Result<Made, rcgen::Error> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let begin = now.map_err(|_| rcgen::Error::Time)?.saturating_sub(BEFORE);
    let mut params = CertificateParams::new(names)?;
    params.not_before = date_time_ymd(1970, 1, 1) + begin;
    params.not_after = params.not_before + DAY * days;
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let short = names.iter().find(|name| name.len() <= MAX_COMMON_NAME);
    params.distinguished_name.push(DnType::CommonName, short.map_or("echo-server", |it| it));
    let key = Zeroizing::new(KeyPair::generate()?);
    let certificate = params.self_signed(&*key)?;
    let digest = Sha256::digest(certificate.der());
    let fingerprint: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(Made {
        certificate: certificate.pem(),
        key: Zeroizing::new(key.serialize_pem()),
        fingerprint: fingerprint.join(":"),
    })
}

/// A file that was not there before, and is removed again unless it is [kept](Self::keep).
struct New<'a>(Option<&'a Path>);

impl<'a> New<'a> {
    fn write(path: &'a Path, mode: u32, text: &[u8]) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        let mut file = file.map_err(|error| failed(path, false, &error))?;
        let new = Self(Some(path));
        // The umask may have taken more away.
        file.set_permissions(Permissions::from_mode(mode))
            .and_then(|()| file.write_all(text))
            .and_then(|()| file.sync_all())
            .map_err(|error| failed(path, false, &error))?;
        Ok(new)
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // What went wrong before says more than a second error would.
            let _ = fs::remove_file(path);
        }
    }
}

fn failed(path: &Path, is_out: bool, error: &io::Error) -> Failure {
    let why = match error.kind() {
        // The folder may be there, so it is something else.
        ErrorKind::AlreadyExists if is_out => "it is no folder: give one with --out".to_owned(),
        ErrorKind::NotADirectory => {
            "a file is on the way: give another folder with --out".to_owned()
        }
        ErrorKind::AlreadyExists => {
            "it is there already: remove it, or give another --out".to_owned()
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            let reason = reason(error);
            format!("{reason}: give a folder with --out that this user may write to")
        }
        _ => reason(error),
    };
    Failure::not_written(error, format!("cannot write {}: {why}", path.display()))
}

/// An IP address, or a DNS name as clients take it: letters, digits, `-` and `_`, and no number at the end.
fn host(text: &str) -> Result<String, String> {
    let fits = |label: &str| {
        let plain = label.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it));
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let ends_in_number = text.rsplit('.').next().is_some_and(|it| it.parse::<u64>().is_ok());
    let is_name = text.len() <= 253 && text.split('.').all(fits) && !ends_in_number;
    if is_name || text.parse::<IpAddr>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("write a DNS name or an IP address, without port and brackets".to_owned())
    }
}

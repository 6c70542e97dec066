//! Whom a `tls://` server must be, and what it is shown.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use echo_core::tls::{Authorities, Client, Error, Identity};
use zeroize::Zeroizing;

use crate::args::Connecting;
use crate::escape::escape;
use crate::failure::reason;

/// Far more than any chain or list of authorities needs; something else was meant.
const MAX_LEN: u64 = 4 << 20;

/// What the command line says of trust, read from its files or from where this system has its authorities.
pub(crate) fn client(connecting: &Connecting) -> Result<Client, String> {
    let trusted = match &connecting.ca {
        _ if connecting.insecure => None,
        Some(path) => Some(Authorities::from_pem(&contents(path)?).map_err(unusable(path))?),
        None => Some(of_system()?),
    };
    let identity = match (&connecting.cert, &connecting.key) {
        (Some(cert), Some(key)) => {
            let (certificate, secret) = (contents(cert)?, contents(key)?);
            Some(
                Identity::from_pem(&certificate, &secret)
                    .map_err(|error| error.in_files(&shown(cert), &shown(key)))?,
            )
        }
        _ => None,
    };
    Client::new(trusted, identity).map_err(|error| format!("cannot use TLS: {error}"))
}

fn of_system() -> Result<Authorities, String> {
    let found = rustls_native_certs::load_native_certs();
    Authorities::from_der(found.certs.iter().map(AsRef::as_ref)).map_err(|_| {
        "this system has no list of authorities (Debian: the package ca-certificates): give the \
         certificate of the server's authority (--ca FILE)"
            .to_owned()
    })
}

fn contents(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let cannot = |why: &str| format!("cannot read {}: {why}", shown(path));
    let about = fs::metadata(path).map_err(|error| cannot(&reason(&error)))?;
    if about.is_dir() {
        return Err(cannot("it is a folder"));
    }
    if about.len() > MAX_LEN {
        return Err(cannot("it is longer than 4 MiB"));
    }
    // With room for all of a file, so that nothing is left where it has grown.
    let mut text = Zeroizing::new(Vec::with_capacity(about.len() as usize + 1));
    let read = File::open(path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut text));
    read.map_err(|error| cannot(&reason(&error)))?;
    Ok(text)
}

fn unusable(path: &Path) -> impl FnOnce(Error) -> String {
    move |error| format!("cannot use {}: {error}", shown(path))
}

fn shown(path: &Path) -> String {
    escape(&path.display().to_string())
}

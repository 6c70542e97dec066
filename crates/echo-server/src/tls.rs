//! Certificates and keys from their files, as the listeners show them and `check` judges them.

pub(crate) mod certificate;
pub(crate) mod self_signed;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use echo_core::tls::{Authorities, Error, Identity, Policy, Server};
use echo_core::{Endpoint, Mode};
use zeroize::Zeroizing;

use crate::auth;
use crate::config::Config;
use crate::exit::{self, CONFIG, Failure};
use crate::secrecy;
use crate::settings::Settings;
use certificate::Trouble;

/// Far more than any chain needs; something else was meant.
const MAX_LEN: u64 = 1 << 20;

/// What listeners show, and whether they ask for certificates.
#[derive(Clone, Debug)]
pub(crate) struct Secured {
    server: Server,
    /// The same where clients may authenticate otherwise, and so need not show a certificate.
    lenient: Server,
    /// What is to be said of the certificates' time.
    warning: Option<String>,
}

impl Secured {
    /// What is wrong with the time of the certificates, in a line.
    pub(crate) fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// What the connections of a listener begin with.
    pub(crate) fn policy(&self, endpoint: &Endpoint) -> Policy {
        let server = if auth::is_required(endpoint) { &self.lenient } else { &self.server };
        match endpoint.mode.unwrap_or_default() {
            _ if endpoint.tls => Policy::Always(server.clone()),
            Mode::Auto => Policy::Detect(server.clone()),
            _ => Policy::Plain,
        }
    }
}

/// Reads what the listeners show, if there are certificates, and sees to it that those which need it have it.
pub(crate) fn secured(config: &Config) -> Result<Option<Secured>, Failure> {
    let secured = read(&config.settings)?;
    if secured.is_none()
        && let Some(index) = config.listen.iter().position(|(_, endpoint)| endpoint.tls)
    {
        return Err(config.blame_listen(index, "tls:// takes --tls-cert and --tls-key"));
    }
    Ok(secured)
}

fn read(settings: &Settings) -> Result<Option<Secured>, Failure> {
    let Settings { tls_cert, tls_key, tls_client_ca, .. } = settings;
    let (cert, key) = match (tls_cert, tls_key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) if tls_client_ca.is_none() => return Ok(None),
        _ => {
            let message = "--tls-cert and --tls-key go together, and --tls-client-ca with both";
            return Err(Failure::new(CONFIG, message));
        }
    };
    secrecy::protect();
    let (cert_text, key_text) = (contents(cert)?, contents(key)?);
    let identity = Identity::from_pem(&cert_text, &key_text).map_err(|error| {
        let told = error.in_files(&cert.display().to_string(), &key.display().to_string());
        Failure::new(CONFIG, told)
    })?;
    let clients = match tls_client_ca {
        None => None,
        Some(path) => {
            let authorities = Authorities::from_pem(&contents(path)?);
            Some(authorities.map_err(|error| cannot_use(path, &error))?)
        }
    };
    let unusable = |error| cannot_use(cert, &error);
    let warning = warning(cert, &identity);
    let server = Server::new(identity.clone(), clients.clone()).map_err(unusable)?;
    let lenient = match clients {
        None => server.clone(),
        Some(clients) => Server::with_optional_clients(identity, clients).map_err(unusable)?,
    };
    Ok(Some(Secured { server, lenient, warning }))
}

/// The worst that is to be said of the time of those in the file.
fn warning(path: &Path, identity: &Identity) -> Option<String> {
    let now = SystemTime::now();
    let troubles = identity.chain().enumerate();
    let troubles = troubles.filter_map(|(index, it)| Some((Trouble::of(it, now)?, index)));
    let (trouble, index) = troubles.min()?;
    let which = if index == 0 { "the certificate" } else { "an authority's certificate" };
    Some(format!("{which} in {} {trouble}", path.display()))
}

fn contents(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let wrong = |why: &str| Failure::new(CONFIG, format!("cannot read {}: {why}", path.display()));
    // Opening a pipe that nobody writes to would wait for ever.
    let about = fs::metadata(path).map_err(|error| wrong(&exit::reason(&error)))?;
    if !about.is_file() {
        return Err(wrong("it is no file"));
    }
    if about.len() > MAX_LEN {
        return Err(wrong("it is longer than 1 MiB"));
    }
    // With room for all of it, so that nothing is left where it has grown.
    let mut text = Zeroizing::new(Vec::with_capacity(about.len() as usize + 1));
    let file = File::open(path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut text));
    file.map_err(|error| wrong(&exit::reason(&error)))?;
    Ok(text)
}

fn cannot_use(path: &Path, error: &Error) -> Failure {
    Failure::new(CONFIG, format!("cannot use {}: {error}", path.display()))
}

//! What the log says of UDP sockets that others than this host can reach.

use echo_core::{Endpoint, Limits, LocalAddr};

/// The line about one listener: said at its start, and again when a reload has changed it.
#[derive(Debug)]
pub(crate) struct Protection {
    /// Whether others than this host can reach it by UDP.
    open: bool,
    said: Option<String>,
}

impl Protection {
    pub(crate) fn new<'a>(mut addresses: impl Iterator<Item = &'a LocalAddr>) -> Self {
        let is_open = |it: &LocalAddr| matches!(it, LocalAddr::Udp(it) if !it.ip().is_loopback());
        Self { open: addresses.any(is_open), said: None }
    }

    /// Logs what the protection of `endpoint`, announced as `uri`, is set to, if that is news.
    pub(crate) fn say(&mut self, uri: &str, endpoint: &Endpoint, limits: &Limits) {
        let line = self.open.then(|| line(uri, endpoint, limits));
        if self.said != line {
            line.iter().for_each(|line| tracing::info!("{line}"));
            self.said = line;
        }
    }
}

fn line(uri: &str, endpoint: &Endpoint, limits: &Limits) -> String {
    // The options it was announced with may be others by now.
    let place = uri.split('?').next().unwrap_or(uri);
    let rate = endpoint.rate.unwrap_or(limits.udp_rate);
    let ports = match limits.udp_refuse_ports.to_string() {
        none if none.is_empty() => String::new(),
        ports => format!("source ports {ports}, "),
    };
    format!(
        "{place} is open to the network: each source (IPv4 address, IPv6 /64) gets at most {rate} \
         answers a second and as many at once; refused are {ports}our own UDP ports, and addresses of \
         many or of loopback; no answer is longer than its request"
    )
}

//! What operators watch: the counters of the service and of this process as metrics.
//!
//! No label holds what a peer chose: there is one series for each listener, and for each word that this
//! program knows.

pub(crate) mod exposition;
mod files;
mod process;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use echo_core::{
    Datagrams, HandshakeFault, ListenerSnapshot, LocalAddr, Service, ServiceTime, Snapshot,
    TlsCounts,
};

use self::exposition::{Exposition, Format};
use self::process::Process;
use crate::auth::Auth;
use crate::files::{Files, Limit};
use crate::logging::Log;
use crate::readiness::Readiness;

/// The label of the listeners that ended long ago.
const OTHERS: &str = "other";

/// The store, once it is open.
pub(crate) type Stored = Arc<OnceLock<Arc<Files>>>;

/// Where the numbers come from.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) service: Service,
    pub(crate) readiness: Readiness,
    pub(crate) admin: AdminStats,
    auth: Arc<Auth>,
    stored: Stored,
    log: Log,
    process: Process,
}

/// The counters of the admin endpoint, which is no part of the service.
#[derive(Debug, Default)]
pub(crate) struct AdminStats {
    /// Requests answered.
    pub(crate) requests: AtomicU64,
    /// Connections closed to make room for others.
    pub(crate) evicted: AtomicU64,
    /// Requests that were longer than what is read.
    pub(crate) too_long: AtomicU64,
    /// Connections that took too long.
    pub(crate) late: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(
        service: Service,
        auth: Arc<Auth>,
        stored: Stored,
        readiness: Readiness,
        log: Log,
    ) -> io::Result<Self> {
        let (admin, process) = (AdminStats::default(), Process::new()?);
        Ok(Self { service, readiness, admin, auth, stored, log, process })
    }

    /// All of them at this moment.
    pub(crate) fn expose(&self, format: Format) -> String {
        let mut out = Exposition::new(format);
        let stats = self.service.stats();
        out.info("echo_build", "What runs here.", &[("version", env!("CARGO_PKG_VERSION"))]);
        self.expose_state(&mut out);
        self.expose_connections(&mut out);
        expose_traffic(&mut out, &stats);
        self.expose_bounds(&mut out, &stats);
        expose_faults(&mut out, &stats);
        expose_tls(&mut out, &stats.tls);
        self.expose_auth(&mut out);
        if let Some(files) = self.stored.get() {
            files::expose(&mut out, files);
        }
        expose_datagrams(&mut out, &stats.datagrams);
        out.counter("echo_admin_requests", "Requests that the admin endpoint has answered.")
            .sample(&[], self.admin.requests.load(Relaxed));
        self.process.expose(&mut out);
        out.finish()
    }

    fn expose_state(&self, out: &mut Exposition) {
        let ready = self.readiness.check(&self.service).is_ok();
        out.gauge("echo_ready", "Whether new connections are welcome, as /readyz says.")
            .sample(&[], u8::from(ready));
        let draining = self.service.drain().is_started();
        out.gauge("echo_draining", "Whether the service drains.").sample(&[], u8::from(draining));
    }

    fn expose_connections(&self, out: &mut Exposition) {
        let listeners = self.service.listeners();
        let name = |it: &ListenerSnapshot| match &it.address {
            Some(address) => uri(address, it.tls),
            None => OTHERS.to_owned(),
        };
        let listeners: Vec<_> = listeners.iter().map(|it| (name(it), it)).collect();
        let mut open = out.gauge("echo_connections", "Open connections by what they are about.");
        for (uri, listener) in &listeners {
            let counts = listener.open;
            for (state, count) in [
                ("undecided", counts.undecided),
                ("raw", counts.raw),
                ("framed", counts.framed),
                ("closing", counts.closing),
            ] {
                open.sample(&[("listener", uri), ("state", state)], count);
            }
        }
        out.gauge("echo_connections_max", "The limit on open connections.")
            .sample(&[], self.service.stats().max_connections);
        let mut accepted = out.counter("echo_connections_accepted", "Connections accepted.");
        for (uri, listener) in &listeners {
            accepted.sample(&[("listener", uri)], listener.accepted);
        }
        let mut ended = out.counter(
            "echo_connections_ended",
            "Connections that have ended: completed (both sides closed), quiet (ours closed, the peer \
             silent), forced (cut), failed (by the peer or the path), panicked.",
        );
        for (uri, listener) in &listeners {
            let counts = listener.ended;
            for (ending, count) in [
                ("completed", counts.completed),
                ("quiet", counts.quiet),
                ("forced", counts.forced),
                ("failed", counts.failed),
                ("panicked", counts.panicked),
            ] {
                ended.sample(&[("listener", uri), ("ending", ending)], count);
            }
        }
    }

    fn expose_auth(&self, out: &mut Exposition) {
        let mut success = out.counter("echo_auth_success", "Users that have authenticated.");
        for (mechanism, counts) in self.auth.stats() {
            success.sample(&[("mechanism", mechanism)], counts.success.load(Relaxed));
        }
        let mut failure =
            out.counter("echo_auth_failure", "Exchanges that failed or were given up.");
        for (mechanism, counts) in self.auth.stats() {
            failure.sample(&[("mechanism", mechanism)], counts.failure.load(Relaxed));
        }
    }

    fn expose_bounds(&self, out: &mut Exposition, stats: &Snapshot) {
        let mut reached = out.counter(
            "echo_limit_reached",
            "How often each bound was hit; README says which they are.",
        );
        for (limit, count) in [
            ("connections", stats.gate_full),
            ("busy", stats.busy),
            ("per_source", stats.source_refused),
            ("frame_length", stats.too_long),
            ("control_length", stats.control_too_long),
            ("idle_timeout", stats.idle),
            ("frame_timeout", stats.frame_timeouts),
            ("write_timeout", stats.write_timeouts),
            ("auth_timeout", stats.login_timeouts),
            ("auth_slowed", self.auth.slowed()),
            ("auth_at_once", self.auth.refused()),
            ("auth_tries", self.auth.exhausted()),
            ("write_buffer", stats.writes_blocked),
            ("linger", stats.linger_timeouts),
            ("turn", stats.turns_full),
            ("pipes", stats.pipes_exhausted),
            ("descriptors", stats.accept_exhausted),
            ("handshakes", stats.tls.waited),
            ("drain_timeout", stats.drain_timeouts),
            ("drain_queue", stats.reset_in_queue),
            ("last_pass", stats.last_pass_full),
            ("datagram_rate", stats.datagrams.over_rate),
            ("datagram_loop", stats.datagrams.loop_guard),
            ("datagram_sources", stats.datagrams.rates_shared),
            ("datagram_length", stats.datagrams.truncated),
            ("datagram_batch", stats.datagrams.batches_full),
            ("datagram_queue", stats.datagrams.kernel_drops),
            ("datagram_drain", stats.datagrams.left_in_queue),
            ("log_lines", self.log.dropped()),
            ("admin_connections", self.admin.evicted.load(Relaxed)),
            ("admin_request", self.admin.too_long.load(Relaxed)),
            ("admin_timeout", self.admin.late.load(Relaxed)),
        ] {
            reached.sample(&[("limit", limit)], count);
        }
        for limit in Limit::ALL {
            let count = self.stored.get().map_or(0, |files| files.reached(limit));
            reached.sample(&[("limit", limit.word())], count);
        }
        // The kernel's: of all sockets of this host (or container).
        if let Some(overflows) = process::listen_overflows() {
            reached.sample(&[("limit", "accept_queue")], overflows);
        }
    }
}

fn expose_traffic(out: &mut Exposition, stats: &Snapshot) {
    out.counter("echo_frames", "Frames answered, of every kind.").sample(&[], stats.frames);
    out.counter("echo_received_bytes", "Bytes read, from connections and in datagrams.")
        .sample(&[], stats.bytes_in);
    out.counter("echo_sent_bytes", "Bytes written, to connections and in datagrams.")
        .sample(&[], stats.bytes_out);
    let mut times = out.histogram(
        "echo_service_seconds",
        "From the read that brought a request to the write that handed its answer to the kernel; of \
         one turn in 61.",
    );
    for (transport, time) in
        [("stream", &stats.service_time), ("datagram", &stats.datagram_service_time)]
    {
        distribution(&mut times, transport, time);
    }
    out.counter("echo_drains", "Drains that have begun, each of one listener.")
        .sample(&[], stats.drains);
}

fn distribution(times: &mut exposition::Family<'_>, transport: &str, time: &ServiceTime) {
    let at_most =
        time.at_most().map(|(bound, count): (Duration, u64)| (bound.as_secs_f64(), count));
    let all = (time.count(), time.sum.as_secs_f64());
    times.distribution(&[("transport", transport)], at_most, all);
}

fn expose_faults(out: &mut Exposition, stats: &Snapshot) {
    let mut accepts = out.counter(
        "echo_accept_errors",
        "Failed accepts: of one connection, for want of descriptors or memory (exhausted), of a \
         broken listener.",
    );
    for (class, count) in [
        ("connection", stats.accept_connection),
        ("exhausted", stats.accept_exhausted),
        ("listener", stats.accept_listener),
    ] {
        accepts.sample(&[("class", class)], count);
    }
    let mut faults = out.counter("echo_peer_faults", "What peers did against the protocol.");
    for (fault, count) in [
        ("unexpected_kind", stats.unexpected_kind),
        ("malformed", stats.malformed),
        ("truncated", stats.truncated),
        ("denied", stats.denied),
        ("forbidden", stats.forbidden),
    ] {
        faults.sample(&[("fault", fault)], count);
    }
}

fn expose_tls(out: &mut Exposition, tls: &TlsCounts) {
    out.counter("echo_tls_handshakes", "Handshakes of TLS that came to an end.")
        .sample(&[], tls.handshakes);
    out.gauge("echo_tls_handshakes_open", "Handshakes under way.").sample(&[], tls.under_way);
    let mut failed = out.counter("echo_tls_handshakes_failed", "Handshakes that failed, and why.");
    for fault in HandshakeFault::ALL {
        failed.sample(&[("reason", fault.word())], tls.failed(fault));
    }
    let mut faults = out.counter(
        "echo_tls_streams_cut",
        "Streams under TLS that ended without close_notify (truncated), or with bytes that are no TLS \
         (broken).",
    );
    for (fault, count) in [("truncated", tls.truncated), ("broken", tls.broken)] {
        faults.sample(&[("fault", fault)], count);
    }
}

fn expose_datagrams(out: &mut Exposition, datagrams: &Datagrams) {
    out.counter("echo_datagrams_received", "Datagrams received.").sample(&[], datagrams.received);
    out.counter("echo_datagrams_answered", "Datagrams sent back.").sample(&[], datagrams.answered);
    let mut refused =
        out.counter("echo_datagrams_unanswered", "Datagrams received and not answered.");
    for (reason, count) in [
        ("truncated", datagrams.truncated),
        ("refused_port", datagrams.refused_port),
        ("refused_address", datagrams.refused_address),
        ("over_rate", datagrams.over_rate),
        ("loop_guard", datagrams.loop_guard),
        ("probe_reply", datagrams.probe_replies),
        ("unnamed", datagrams.unnamed),
        ("blocked", datagrams.blocked),
        ("failed", datagrams.failed),
    ] {
        refused.sample(&[("reason", reason)], count);
    }
    out.counter("echo_datagram_receive_errors", "Calls to receive datagrams that failed.")
        .sample(&[], datagrams.receive_errors);
}

/// A listener's address as operators write it.
pub(crate) fn uri(address: &LocalAddr, tls: bool) -> String {
    match address {
        LocalAddr::Tcp(address) if tls => format!("tls://{address}"),
        LocalAddr::Tcp(address) => format!("tcp://{address}"),
        LocalAddr::Unix(name) => format!("unix:{name}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Counter = fn(&mut Snapshot) -> &mut u64;

    /// Each bound under its own name: a number that is in the wrong place leads an operator astray.
    #[test]
    fn each_limit_has_the_counter_of_its_name() {
        let (service, auth, stored) = (Service::default(), Arc::default(), Arc::default());
        let metrics = Metrics::new(service, auth, stored, Readiness::starting(), Log::nowhere());
        let mut stats = Snapshot::default();
        let counters: [(&str, Counter); 22] = [
            ("connections", |it| &mut it.gate_full),
            ("busy", |it| &mut it.busy),
            ("per_source", |it| &mut it.source_refused),
            ("frame_length", |it| &mut it.too_long),
            ("control_length", |it| &mut it.control_too_long),
            ("idle_timeout", |it| &mut it.idle),
            ("frame_timeout", |it| &mut it.frame_timeouts),
            ("write_timeout", |it| &mut it.write_timeouts),
            ("write_buffer", |it| &mut it.writes_blocked),
            ("linger", |it| &mut it.linger_timeouts),
            ("turn", |it| &mut it.turns_full),
            ("pipes", |it| &mut it.pipes_exhausted),
            ("descriptors", |it| &mut it.accept_exhausted),
            ("drain_timeout", |it| &mut it.drain_timeouts),
            ("drain_queue", |it| &mut it.reset_in_queue),
            ("last_pass", |it| &mut it.last_pass_full),
            ("datagram_rate", |it| &mut it.datagrams.over_rate),
            ("datagram_sources", |it| &mut it.datagrams.rates_shared),
            ("datagram_length", |it| &mut it.datagrams.truncated),
            ("datagram_batch", |it| &mut it.datagrams.batches_full),
            ("datagram_queue", |it| &mut it.datagrams.kernel_drops),
            ("datagram_drain", |it| &mut it.datagrams.left_in_queue),
        ];
        for (number, (_, counter)) in (101..).zip(counters) {
            *counter(&mut stats) = number;
        }
        let mut out = Exposition::new(Format::Text);
        metrics.unwrap().expose_bounds(&mut out, &stats);
        let text = out.finish();
        for (number, (limit, _)) in (101..).zip(counters) {
            let line = format!("echo_limit_reached_total{{limit=\"{limit}\"}} {number}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}

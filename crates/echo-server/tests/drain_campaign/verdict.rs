//! What a drain owes to each connection, and whether it was paid.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use crate::client::{Behaviour, Connection, Outcome};
use crate::script::Speech;
use crate::support::process::Queues;
use crate::support::traffic::End;

/// The last pass over what a socket holds when the drain begins goes no further than this.
const LAST_PASS: u64 = 1 << 20;

/// Where a connection stood just before the signal.
#[derive(Debug)]
pub(crate) struct Before {
    /// Bytes that had certainly arrived at the server.
    pub(crate) arrived: u64,
    /// Bytes that the server had certainly read: it had answered them.
    pub(crate) confirmed: u64,
}

impl Before {
    /// Takes the state of all. What is sent between the two looks at a connection makes `arrived`
    /// smaller than it is, never larger.
    pub(crate) fn all(connections: &[Connection<'_>], queues: &dyn Fn() -> Queues) -> Vec<Self> {
        let progress: Vec<_> = connections.iter().map(|each| each.progress.get()).collect();
        let queues = queues();
        let both = connections.iter().zip(progress);
        both.map(|(connection, progress)| Self {
            arrived: connection.peer.arrived(progress.sent, &queues),
            confirmed: progress.confirmed,
        })
        .collect()
    }

    /// Bytes that the drain must answer.
    fn owed(&self) -> u64 {
        self.arrived.min(self.confirmed + LAST_PASS)
    }
}

/// Judges one connection; `Err` says what the server did wrong. `forced`: the server says that it
/// has cut some.
pub(crate) fn judge(
    connection: &Connection<'_>,
    before: &Before,
    outcome: &Outcome,
    forced: bool,
) -> Result<Totals, String> {
    let fins = u64::from(outcome.end == End::Fin);
    let mut totals = Totals { connections: 1, fins, ..Totals::default() };
    if let Some((reason, answered)) = outcome.goaway {
        totals.goaways = 1;
        if reason != 0 || answered != outcome.answers {
            return Err(format!("GOAWAY says {answered} (reason {reason}), {outcome:?}"));
        }
    }
    let verdict =
        if outcome.end == End::Reset { Ok(false) } else { paid(connection, before, outcome) };
    // A Unix socket knows no reset: one that was cut may look as if it had ended by FIN.
    let unix = connection.peer.is_unix();
    match verdict {
        Ok(paid) => totals.cuts = u64::from(!paid),
        Err(_) if unix && forced => totals.cuts = 1,
        Err(defect) => return Err(defect),
    }
    Ok(totals)
}

/// Whether a connection that ended by FIN got what it was owed.
fn paid(connection: &Connection<'_>, before: &Before, outcome: &Outcome) -> Result<bool, String> {
    if outcome.cut {
        return Err(format!("FIN inside a frame, {outcome:?}"));
    }
    let said_hello = connection.script.speech == Speech::Hello && outcome.answers > 0;
    let half_closed = connection.plan.behaviour == Behaviour::HalfClosed;
    if said_hello && !half_closed && outcome.goaway.is_none() {
        return Err(format!("no GOAWAY, {outcome:?}"));
    }
    let now = connection.progress.get();
    let owed = before.owed().max(now.due);
    let paid = match connection.script.speech {
        Speech::Raw => now.confirmed >= owed,
        // The first item without an answer had not arrived whole.
        _ => now.confirmed + connection.script.request_len(outcome.answers) > owed,
    };
    if paid { Ok(true) } else { Err(format!("lost: {owed} bytes were due, {now:?}, {outcome:?}")) }
}

/// What a run, and all of them together, came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) drains: u64,
    pub(crate) connections: u64,
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) goaways: u64,
    /// Connections that ended by FIN; under TLS each behind close_notify, or the reader would have failed.
    pub(crate) fins: u64,
    /// Connections that a reset ended, or the end inside a frame on a Unix socket.
    pub(crate) cuts: u64,
    pub(crate) forced: u64,
    /// From the signal to the exit, where nobody was stuck.
    pub(crate) slowest: Duration,
}

impl Totals {
    /// Checks the server's own account of the drain.
    pub(crate) fn of_server(
        summary: &BTreeMap<String, u64>,
        code: Option<i32>,
        stuck: bool,
        connections: &[Connection<'_>],
    ) -> Self {
        let half_closed =
            connections.iter().filter(|each| each.plan.behaviour == Behaviour::HalfClosed).count();
        let must_be_forced = connections.iter().filter(|each| each.plan.stuck).count();
        // Those that had half-closed may have ended before the drain.
        let drained = summary["connections"] as usize;
        assert!(drained <= connections.len(), "of {}: {summary:?}", connections.len());
        assert!(drained + half_closed >= connections.len(), "{summary:?}");
        assert!(summary["forced"] as usize >= must_be_forced, "{must_be_forced}: {summary:?}");
        assert!(stuck || summary["forced"] == 0, "{summary:?}");
        assert_eq!(summary["failed"] + summary["panicked"], 0, "{summary:?}");
        assert_eq!(code, Some(if summary["forced"] > 0 { 3 } else { 0 }), "{summary:?}");
        Self { drains: 1, forced: summary["forced"], ..Self::default() }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.drains += other.drains;
        self.connections += other.connections;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.goaways += other.goaways;
        self.fins += other.fins;
        self.cuts += other.cuts;
        self.forced += other.forced;
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drains, connections, frames, bytes, goaways, fins, cuts, forced, slowest } =
            self;
        let mib = bytes >> 20;
        write!(
            f,
            "{drains} drains, {connections} connections, {frames} frames, {mib} MiB, \
             {goaways} GOAWAYs, {fins} FINs, {forced} forced at the deadline ({cuts} seen as cut), slowest end \
             without a stuck peer {slowest:.1?}; lost 0, doubled 0, reordered 0, cut in silence 0"
        )
    }
}

//! What is told of each file while it happens: lines for people, or objects for programs.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use echo_core::Digest;
use serde_json::{Value, json};

use super::progress::{Meter, Progress};
use crate::escape::{escape_bytes, escape_json, to_hex};
use crate::stdio::{self, Output};

/// How often it is told how far a file is, and how long it takes at least before that is told.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// So many lines wait at most for that of a file before theirs, which may be one that takes hours.
const WAITING: usize = 10_000;

/// A file that has arrived, or as much of it as was wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// What a command does with files, and how that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Stored,
    Got,
}

/// Where it is told.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    quiet: bool,
    /// Names are printed for somebody's eyes.
    terminal: bool,
    pub(super) progress: Progress,
    output: Output,
    /// Files that take long.
    running: Mutex<Vec<(Vec<u8>, Arc<Meter>)>>,
    /// There is no way to the server, and that is told: not once for each connection.
    away: AtomicBool,
    lines: tokio::sync::Mutex<Lines>,
}

/// Lines that wait for those of files before theirs: a list is in the order of the command line, in
/// whatever order the files arrive.
#[derive(Debug, Default)]
struct Lines {
    next: u64,
    waiting: BTreeMap<u64, Vec<u8>>,
}

impl Lines {
    /// The next one, if it has come, or if more wait for it than should.
    fn take(&mut self) -> Option<Vec<u8>> {
        let first = self.waiting.first_entry()?;
        let index = *first.key();
        if index > self.next && self.waiting.len() <= WAITING {
            return None;
        }
        self.next = self.next.max(index + 1);
        self.waiting.remove(&index)
    }
}

impl Report {
    pub(super) fn new(json: bool, quiet: bool, output: Output) -> Self {
        Self {
            json,
            quiet,
            terminal: io::stdout().is_terminal(),
            progress: Progress::new(quiet || json),
            output,
            running: Mutex::default(),
            away: AtomicBool::new(false),
            lines: tokio::sync::Mutex::default(),
        }
    }

    /// The file of that index has arrived.
    pub(super) async fn done(
        &self,
        index: u64,
        name: &[u8],
        deed: Deed,
        done: Done,
        meter: &Meter,
    ) {
        meter.end();
        if self.json {
            let counts = meter.counts();
            let event = if deed == Deed::Stored { "stored" } else { "got" };
            let fields = json!({
                "bytes": done.size,
                "sha256": done.digest.to_string(),
                "resumed_from": counts.resumed_from.unwrap_or_default(),
                "transferred": counts.moved,
                "seconds": meter.began.elapsed().as_secs_f64(),
            });
            return self.print(object(event, Some(name), fields).as_bytes()).await;
        }
        let line = match deed {
            Deed::Stored => sum_line(done.digest, name, self.terminal),
            Deed::Got => Vec::new(),
        };
        self.in_order(index, line).await;
    }

    /// The file of that index will not arrive, if it has one.
    pub(super) async fn failed(&self, index: Option<u64>, name: &[u8], why: &str) {
        if self.json {
            self.print(object("failed", Some(name), json!({ "error": why })).as_bytes()).await;
        } else {
            self.progress.say(&format!("{}: {why}", String::from_utf8_lossy(name)));
        }
        if let Some(index) = index {
            self.none(index).await;
        }
    }

    /// The file of that index needs no line.
    pub(super) async fn none(&self, index: u64) {
        self.in_order(index, Vec::new()).await;
    }

    /// A file is there no longer.
    pub(super) async fn removed(&self, name: &[u8]) {
        if self.json {
            self.print(object("removed", Some(name), json!({})).as_bytes()).await;
        }
    }

    /// A file is left out, which is no failure, but not what everybody expects: it is told in any case.
    pub(super) async fn skipped(&self, path: &[u8], why: &str) {
        if self.json {
            self.print(object("skipped", Some(path), json!({ "error": why })).as_bytes()).await;
        } else {
            self.progress.say(&format!("{}: skipped: {why}", String::from_utf8_lossy(path)));
        }
    }

    /// A connection is lost, and another one goes on.
    pub(super) async fn lost(&self, why: &str) {
        self.goes_on(why, "going on").await;
    }

    /// The server has no place, and is asked again.
    pub(super) async fn busy(&self, why: &str) {
        self.goes_on(why, "trying again").await;
    }

    async fn goes_on(&self, why: &str, how: &str) {
        match (self.quiet, self.json) {
            (true, _) => {}
            (false, true) => {
                self.print(object("lost", None, json!({ "error": why })).as_bytes()).await;
            }
            (false, false) => self.progress.say(&format!("{why}; {how}")),
        }
    }

    /// No connection comes about, and it is tried again.
    pub(super) async fn retrying(&self, why: &str) {
        if self.away.swap(true, Relaxed) {
            return;
        }
        match (self.quiet, self.json) {
            (true, _) => {}
            (false, true) => {
                self.print(object("retrying", None, json!({ "error": why })).as_bytes()).await;
            }
            (false, false) => self.progress.say(why),
        }
    }

    /// There is a connection.
    pub(super) fn connected(&self) {
        self.away.store(false, Relaxed);
    }

    /// A file may take long from here, until what this returns is dropped.
    pub(super) fn running<'a>(&'a self, name: &[u8], meter: &Arc<Meter>) -> Running<'a> {
        self.list().push((name.to_vec(), Arc::clone(meter)));
        Running { report: self, meter: Arc::clone(meter) }
    }

    /// Tells how far those are that take long. Whoever reads too slowly misses some of it.
    pub(super) fn tick(&self) {
        if !self.json || self.quiet {
            return;
        }
        for (name, meter) in self.list().iter() {
            let took = meter.began.elapsed();
            if took >= PACE {
                let line = object("progress", Some(name), progress(meter, took));
                let _ = self.output.try_send(Bytes::from(line));
            }
        }
    }

    /// The end: lines that still wait for others need not any more.
    pub(super) async fn finish(&self) {
        self.progress.finish();
        let rest = std::mem::take(&mut self.lines.lock().await.waiting);
        self.print(&rest.into_values().flatten().collect::<Vec<_>>()).await;
    }

    async fn in_order(&self, index: u64, line: Vec<u8>) {
        // Locked until it is written: others are not to overtake it.
        let mut lines = self.lines.lock().await;
        lines.waiting.insert(index, line);
        let mut ready = Vec::new();
        while let Some(mut line) = lines.take() {
            ready.append(&mut line);
        }
        self.print(&ready).await;
    }

    /// Lines on stdout. If their reader has gone, the transfers are still wanted.
    async fn print(&self, lines: &[u8]) {
        if !self.progress.print(lines) {
            stdio::write_line(&self.output, lines).await;
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<(Vec<u8>, Arc<Meter>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is on the list of those that take long.
pub(super) struct Running<'a> {
    report: &'a Report,
    meter: Arc<Meter>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.report.list().retain(|(_, meter)| !Arc::ptr_eq(meter, &self.meter));
    }
}

/// A line with an object: what happened, to which file, and `fields`. A name that is no UTF-8 comes in
/// hexadecimal.
pub(super) fn object(event: &str, name: Option<&[u8]>, fields: Value) -> String {
    let mut object = json!({ "event": event });
    match name.map(|name| (str::from_utf8(name), name)) {
        Some((Ok(text), _)) => object["name"] = text.into(),
        Some((Err(_), bytes)) => object["name_hex"] = to_hex(bytes).into(),
        None => {}
    }
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    format!("{}\n", escape_json(&object))
}

fn progress(meter: &Meter, took: Duration) -> Value {
    let counts = meter.counts();
    let rate = counts.moved as f64 / took.as_secs_f64();
    let left = counts.size.map(|size| size.saturating_sub(counts.at) as f64 / rate);
    json!({
        "bytes": counts.at,
        "size": counts.size,
        "resumed_from": counts.resumed_from.unwrap_or_default(),
        "transferred": counts.moved,
        "rate": rate.round() as u64,
        // Nobody knows while nothing moves.
        "seconds_left": left.filter(|left| left.is_finite()),
        "seconds": took.as_secs_f64(),
    })
}

/// A digest and a name, as sha256sum(1) prints them, and reads them with `-c`: byte by byte, with a
/// backslash before the line if some of them are escaped. On a terminal all is escaped that does something
/// there; sha256sum(1) takes such a line for none, and not for one of another name.
fn sum_line(digest: Digest, name: &[u8], terminal: bool) -> Vec<u8> {
    let escaped = |byte| match byte {
        &b'\\' => &b"\\\\"[..],
        b'\n' => b"\\n",
        b'\r' => b"\\r",
        byte => slice::from_ref(byte),
    };
    let shown = match terminal {
        true => escape_bytes(name).into_bytes(),
        false => name.iter().flat_map(escaped).copied().collect(),
    };
    let mark = if shown == name { "" } else { "\\" };
    [format!("{mark}{digest}  ").as_bytes(), &shown, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_for_those_before_but_not_all() {
        let mut lines = Lines::default();
        let mut put = |index: u64| {
            lines.waiting.insert(index, index.to_string().into_bytes());
            std::iter::from_fn(|| lines.take())
                .map(|it| String::from_utf8_lossy(&it).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(put(1), [""; 0]);
        assert_eq!(put(0), ["0", "1"]);
        // That of 2 takes hours.
        let waiting = WAITING as u64;
        for index in 3..3 + waiting {
            assert_eq!(put(index), [""; 0]);
        }
        assert_eq!(put(3 + waiting).len(), WAITING + 1, "nobody keeps more");
        assert_eq!(put(5 + waiting), [""; 0]);
        assert_eq!(put(2), ["2"]);
        assert_eq!(put(4 + waiting), [(4 + waiting).to_string(), (5 + waiting).to_string()]);
    }
}

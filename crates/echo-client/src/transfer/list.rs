//! `echo-client ls`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use echo_core::client::{Dialogue, Error, Fault, Options};
use echo_core::{Endpoint, Entry, ErrorCode, ErrorFrame, Kind, List, ListReply};
use serde_json::json;

use super::patience::Patience;
use super::report::{Report, object};
use super::{Trouble, accepted, connect, options, send, with_output};
use crate::args::Listing;
use crate::escape::{escape, escape_bytes};
use crate::failure::Failure;
use crate::notice;
use crate::stdio::{Output, write_line};

/// Lists what the command line asks for.
pub(crate) async fn ls(args: &Listing) -> Result<(), Failure> {
    with_output(args.asking.json, |output| list(args, output)).await
}

async fn list(args: &Listing, output: Output) -> Result<(), Failure> {
    let prefix = args.prefix.as_deref().map(OsStr::as_bytes).unwrap_or_default();
    let options = options(&args.asking.connecting, &args.target)?;
    let report = Report::new(args.asking.json, args.asking.connecting.quiet, output.clone());
    let mut pages = Pages::new(&args.target, options, Arc::new(report), prefix.to_vec());
    loop {
        let mut lines = String::new();
        let mut take = |entry: Entry<'_>| lines += &line(&entry, args.asking.json);
        let more = pages.next(&mut take).await.map_err(Failure::from)?;
        if !write_line(&output, lines.as_bytes()).await || !more {
            return Ok(());
        }
    }
}

/// All names that begin with a prefix, page by page, over as many connections as it takes.
pub(super) struct Pages {
    target: Endpoint,
    options: Options,
    report: Arc<Report>,
    prefix: Vec<u8>,
    /// The last name that came.
    cursor: Vec<u8>,
    dialogue: Option<Dialogue>,
    /// The user may not list, and perhaps do other things.
    pub(super) forbidden: bool,
}

impl Pages {
    pub(super) fn new(
        target: &Endpoint,
        options: Options,
        report: Arc<Report>,
        prefix: Vec<u8>,
    ) -> Self {
        Self {
            target: target.clone(),
            options,
            report,
            prefix,
            cursor: Vec::new(),
            dialogue: None,
            forbidden: false,
        }
    }

    /// Begins anew, with another prefix.
    pub(super) fn begin(&mut self, prefix: Vec<u8>) {
        self.prefix = prefix;
        self.cursor.clear();
        self.forbidden = false;
    }

    /// Takes one page. Whether there are more.
    pub(super) async fn next(&mut self, take: &mut impl FnMut(Entry<'_>)) -> Result<bool, Trouble> {
        let mut patience = Patience::new(self.options.retry);
        let payload = loop {
            match self.ask(patience.left()).await {
                Ok(payload) => break payload,
                Err(Trouble::Lost(error))
                    if error.fault() == Fault::Path && !patience.left().is_zero() =>
                {
                    self.dialogue = None;
                    self.report.lost(&notice::lost(&error, true)).await;
                    patience.pause().await;
                }
                Err(trouble) => return Err(trouble),
            }
        };
        let wrong = |what: String| Trouble::Lost(Error::Different { at: 0, what });
        let list = ListReply::parse(&payload)
            .map_err(|_| wrong("the server's list cannot be read".to_owned()))?;
        for entry in &list.entries {
            let name = entry.name.as_bytes();
            // Each behind the one before, so that no list is endless by going in circles.
            if !name.starts_with(&self.prefix) || name <= &self.cursor[..] {
                let name = escape_bytes(name);
                return Err(wrong(format!("the server lists {name}, which was not asked for")));
            }
            self.cursor.clear();
            self.cursor.extend_from_slice(name);
            take(*entry);
        }
        if list.more && list.entries.is_empty() {
            return Err(wrong("the server's list does not go on".to_owned()));
        }
        Ok(list.more)
    }

    async fn ask(&mut self, left: Duration) -> Result<Bytes, Trouble> {
        let mut dialogue = match self.dialogue.take() {
            Some(dialogue) => dialogue,
            None => {
                let connected = connect(&self.target, &self.options, left, &self.report).await;
                connected.map_err(|failure| match failure {
                    Failure::Client(error) => Trouble::Lost(error),
                    failure => Trouble::All(failure),
                })?
            }
        };
        let list = List { cursor: &self.cursor, prefix: &self.prefix };
        send(&mut dialogue, Kind::LIST, |out| list.put(out)).await?;
        let (header, payload) = dialogue.recv().await?;
        self.dialogue = Some(dialogue);
        if header.kind == Kind::ERROR {
            let error = ErrorFrame::parse(&payload);
            self.forbidden = error.is_ok_and(|it| it.code == ErrorCode::Forbidden);
        }
        accepted((header, payload))
    }
}

fn line(entry: &Entry<'_>, json: bool) -> String {
    let Entry { size, attributes, name } = entry;
    if json {
        let fields = json!({
            "bytes": size,
            "mode": format!("{:04o}", attributes.mode),
            "mtime": attributes.mtime_s,
            "mtime_ns": attributes.mtime_ns,
        });
        return object("file", Some(name.as_bytes()), fields);
    }
    let name = String::from_utf8_lossy(name.as_bytes());
    format!("{size:>12}  {}  {}\n", utc(attributes.mtime_s), escape(&name))
}

/// Seconds since 1970 as date and time (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn utc(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_115_199, "2025-11-25T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), shown);
        }
        // Whatever a server says.
        utc(i64::MAX);
        utc(i64::MIN);
    }
}

//! `echo-client send`: messages in, their replies out, one a line.

mod source;

use std::io::{self, IsTerminal};
use std::time::Duration;

use echo_core::client::Error;
use rustix::fs::{Access, access};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::args::Sending;
use crate::escape::{escape, escape_bytes, escape_json, to_hex};
use crate::failure::Failure;
use crate::link::{Answer, Happened, Link};
use crate::show::bytes;
use crate::stdio::{self, Output};
use source::Source;

/// Sends what the command line asks for, to the end or to the first defect.
pub(crate) async fn run(args: &Sending) -> Result<(), Failure> {
    let options = args.connecting.options(&args.target, Duration::ZERO);
    let options = options.map_err(Failure::Local)?;
    // What is not there needs no server. A pipe is not opened for this: its writer may come later.
    for path in &args.file {
        access(path, Access::READ_OK).map_err(|error| {
            let what = format!("cannot read {}", escape(&path.display().to_string()));
            Failure::local(&what, &error.into())
        })?;
    }
    let start = |error: io::Error| Failure::local("cannot start", &error);
    let (output, written) = stdio::write_stdout().map_err(start)?;
    let mut sender = Sender {
        waited: options.timeout,
        link: Link::new(args.target.clone(), options),
        quiet: args.connecting.quiet,
        terminal: io::stdout().is_terminal(),
        args,
    };
    let sent = sender.run(&output).await;
    // What came is written whatever happened, and before anything is said about it.
    drop(output);
    stdio::finished(sent, written.await).map(drop)
}

struct Sender<'a> {
    link: Link,
    /// How long a reply may take.
    waited: Duration,
    quiet: bool,
    /// Stdout is one.
    terminal: bool,
    args: &'a Sending,
}

impl Sender<'_> {
    async fn run(&mut self, output: &Output) -> Result<(), Failure> {
        let quiet = self.quiet;
        let tell = |happened| tell(happened, quiet);
        // Before stdin is read: what nobody can answer stays in the producer's hands.
        self.link.connect(tell).await?;
        let mut source = Source::new(self.args)?;
        // When the next message may go, at the earliest.
        let mut earliest = Instant::now();
        let repeats = self.args.count.get() > 1 || self.args.stdin_lines;
        let probe = self.args.probe || repeats && self.link.numbers();
        let (mut seq, mut lost) = (0, 0);
        loop {
            let ready = async {
                let message = source.next().await;
                // A sleep takes up to a millisecond, even where nothing is left to wait.
                if matches!(message, Ok(Some(_))) && Instant::now() < earliest {
                    sleep_until(earliest).await;
                }
                message
            };
            let message = tokio::select! {
                message = ready => message?,
                error = over(&mut self.link, quiet) => return Err(error.into()),
                // Whoever reads stdout has seen enough.
                () = output.closed() => return Ok(()),
            };
            let Some(message) = message else { break };
            let asked = match self.link.push(&message, probe, tell).await {
                Err(Error::Unsent(why)) => return Err(Failure::Unsent(why, source.origin())),
                asked => asked?,
            };
            earliest = Instant::now() + self.args.interval;
            let line = match self.link.answer(asked, tell).await {
                Err(Error::Lost { len, waited }) => {
                    lost += 1;
                    self.lost(seq, len, waited)
                }
                Err(Error::Unsent(why)) => return Err(Failure::Unsent(why, source.origin())),
                answer => self.line(seq, &answer?),
            };
            if !stdio::write_line(output, &line).await {
                return Ok(());
            }
            seq += 1;
        }
        // Nothing else may come, which the server's end of stream says.
        self.link.finish();
        match over(&mut self.link, quiet).await {
            Error::Over if lost > 0 => Err(Failure::Lost { lost, of: seq, waited: self.waited }),
            Error::Over => Ok(()),
            error => Err(error.into()),
        }
    }

    /// Says that a message is lost. What stdout gets for it: a line of text would pass for a reply.
    fn lost(&self, seq: u64, len: usize, waited: Duration) -> Vec<u8> {
        if !self.quiet {
            let (number, len) = (seq + 1, bytes(len as u64));
            crate::say(&format!("message {number} ({len}) has no reply within {waited:?}"));
        }
        if self.args.json {
            format!("{}\n", json!({ "seq": seq, "bytes": len, "lost": true })).into()
        } else {
            Vec::new()
        }
    }

    /// What stdout gets for a reply.
    fn line(&self, seq: u64, answer: &Answer) -> Vec<u8> {
        let payload = &answer.payload[..];
        if self.args.json {
            return json(seq, answer, self.args.hex).into();
        }
        let mut line = Vec::with_capacity(payload.len() + 1);
        if self.args.timing {
            line.extend(milliseconds(answer.round_trip).bytes());
            line.push(b'\t');
            if let Some(in_server) = answer.in_server {
                line.extend(milliseconds(in_server).bytes());
                line.push(b'\t');
            }
        }
        match (self.args.hex, self.terminal) {
            (true, _) => line.extend(to_hex(payload).bytes()),
            (false, true) => line.extend(escape_bytes(payload).bytes()),
            (false, false) => line.extend(payload),
        }
        line.push(b'\n');
        line
    }
}

/// Waits for the end of the link, or for a defect.
async fn over(link: &mut Link, quiet: bool) -> Error {
    loop {
        match link.next().await {
            Happened::Over(error) => return error,
            happened => {
                if let Err(error) = tell(happened, quiet) {
                    return error;
                }
            }
        }
    }
}

/// Tells the user what happened, or what is wrong.
fn tell(happened: Happened, quiet: bool) -> Result<(), Error> {
    match happened {
        Happened::Refused(_, error)
        | Happened::Unexpected(_, error)
        | Happened::Different(error)
        | Happened::Over(error) => return Err(error),
        Happened::Connected { plain: true, .. } | Happened::Answered(_) => {}
        Happened::Connected { words, .. }
        | Happened::Late(words)
        | Happened::Doubled(words)
        | Happened::Notice(words) => {
            if !quiet {
                crate::say(&words);
            }
        }
    }
    Ok(())
}

/// An object on a line of its own. A reply that is no UTF-8 comes in hexadecimal.
fn json(seq: u64, answer: &Answer, hex: bool) -> String {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut object = json!({
        "seq": seq,
        "bytes": answer.payload.len(),
        "round_trip_ns": nanos(answer.round_trip),
        "resent": answer.resent,
    });
    if let Some(in_server) = answer.in_server {
        object["server_ns"] = nanos(in_server).into();
    }
    match std::str::from_utf8(&answer.payload) {
        Ok(text) if !hex => object["reply"] = text.into(),
        _ => object["reply_hex"] = to_hex(&answer.payload).into(),
    }
    format!("{}\n", escape_json(&object))
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

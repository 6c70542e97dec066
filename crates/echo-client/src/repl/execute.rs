//! What the commands do.

use std::num::NonZeroU64;
use std::time::Duration;

use echo_core::Endpoint;
use echo_core::client::Error;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::command::{COMMANDS, Command, Entry, Message};
use super::terminal::Output;
use super::{RETRY, expand_home};
use crate::args::Connecting;
use crate::colours::Colours;
use crate::escape::escape;
use crate::failure::{self, unsent};
use crate::link::{Answer, Happened, Link};
use crate::message;
use crate::show::{bytes, preview, time};
use crate::tally::Tally;

/// `:repeat` shows each reply up to so many, and else how far it is.
const REPEATS_SHOWN: u64 = 20;

/// How often that is.
const PROGRESS: Duration = Duration::from_secs(2);

/// The session that commands work on.
pub(super) struct Execution {
    pub(super) link: Link,
    pub(super) log: Log,
    connecting: Connecting,
    last: Option<Message>,
}

/// What has been seen, and how it is shown.
pub(super) struct Log {
    colours: Colours,
    timing: bool,
    /// All messages to this server.
    all: Tally,
    /// Those of the command that runs, if it sends several.
    run: Option<Tally>,
}

/// What is sent, and how its reply is shown.
struct Payload {
    bytes: Vec<u8>,
    hex: bool,
}

impl Execution {
    pub(super) fn new(link: Link, connecting: Connecting, colours: Colours) -> Self {
        let log = Log { colours, timing: true, all: Tally::new(), run: None };
        Self { link, log, connecting, last: None }
    }

    /// Waits for the first connection.
    pub(super) async fn begin(&mut self, quiet: bool, output: &Output) -> Result<(), Error> {
        let show = |happened| {
            if !(quiet && matches!(happened, Happened::Connected { plain: true, .. })) {
                output.print(&self.log.notice(happened));
            }
            Ok(())
        };
        self.link.connect(show).await
    }

    pub(super) fn prompt(&self) -> String {
        let state = if self.link.is_connected() { "" } else { " (not connected)" };
        format!("{}{state}> ", self.link.target.to_target())
    }

    /// Runs a command to its end. Dropped before, it is abandoned, and [`abandon`](Self::abandon)
    /// tidies up.
    pub(super) async fn run(&mut self, command: Command, output: &Output) {
        let outcome = match command {
            Command::Nothing | Command::Quit => Ok(()),
            Command::Send(message) => self.send(message, output).await,
            Command::Repeat(count, message) => self.repeat(count, message, output).await,
            Command::Watch(interval, message) => self.watch(interval, message, output).await,
            Command::Probe => self.probe(output).await,
            Command::Connect(target) => self.connect(*target, output).await,
            Command::Timing(on) => {
                self.log.timing = on;
                Ok(())
            }
            Command::Stats => {
                for line in self.log.all.lines(self.link.unanswered()) {
                    output.print(&line);
                }
                Ok(())
            }
            Command::Help => {
                help(output);
                Ok(())
            }
        };
        if let Err(words) = outcome {
            output.print(&output.colours.bad(&words));
        }
    }

    /// Ends a command: says what became of its messages, if it sent several.
    pub(super) fn finish(&mut self, output: &Output) {
        for line in self.log.run.take().iter().flat_map(|run| run.lines(self.link.unanswered())) {
            output.print(&line);
        }
    }

    /// Ends a command that was interrupted.
    pub(super) fn abandon(&mut self, output: &Output) {
        self.link.give_up();
        if self.log.run.is_none() && self.link.unanswered() > 0 {
            let words = "no reply yet; it is shown when it comes";
            output.print(&output.colours.notice(words));
        }
        self.finish(output);
    }

    /// Leaves the server: says what it still owes.
    pub(super) fn leave(&self, output: &Output) {
        let owed = match self.link.unanswered() {
            0 => return,
            1 => "1 message has had no reply".to_owned(),
            several => format!("{several} messages have had no reply"),
        };
        output.print(&output.colours.notice(&owed));
    }

    async fn send(&mut self, message: Message, output: &Output) -> Result<(), String> {
        let payload = self.payload(Some(message)).await?;
        let answer = self.exchange(&payload.bytes, false, output).await;
        let answer = answer.map_err(|error| words(&error))?;
        output.print(&self.log.reply(&answer, payload.hex));
        Ok(())
    }

    async fn repeat(
        &mut self,
        count: NonZeroU64,
        message: Option<Message>,
        output: &Output,
    ) -> Result<(), String> {
        let payload = self.payload(message).await?;
        self.log.run = Some(Tally::new());
        let numbered = self.link.numbers();
        let mut said = Instant::now();
        for done in 1..=count.get() {
            let answer = match self.exchange(&payload.bytes, numbered, output).await {
                // Datagrams get lost: how many do is what one wants to see.
                Err(error @ Error::Lost { .. }) => {
                    output.print(&output.colours.bad(&words(&error)));
                    continue;
                }
                answer => answer.map_err(|error| words(&error))?,
            };
            if count.get() <= REPEATS_SHOWN {
                output.print(&self.log.reply(&answer, payload.hex));
            } else if said.elapsed() >= PROGRESS {
                said = Instant::now();
                output.print(&output.colours.dim(&format!("{done} of {count}")));
            }
        }
        Ok(())
    }

    /// Goes on after a defect: what becomes of it is what one wants to see.
    async fn watch(
        &mut self,
        every: Duration,
        message: Option<Message>,
        output: &Output,
    ) -> Result<(), String> {
        let payload = self.payload(message).await?;
        self.log.run = Some(Tally::new());
        let numbered = self.link.numbers();
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                happened = self.link.next() => {
                    output.print(&self.log.notice(happened));
                    continue;
                }
                _ = ticks.tick() => {}
            }
            match self.exchange(&payload.bytes, numbered, output).await {
                Ok(answer) => {
                    output.print(&self.log.reply(&answer, payload.hex));
                }
                Err(error) => output.print(&output.colours.bad(&words(&error))),
            }
        }
    }

    async fn probe(&mut self, output: &Output) -> Result<(), String> {
        let answer = self.exchange(&[], true, output).await.map_err(|error| words(&error))?;
        let total = answer.round_trip;
        let Some(server) = answer.in_server else {
            output.print(&format!("round trip {}; the server tells no times", time(total)));
            return Ok(());
        };
        let network = total.saturating_sub(server);
        output.print(&format!(
            "round trip {} = network {} + server {}",
            time(total),
            time(network),
            time(server)
        ));
        Ok(())
    }

    async fn connect(&mut self, target: Endpoint, output: &Output) -> Result<(), String> {
        self.connecting.fits(&target)?;
        let options = self.connecting.options(&target, RETRY)?;
        let mut link = Link::new(target, options);
        let show = |happened| {
            output.print(&self.log.notice(happened));
            Ok(())
        };
        match link.connect(show).await {
            Ok(()) => {
                self.leave(output);
                self.link = link;
                self.log.all = Tally::new();
                Ok(())
            }
            Err(error) => {
                let place = self.link.target.to_target();
                Err(format!("{}; staying with {place}", words(&error)))
            }
        }
    }

    /// The bytes of a message, or of the last one; from now on it is the last one.
    async fn payload(&mut self, message: Option<Message>) -> Result<Payload, String> {
        if let Some(message) = message {
            self.last = Some(message);
        }
        match &self.last {
            None => Err("nothing has been sent that could be sent again".to_owned()),
            Some(Message::Text(bytes)) => Ok(Payload { bytes: bytes.clone(), hex: false }),
            Some(Message::Hex(bytes)) => Ok(Payload { bytes: bytes.clone(), hex: true }),
            Some(Message::File(path)) => {
                Ok(Payload { bytes: message::read(expand_home(path), true).await?, hex: false })
            }
        }
    }

    /// Sends a message and waits for its reply. What else happens is shown.
    async fn exchange(
        &mut self,
        payload: &[u8],
        probe: bool,
        output: &Output,
    ) -> Result<Answer, Error> {
        let log = &mut self.log;
        let show = |happened| {
            output.print(&log.notice(happened));
            Ok(())
        };
        let asked = self.link.push(payload, probe, show).await?;
        log.tallies(Tally::sent);
        let show = |happened| {
            output.print(&log.notice(happened));
            Ok(())
        };
        let answer = self.link.answer(asked, show).await?;
        log.tallies(|tally| tally.answered(answer.round_trip, answer.overtaken));
        Ok(answer)
    }
}

impl Log {
    fn tallies(&mut self, count: impl Fn(&mut Tally)) {
        count(&mut self.all);
        if let Some(run) = &mut self.run {
            count(run);
        }
    }

    /// What happened, while nobody waited for it, as a line.
    pub(super) fn notice(&mut self, happened: Happened) -> String {
        let colours = self.colours;
        match happened {
            Happened::Answered(answer) => {
                self.all.answered(answer.round_trip, answer.overtaken);
                format!("{} {}", colours.notice("late reply:"), self.reply(&answer, false))
            }
            Happened::Late(words) => {
                self.tallies(|tally| tally.late += 1);
                colours.notice(&words)
            }
            Happened::Doubled(words) => {
                self.tallies(|tally| tally.doubled += 1);
                colours.notice(&words)
            }
            Happened::Connected { words, .. } | Happened::Notice(words) => colours.notice(&words),
            Happened::Refused(_, error) | Happened::Different(error) => colours.bad(&words(&error)),
            Happened::Unexpected(came, _) => {
                let (shown, len) = (preview(&came, false), bytes(came.len() as u64));
                let len = colours.dim(&format!("({len})"));
                format!("{} {shown}  {len}", colours.bad("unexpected:"))
            }
            Happened::Over(error) => {
                colours.bad(&format!("{}; the next message connects again", words(&error)))
            }
        }
    }

    /// A reply as a line.
    fn reply(&self, answer: &Answer, hex: bool) -> String {
        let mut line = preview(&answer.payload, hex);
        if self.timing {
            let again = match (answer.resent, answer.overtaken) {
                (true, _) => ", sent again",
                (_, true) => ", overtaken",
                _ => "",
            };
            let (len, took) = (bytes(answer.payload.len() as u64), time(answer.round_trip));
            let space = if line.is_empty() { "" } else { "  " };
            let beside = self.colours.dim(&format!("({len}, {took}{again})"));
            line += &format!("{space}{beside}");
        }
        line
    }
}

/// An error, safe for a terminal whoever wrote it.
fn words(error: &Error) -> String {
    match error {
        Error::Unsent(why) => unsent(why, None),
        error => escape(&failure::words(error)),
    }
}

fn help(output: &Output) {
    let width = |entry: &Entry| entry.name.len() + 1 + entry.arguments.len();
    let widest = COMMANDS.iter().map(width).max().unwrap_or_default();
    for entry in COMMANDS {
        let usage = format!("{} {}", entry.name, entry.arguments);
        output.print(&format!("  {usage:widest$}  {}", entry.does));
    }
    for line in [
        "Anything else is sent as it is typed, without the newline: \\xNN is a byte, \\u{N} a",
        "character, \\n \\r \\t \\0 \\\\ are as usual, \\: begins a message with a colon. A space at",
        "the beginning keeps a line out of the history, and is not sent. MESSAGE may be :hex",
        "or :file too. Commands may be shortened. Ctrl-C abandons a line or a command, Ctrl-D",
        "leaves, at the beginning of a line or while a command runs.",
    ] {
        output.print(line);
    }
}

//! What the commands do.

use std::num::NonZeroU64;
use std::time::Duration;

use echo_core::Endpoint;
use echo_core::client::{Error, PushError};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::command::{COMMANDS, Command, Message};
use super::terminal::Output;
use super::{RETRY, expand_home};
use crate::args::Connecting;
use crate::colours::Colours;
use crate::escape::escape;
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
    connecting: Connecting,
    /// All messages to this server.
    tally: Tally,
    /// Those of the command that runs, if it sends several.
    run: Option<Tally>,
    timing: bool,
    last: Option<Message>,
}

/// What is sent, and how its reply is shown.
struct Payload {
    bytes: Vec<u8>,
    hex: bool,
}

/// Waits for the first connection of a link, and says what it is like.
pub(super) async fn connect(link: &mut Link, output: &Output) -> Result<String, Error> {
    link.client();
    loop {
        match link.next().await {
            Happened::Connected(words) => return Ok(words),
            Happened::Over(error) => return Err(error),
            Happened::Notice(words) => output.print(&output.colours.notice(&words)),
            // Nothing was asked, and nothing comes before the connection.
            Happened::Answered(_) | Happened::Refused(..) | Happened::Unexpected(_) => {}
        }
    }
}

impl Execution {
    pub(super) fn new(link: Link, connecting: Connecting) -> Self {
        Self { link, connecting, tally: Tally::new(), run: None, timing: true, last: None }
    }

    pub(super) fn prompt(&self) -> String {
        let state = if self.link.is_connected() { "" } else { " (not connected)" };
        format!("{}{state}> ", self.link.target)
    }

    /// Runs a command to its end. Dropped before, it is abandoned: [`finish`](Self::finish) then
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
                self.timing = on;
                Ok(())
            }
            Command::Stats => {
                for line in self.tally.lines(self.link.unanswered()) {
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

    /// Ends a command that has run or was abandoned.
    pub(super) fn finish(&mut self, abandoned: bool, output: &Output) {
        if abandoned {
            // Behind the ^C that the terminal has shown.
            output.print("");
            self.link.give_up();
        }
        if let Some(run) = self.run.take() {
            for line in run.lines(self.link.unanswered()) {
                output.print(&line);
            }
        } else if abandoned && self.link.unanswered() > 0 {
            let words = "no reply yet; it is shown when it comes";
            output.print(&output.colours.notice(words));
        }
    }

    /// What happened while nobody waited for it, as a line.
    pub(super) fn notice(&mut self, happened: Happened, colours: Colours) -> String {
        match happened {
            Happened::Answered(answer) => {
                self.tally.answered(answer.round_trip);
                let shown = shown(&answer, false, true, colours);
                format!("{} {shown}", colours.notice("late reply:"))
            }
            Happened::Connected(words) | Happened::Notice(words) => colours.notice(&words),
            Happened::Refused(_, words) => colours.bad(&words),
            Happened::Unexpected(came) => {
                let (shown, len) = (preview(&came, false), bytes(came.len()));
                format!("{} {shown}  {}", colours.bad("unexpected:"), colours.dim(&format!("({len})")))
            }
            Happened::Over(error) => {
                colours.bad(&format!("{}; the next message connects again", escape(&error.to_string())))
            }
        }
    }

    async fn send(&mut self, message: Message, output: &Output) -> Result<(), String> {
        let payload = self.payload(Some(message)).await?;
        let answer = self.exchange(&payload.bytes, false, output).await?;
        output.print(&shown(&answer, payload.hex, self.timing, output.colours));
        Ok(())
    }

    async fn repeat(
        &mut self,
        count: NonZeroU64,
        message: Option<Message>,
        output: &Output,
    ) -> Result<(), String> {
        let payload = self.payload(message).await?;
        self.run = Some(Tally::new());
        let mut said = Instant::now();
        for done in 1..=count.get() {
            let answer = self.exchange(&payload.bytes, false, output).await?;
            if count.get() <= REPEATS_SHOWN {
                output.print(&shown(&answer, payload.hex, self.timing, output.colours));
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
        self.run = Some(Tally::new());
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                happened = self.link.next() => {
                    output.print(&self.notice(happened, output.colours));
                    continue;
                }
                _ = ticks.tick() => {}
            }
            match self.exchange(&payload.bytes, false, output).await {
                Ok(answer) => {
                    output.print(&shown(&answer, payload.hex, self.timing, output.colours));
                }
                Err(words) => output.print(&output.colours.bad(&words)),
            }
        }
    }

    async fn probe(&mut self, output: &Output) -> Result<(), String> {
        let answer = self.exchange(&[], true, output).await?;
        let total = answer.round_trip;
        let server = answer.in_server.unwrap_or_default();
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
        let mut link = Link::new(target, self.connecting.options(RETRY));
        match connect(&mut link, output).await {
            Ok(words) => {
                output.print(&output.colours.notice(&words));
                self.link = link;
                self.tally = Tally::new();
                Ok(())
            }
            Err(error) => Err(format!("{}; staying with {}", escape(&error.to_string()), self.link.target)),
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
                Ok(Payload { bytes: message::read(expand_home(path)).await?, hex: false })
            }
        }
    }

    /// Sends a message and waits for its reply. What else happens is shown.
    async fn exchange(
        &mut self,
        payload: &[u8],
        probe: bool,
        output: &Output,
    ) -> Result<Answer, String> {
        let asked = loop {
            let client = self.link.client();
            let pushed = if probe { client.push_probe(payload) } else { client.push(payload) };
            match pushed {
                Ok(seq) => break seq,
                // Not connected yet, or messages that were abandoned fill the window.
                Err(PushError::NotConnected | PushError::Full) => {}
                Err(error) => return Err(error.to_string()),
            }
            match self.link.next().await {
                Happened::Over(error) => return Err(escape(&error.to_string())),
                happened => output.print(&self.notice(happened, output.colours)),
            }
        };
        self.tallies(Tally::sent);
        loop {
            match self.link.next().await {
                Happened::Answered(answer) if answer.seq == asked => {
                    self.tallies(|tally| tally.answered(answer.round_trip));
                    return Ok(answer);
                }
                Happened::Refused(seq, words) if seq == asked => return Err(words),
                Happened::Over(error) => return Err(escape(&error.to_string())),
                happened => output.print(&self.notice(happened, output.colours)),
            }
        }
    }

    fn tallies(&mut self, count: impl Fn(&mut Tally)) {
        count(&mut self.tally);
        if let Some(run) = &mut self.run {
            count(run);
        }
    }
}

/// A reply as a line.
fn shown(answer: &Answer, hex: bool, timing: bool, colours: Colours) -> String {
    let mut line = preview(&answer.payload, hex);
    if timing {
        let again = if answer.resent { ", sent again" } else { "" };
        let (len, took) = (bytes(answer.payload.len()), time(answer.round_trip));
        let space = if line.is_empty() { "" } else { "  " };
        line += &format!("{space}{}", colours.dim(&format!("({len}, {took}{again})")));
    }
    line
}

fn help(output: &Output) {
    let width = |entry: &super::command::Entry| entry.name.len() + 1 + entry.arguments.len();
    let widest = COMMANDS.iter().map(width).max().unwrap_or_default();
    for entry in COMMANDS {
        let usage = format!("{} {}", entry.name, entry.arguments);
        output.print(&format!("  {usage:widest$}  {}", entry.does));
    }
    for line in [
        "Anything else is sent as it is typed, without the newline. In it \\xNN is a byte, \\u{N} a",
        "character, and \\n \\r \\t \\0 \\\\ are as usual; \\: begins a message with a colon. A space at",
        "the line's beginning keeps it out of the history and is not sent. MESSAGE may be :hex or",
        ":file too. Commands may be shortened. Ctrl-C abandons a line or a command.",
    ] {
        output.print(line);
    }
}

//! The REPL: lines that are typed go to the server, their replies to the terminal.
//!
//! It is in one of two states. While a line is being edited, what happens on the connection is shown
//! above that line; a notice that finds no room waits, and the connection with it. While a command
//! runs, no line is asked for, and Ctrl-C ends the command.

mod command;
mod execute;
mod helper;
mod history;
mod terminal;

use std::env;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Ended;
use crate::args::Args;
use crate::colours::Colours;
use crate::failure::Failure;
use crate::link::Link;
use command::Command;
use execute::Execution;
use terminal::{Terminal, Typed};

/// How long to keep trying to connect unless told otherwise: a restart, and time to notice it.
const RETRY: Duration = Duration::from_secs(30);

/// Runs until the user leaves.
///
/// # Errors
/// It never connected, or this is no terminal to work with.
pub(crate) async fn run(args: &Args) -> Ended {
    let local = |error: io::Error| Failure::local("cannot start", &error);
    let mut signals = Signals::listen().map_err(local)?;
    let link = Link::new(args.target.clone(), args.connecting.options(RETRY));
    let colours = Colours::of_stdout();
    let terminal = Terminal::open(colours).map_err(local)?;
    let execution = Execution::new(link, args.connecting.clone(), colours);
    let mut repl = Repl { terminal, execution };
    tokio::select! {
        biased;
        signal = signals.next() => return Ok(Some(signal)),
        begun = repl.execution.begin(args.connecting.quiet, &repl.terminal.output) => begun?,
    }
    if !args.connecting.quiet {
        let words = colours.dim(":help lists the commands, Ctrl-D leaves");
        repl.terminal.output.print(&words);
    }
    loop {
        let line = match repl.edit(&mut signals).await {
            Edited::Line(line) => line,
            Edited::Abandoned => continue,
            Edited::End => return Ok(None),
            Edited::Killed(signal) => return Ok(Some(signal)),
        };
        let output = &repl.terminal.output;
        let command = match command::parse(&line) {
            Ok(Command::Quit) => return Ok(None),
            Ok(command) => command,
            Err(words) => {
                output.print(&colours.bad(&words));
                continue;
            }
        };
        let signal = tokio::select! {
            biased;
            signal = signals.next() => Some(signal),
            () = repl.execution.run(command, output) => None,
        };
        match signal {
            Some(signal) if signal != SignalKind::interrupt() => return Ok(Some(signal)),
            signal => repl.execution.finish(signal.is_some(), output),
        }
    }
}

struct Repl {
    terminal: Terminal,
    execution: Execution,
}

/// How the editing of a line ended.
enum Edited {
    Line(String),
    Abandoned,
    End,
    Killed(SignalKind),
}

impl Repl {
    /// Has a line edited, and shows what happens meanwhile.
    async fn edit(&mut self, signals: &mut Signals) -> Edited {
        self.terminal.ask(self.execution.prompt());
        let mut notice: Option<String> = None;
        let typed = loop {
            let Terminal { input, output } = &mut self.terminal;
            tokio::select! {
                typed = input.typed() => match typed {
                    Typed::NoHistory(words) => notice = Some(output.colours.bad(&words)),
                    typed => break typed,
                },
                happened = self.execution.link.next(), if notice.is_none() => {
                    notice = Some(self.execution.notice(happened));
                }
                room = output.room(), if notice.is_some() => {
                    if let Some((room, notice)) = room.zip(notice.take()) {
                        room.show(&notice);
                    }
                }
                signal = signals.next() => {
                    if signal != SignalKind::interrupt() {
                        return Edited::Killed(signal);
                    }
                    output.interrupted();
                }
            }
        };
        self.terminal.edited(&typed);
        if let Some(notice) = notice {
            self.terminal.output.print(&notice);
        }
        match typed {
            Typed::Line(line) => Edited::Line(line),
            Typed::End => Edited::End,
            Typed::Abandoned | Typed::NoHistory(_) => Edited::Abandoned,
        }
    }
}

/// The signals that mean something here, from the start on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// # Cancel safety
    /// No signal is lost.
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}

/// A path as it was typed, with the home folder for a first `~/`.
fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

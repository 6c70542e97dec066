//! The REPL: lines that are typed go to the server, their replies to the terminal.
//!
//! It is in one of two states. While a line is being edited, what happens on the connection is shown
//! above that line; a notice that finds no room waits, and the connection with it. While a command
//! runs, no line is asked for; Ctrl-C ends the command then, and Ctrl-D the session. Lines that are
//! typed meanwhile are run behind it; Ctrl-C drops them, and so does Ctrl-D.

mod command;
mod execute;
mod helper;
mod history;
mod terminal;

use std::env;
use std::future::{poll_fn, ready};
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Ended;
use crate::args::Args;
use crate::colours::Colours;
use crate::failure::Failure;
use crate::link::Link;
use command::Command;
use execute::Execution;
use terminal::{Input, Terminal, Typed};

/// How long to keep trying to connect unless told otherwise: a restart, and time to notice it.
const RETRY: Duration = Duration::from_secs(30);

/// Runs until the user leaves.
///
/// # Errors
/// It never connected, or this is no terminal to work with.
pub(crate) async fn run(args: &Args) -> Ended {
    let local = |error: io::Error| Failure::local("cannot start", &error);
    let mut signals = Signals::listen().map_err(local)?;
    let options = args.connecting.options(&args.target, RETRY).map_err(Failure::Local)?;
    let link = Link::new(args.target.clone(), options);
    let colours = Colours::of_stdout();
    let terminal = Terminal::open(colours).map_err(local)?;
    let execution = Execution::new(link, args.connecting.clone(), colours);
    let mut repl = Repl { terminal, execution };
    let begun = repl.execution.begin(args.connecting.quiet, &repl.terminal.output);
    match unless_stopped(&mut signals, &mut repl.terminal.input, begun).await {
        Ok(begun) => begun?,
        Err(Stop::Signal(signal)) => {
            // Behind the ^C that the terminal has shown.
            repl.terminal.output.print("");
            return Ok(Some(signal));
        }
        Err(Stop::Left) => {
            return Err(Failure::Local("left before there was a connection".to_owned()));
        }
    }
    if !args.connecting.quiet {
        let words = colours.dim(":help lists the commands, Ctrl-D leaves");
        repl.terminal.output.print(&words);
    }
    loop {
        let line = match repl.edit(&mut signals).await {
            Edited::Line(line) => line,
            Edited::Abandoned => continue,
            Edited::End => {
                repl.execution.leave(&repl.terminal.output);
                return Ok(None);
            }
            Edited::Killed(signal) => return Ok(Some(signal)),
        };
        let output = &repl.terminal.output;
        let command = match command::parse(&line) {
            Ok(Command::Quit) => {
                repl.execution.leave(output);
                return Ok(None);
            }
            Ok(command) => command,
            Err(words) => {
                output.print(&colours.bad(&words));
                continue;
            }
        };
        let run = repl.execution.run(command, output);
        let ended = unless_stopped(&mut signals, &mut repl.terminal.input, run).await;
        match ended {
            Err(Stop::Signal(signal)) if signal != INTERRUPT => return Ok(Some(signal)),
            Err(Stop::Signal(_)) => {
                // Behind the ^C that the terminal has shown.
                output.print("");
                repl.terminal.input.forget();
                repl.execution.abandon(output);
            }
            Err(Stop::Left) => {
                repl.execution.finish(output);
                repl.execution.leave(output);
                return Ok(None);
            }
            Ok(()) => repl.execution.finish(output),
        }
    }
}

/// What ended a command before its end.
enum Stop {
    Signal(SignalKind),
    /// Ctrl-D.
    Left,
}

/// Works to the end, or to what stops it.
async fn unless_stopped<T>(
    signals: &mut Signals,
    input: &mut Input,
    work: impl Future<Output = T>,
) -> Result<T, Stop> {
    let (mut work, mut left) = (pin!(work), pin!(input.left()));
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => if signal != CONTINUED {
                return Err(Stop::Signal(signal));
            },
            () = &mut left => return Err(Stop::Left),
            done = &mut work => return Ok(done),
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
        // What has come already may have ended the connection, which the prompt tells.
        loop {
            tokio::select! {
                biased;
                happened = self.execution.link.next() => {
                    let notice = self.execution.log.notice(happened);
                    self.terminal.output.print(&notice);
                }
                () = ready(()) => break,
            }
        }
        self.terminal.ask(self.execution.prompt());
        let (mut notices, mut redraw) = (Vec::new(), false);
        let typed = loop {
            let Terminal { input, output } = &mut self.terminal;
            tokio::select! {
                typed = input.typed() => match typed {
                    Typed::Trouble(words) => notices.push(output.colours.bad(&words)),
                    typed => break typed,
                },
                happened = self.execution.link.next(), if notices.is_empty() => {
                    notices.push(self.execution.log.notice(happened));
                }
                room = output.room(), if redraw || !notices.is_empty() => {
                    // Whatever is shown has the line drawn again.
                    redraw = false;
                    if let Some(room) = room {
                        room.show(&std::mem::take(&mut notices));
                    }
                }
                signal = signals.next() => match signal {
                    CONTINUED => redraw = output.resume(),
                    INTERRUPT => output.interrupted(),
                    signal => return Edited::Killed(signal),
                }
            }
        };
        self.terminal.edited(&typed);
        for notice in notices {
            self.terminal.output.print(&notice);
        }
        match typed {
            Typed::Line(line) => Edited::Line(line),
            Typed::End => Edited::End,
            Typed::Abandoned | Typed::Trouble(_) => Edited::Abandoned,
        }
    }
}

const INTERRUPT: SignalKind = SignalKind::interrupt();
/// After a stop: the shell has used the terminal meanwhile.
const CONTINUED: SignalKind = SignalKind::from_raw(rustix::process::Signal::CONT.as_raw());

/// The signals that mean something here, from the start on.
struct Signals([(SignalKind, Signal); 4]);

impl Signals {
    fn listen() -> io::Result<Self> {
        let listen = |kind| signal(kind).map(|signal| (kind, signal));
        Ok(Self([
            listen(INTERRUPT)?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
            listen(CONTINUED)?,
        ]))
    }

    /// # Cancel safety
    /// No signal is lost.
    async fn next(&mut self) -> SignalKind {
        poll_fn(|cx| {
            let came = |(kind, signal): &mut (SignalKind, Signal)| {
                signal.poll_recv(cx).is_ready().then_some(*kind)
            };
            self.0.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// A path as it was typed, with the home folder for a first `~/`.
fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

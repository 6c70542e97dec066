//! The client of an echo server: for people a REPL, for scripts `send` and a pipe, all of which check
//! what comes back.

#![forbid(unsafe_code)]

mod args;
mod colours;
mod escape;
mod failure;
mod generate;
mod link;
mod login;
mod message;
mod notice;
mod pipe;
mod repl;
mod send;
mod show;
mod stdio;
mod tally;
mod temporary;
mod transfer;
mod trust;

use std::fs;
use std::future::poll_fn;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::task::Poll;

use echo_scram::ask::EndedBy;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Args, Task};
use crate::escape::escape;
use crate::failure::Failure;
use crate::login::Unidentified;

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 64;
/// Ended by a signal: its number comes on top.
const EXIT_SIGNALLED: u8 = 128;

/// The signal that ended the work, if one did.
type Ended = Result<Option<SignalKind>, Failure>;

fn main() -> ExitCode {
    let mut args = match Args::read() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => return misused(&args::in_one_line(&error)),
        // Help or the version.
        Err(wish) => return end(written(wish.print()).map(|()| None)),
    };
    match identify(&mut args) {
        Ok(()) => {}
        Err(Unidentified::Misused(how)) => return misused(&how),
        Err(Unidentified::Ended(EndedBy(signal))) => return (EXIT_SIGNALLED + signal as u8).into(),
    }
    let ended = match &args.task {
        None if is_conversation(&args) && args.message_size.is_some() => {
            return misused("--message-size is for the pipe: a line that is typed is one datagram");
        }
        None if is_conversation(&args) => run(repl::run(&args)),
        task if let Some(what) = stdio::wrong_stdin().filter(|_| reads_stdin(task.as_ref())) => {
            Err(Failure::Local(what.to_owned()))
        }
        // Before anything is sent: it is no use to who cannot be told.
        task if let Some(what) = stdio::wrong_stdout().filter(|_| writes_stdout(task.as_ref())) => {
            Err(Failure::Local(what.to_owned()))
        }
        None => run(until_interrupted(pipe::copy(&args))),
        Some(Task::Send(sending)) => run(until_interrupted(send::run(sending))),
        Some(Task::Put(putting)) => run(until_interrupted(transfer::put(putting))),
        Some(Task::Get(getting)) => run(until_interrupted(transfer::get(getting))),
        Some(Task::Ls(listing)) => run(until_interrupted(transfer::ls(listing))),
        Some(Task::Rm(removing)) => run(until_interrupted(transfer::rm(removing))),
        Some(Task::Completions { shell }) => {
            print(generate::completions(*shell).as_bytes()).map(|()| None)
        }
        Some(Task::Man { command }) => match generate::man(command.as_deref()) {
            Some(page) => print(&page).map(|()| None),
            None => return misused("no such command (see echo-client --help)"),
        },
    };
    end(ended)
}

/// Says what went wrong, if anything did.
fn end(ended: Ended) -> ExitCode {
    match ended {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(signal)) => (EXIT_SIGNALLED + signal.as_raw_value() as u8).into(),
        Err(failure) => {
            say(&failure.to_string());
            EXIT_FAILURE.into()
        }
    }
}

/// Whether somebody types and reads, and wants a conversation of it.
fn is_conversation(args: &Args) -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && !args.verify
}

/// Gets the password, if there is one, and not from where something else is to come from.
fn identify(args: &mut Args) -> Result<(), Unidentified> {
    let reads = reads_stdin(args.task.as_ref());
    let Some((connecting, target)) = args.connecting() else { return Ok(()) };
    let wrong = match connecting.password_is_stdin() {
        true if reads => Some("stdin is what is sent, and no password: give --password-file FILE"),
        true if io::stdin().is_terminal() => {
            Some("stdin is a terminal: without --password-file it is asked for the password")
        }
        true => stdio::wrong_stdin(),
        false => None,
    };
    match wrong {
        Some(how) => Err(Unidentified::Misused(how.to_owned())),
        None => connecting.identify(target),
    }
}

fn reads_stdin(task: Option<&Task>) -> bool {
    match task {
        None => true,
        Some(Task::Send(sending)) => {
            sending.stdin_lines || sending.file.iter().any(|path| stdio::is_stdin(path))
        }
        Some(Task::Put(putting)) => putting.paths.iter().any(|path| path.as_os_str() == "-"),
        Some(_) => false,
    }
}

/// Whether anything is said on stdout where all goes well.
fn writes_stdout(task: Option<&Task>) -> bool {
    match task {
        Some(Task::Get(getting)) => getting.transferring.asking.json || getting.to_stdout(),
        Some(Task::Rm(removing)) => removing.asking.json,
        _ => true,
    }
}

/// Runs to the end.
fn run(work: impl Future<Output = Ended>) -> Ended {
    let local = |error: io::Error| Failure::local("cannot start", &error);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(local)?;
    let ended = runtime.block_on(work);
    // Not a drop: that would wait for a name that is still being looked up.
    runtime.shutdown_background();
    ended
}

/// What ends the work. SIGTERM and SIGHUP as well, though they would by themselves: Tokio keeps them from it once the
/// prompt for a password has listened to them.
const ENDINGS: [SignalKind; 3] =
    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];

/// Works to the end, or to a signal that ends it, unless that was ignored at the start, as by a job in the background.
async fn until_interrupted(work: impl Future<Output = Result<(), Failure>>) -> Ended {
    let heeded = ENDINGS.into_iter().filter(|kind| !ignores(*kind));
    let listened = heeded.map(|kind| Ok((kind, signal(kind)?))).collect::<io::Result<Vec<_>>>();
    let mut signals = listened.map_err(|error| Failure::local("cannot start", &error))?;
    let came = poll_fn(|cx| {
        let came =
            |(kind, signal): &mut (_, Signal)| signal.poll_recv(cx).is_ready().then_some(*kind);
        signals.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
    });
    tokio::select! {
        biased;
        kind = came => Ok(Some(kind)),
        done = work => done.map(|()| None),
    }
}

/// Whether whoever started this has it ignore that signal (proc_pid_status(5)).
fn ignores(signal: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

/// Prints to stdout.
fn print(text: &[u8]) -> Result<(), Failure> {
    written(stdio::stdout().and_then(|mut stdout| stdout.write_all(text)))
}

/// What came of writing to stdout. A reader that has gone, as `head` does, is no failure.
fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::local("cannot write to stdout", &error))
        }
        _ => Ok(()),
    }
}

fn misused(how: &str) -> ExitCode {
    say(how);
    EXIT_USAGE.into()
}

/// One line for people, in one write: other programs may share stderr. Whoever wrote what stands in it,
/// a peer or a command line, it stays one line. A closed stderr is not worth a failure.
fn say(text: &str) {
    let text = escape(text);
    let _ = io::stderr().write_all(format!("echo-client: {text}\n").as_bytes());
}

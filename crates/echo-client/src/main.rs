//! The client of an echo server: a pipe that checks what comes back.

#![forbid(unsafe_code)]

mod answers;
mod args;
mod colours;
mod connect;
mod escape;
mod failure;
mod generate;
mod hello;
mod link;
mod message;
mod pipe;
mod repl;
mod show;
mod stdio;
mod tally;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use echo_core::Mode;

use crate::answers::Dialect;
use crate::args::{Args, Task};
use crate::failure::{Failure, reason};

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            say(&args::in_one_line(&error));
            return EXIT_USAGE.into();
        }
        // Help or the version; a closed stdout is no failure.
        Err(wish) => {
            let _ = wish.print();
            return ExitCode::SUCCESS;
        }
    };
    let outcome = match &args.task {
        None if io::stdin().is_terminal() && io::stdout().is_terminal() => {
            start(repl::run(&args)).map(|killed| killed.is_none())
        }
        None => run(copy(&args)),
        Some(Task::Send(_)) => return ExitCode::FAILURE, // until send exists
        Some(Task::Completions { shell }) => return print(&generate::completions(*shell)),
        Some(Task::Man { command }) => return man(command.as_deref()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => EXIT_INTERRUPTED.into(),
        Err(failure) => {
            say(&failure.to_string());
            EXIT_FAILURE.into()
        }
    }
}

fn man(command: Option<&str>) -> ExitCode {
    match generate::man(command) {
        Some(page) => print(&page),
        None => {
            let name = escape::escape(command.unwrap_or_default());
            say(&format!("no such command: {name} (see echo-client --help)"));
            EXIT_USAGE.into()
        }
    }
}

/// Prints a file. A reader that has gone, as `head` does, is no failure.
fn print(file: &[u8]) -> ExitCode {
    let mut stdout = io::stdout();
    match stdout.write_all(file).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            say(&format!("cannot write to stdout: {}", reason(&error)));
            EXIT_FAILURE.into()
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Runs to the end, or to Ctrl-C (`false`).
fn run(work: impl Future<Output = Result<(), Failure>>) -> Result<bool, Failure> {
    start(async {
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| false).map_err(cannot_start),
            done = work => done.map(|()| true),
        }
    })
}

/// Runs to the end.
fn start<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_start)?;
    let ended = runtime.block_on(work);
    // Not a drop: that would wait for a name that is still being looked up.
    runtime.shutdown_background();
    ended
}

fn cannot_start(error: io::Error) -> Failure {
    Failure::Local(format!("cannot start: {}", reason(&error)))
}

async fn copy(args: &Args) -> Result<(), Failure> {
    let notice = |text: &str| {
        if !args.connecting.quiet {
            say(text);
        }
    };
    let (mut reader, mut writer) = connect::connect(args, notice).await?;
    let dialect = if args.target.mode == Some(Mode::Raw) {
        Dialect::Raw
    } else {
        let dialect = hello::negotiate(&mut reader, &mut writer, args.connecting.timeout).await?;
        if dialect == Dialect::Raw {
            notice("the server echoes HELLO itself (RFC 862): going on raw");
        }
        dialect
    };
    // Not before: what nobody can answer stays in the producer's hands.
    let local = |error: io::Error| Failure::Local(format!("cannot start: {}", reason(&error)));
    let mut stdin = stdio::read_stdin().map_err(local)?;
    let (stdout, written) = stdio::write_stdout().map_err(local)?;
    let connection = (&mut reader, &mut writer);
    let copied = pipe::run(connection, dialect, &mut stdin, &stdout, args.connecting.timeout).await;
    // What was verified is written whatever happened, and before anything is said about it.
    drop(stdout);
    let written = written.await;
    copied?;
    match written {
        // A consumer that has seen enough is no failure.
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Ok(Err(error)) => {
            Err(Failure::Local(format!("cannot write to stdout: {}", reason(&error))))
        }
        Ok(Ok(())) => Ok(()),
        Err(_) => Err(Failure::Local("the thread that writes to stdout has died".to_owned())),
    }
}

/// One line for people, in one write: other programs may share stderr. A closed one is not worth a
/// failure.
fn say(text: &str) {
    let _ = io::stderr().write_all(format!("echo-client: {text}\n").as_bytes());
}

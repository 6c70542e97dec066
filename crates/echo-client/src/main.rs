//! The client of an echo server: a pipe that checks what comes back.

#![forbid(unsafe_code)]

mod args;
mod colours;
mod escape;
mod failure;
mod generate;
mod pipe;
mod repl;
mod stdio;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::args::{Args, Task};
use crate::failure::Failure;

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
        None => run(pipe::copy(&args)),
        Some(Task::Send(_)) => return ExitCode::FAILURE, // until send exists
        Some(Task::Completions { shell }) => print(&generate::completions(*shell)).map(|()| true),
        Some(Task::Man { command }) => return man(command.as_deref()),
    };
    ended(outcome)
}

fn ended(outcome: Result<bool, Failure>) -> ExitCode {
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
        Some(page) => ended(print(&page).map(|()| true)),
        None => {
            let name = escape::escape(command.unwrap_or_default());
            say(&format!("no such command: {name} (see echo-client --help)"));
            EXIT_USAGE.into()
        }
    }
}

/// Prints a file. A reader that has gone, as `head` does, is no failure.
fn print(file: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    match stdout.write_all(file).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::local("cannot write to stdout", &error))
        }
        _ => Ok(()),
    }
}

/// Runs to the end, or to Ctrl-C (`false`).
fn run(work: impl Future<Output = Result<(), Failure>>) -> Result<bool, Failure> {
    let local = |error: io::Error| Failure::local("cannot start", &error);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(local)?;
    let ended = runtime.block_on(async {
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(local).map(|()| false),
            done = work => done.map(|()| true),
        }
    });
    // Not a drop: that would wait for a name that is still being looked up.
    runtime.shutdown_background();
    ended
}

/// One line for people, in one write: other programs may share stderr. A closed one is not worth a
/// failure.
fn say(text: &str) {
    let _ = io::stderr().write_all(format!("echo-client: {text}\n").as_bytes());
}

//! The echo daemon: TCP, UDP and Unix sockets in, the same bytes out, and a stop that loses nothing.
#![forbid(unsafe_code)]

mod admin;
mod args;
mod bind;
mod daemon;
mod exit;
mod generate;
mod healthcheck;
mod logging;
mod metrics;
mod open_files;
mod readiness;
mod signals;
mod stderr;
mod units;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use args::{Arguments, Task};

fn main() -> ExitCode {
    let arguments = match Arguments::parse_from(env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return fail(&args::usage(&error)),
        Err(help) => return printed(help.print()),
    };
    match &arguments.task {
        None => match daemon::run(&arguments) {
            Ok(code) => ExitCode::from(code),
            Err(failure) => fail(&failure),
        },
        Some(Task::Healthcheck { target, timeout }) => {
            let target = target.as_ref().or_else(|| arguments.listen.first());
            match healthcheck::run(target.map_or(args::DEFAULT_LISTEN[0], String::as_str), *timeout)
            {
                Ok(healthy) => {
                    let _ = writeln!(io::stdout(), "{healthy}");
                    ExitCode::SUCCESS
                }
                Err(failure) => fail(&failure),
            }
        }
        Some(Task::Completions { shell }) => print(generate::completions(*shell).as_bytes()),
        Some(Task::Man { command }) => match generate::man(command.as_deref()) {
            Some(page) => print(&page),
            None => {
                fail(&exit::Failure::new(exit::USAGE, "no such command; see echo-server --help"))
            }
        },
    }
}

fn print(text: &[u8]) -> ExitCode {
    printed(io::stdout().write_all(text))
}

/// Ends after help or a page was written to stdout.
fn printed(written: io::Result<()>) -> ExitCode {
    match written.and_then(|()| io::stdout().flush()) {
        // To a reader that may have gone, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let reason = exit::reason(&error);
            fail(&exit::Failure::new(exit::IO, format!("cannot write to stdout: {reason}")))
        }
        _ => ExitCode::SUCCESS,
    }
}

fn fail(failure: &exit::Failure) -> ExitCode {
    // Stderr may be closed; the code tells as well.
    let _ = io::stderr().write_all(failure.line().as_bytes());
    ExitCode::from(failure.code)
}

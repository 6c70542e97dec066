//! The echo daemon: TCP, UDP and Unix sockets in, the same bytes out, and a stop that loses nothing.
#![forbid(unsafe_code)]

mod access;
mod admin;
mod args;
mod attend;
mod auth;
mod bind;
mod check;
mod config;
mod control;
mod daemon;
mod end;
mod exit;
mod extension;
mod files;
mod generate;
mod healthcheck;
mod lines;
mod logging;
mod metrics;
mod notify;
mod open_files;
mod own;
mod passed;
mod protection;
mod reader;
mod readiness;
mod reload;
mod secrecy;
mod serving;
mod settings;
mod signals;
mod tls;
mod units;
mod visitor;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use args::{Arguments, Question, Task};
use config::Config;
use echo_sys::began_closed;
use exit::Failure;
use settings::DEFAULT_LISTEN;

fn main() -> ExitCode {
    let argv: Vec<_> = env::args_os().collect();
    match Arguments::parse(&argv, &[]) {
        Ok((arguments, _)) => run(&argv, arguments).unwrap_or_else(|failure| fail(&failure)),
        Err(error) if error.use_stderr() => fail(&args::usage(&error)),
        Err(help) => match stdout_is_open() {
            Ok(()) => printed(help.print()),
            Err(failure) => fail(&failure),
        },
    }
}

fn run(argv: &[OsString], arguments: Arguments) -> Result<ExitCode, Failure> {
    if is_to_print(&arguments) {
        // Before anything is done: Rust's runtime has opened /dev/null there, which takes all.
        stdout_is_open()?;
    }
    Ok(match arguments.task {
        None if arguments.print_config => {
            let config = Config::read(argv)?;
            let limits = config.settings.limits(open_files::raise())?;
            print(config.show(&limits, config.settings.workers()).as_bytes())
        }
        None => ExitCode::from(daemon::run(argv, Config::read(argv)?)?),
        Some(Task::Check) => print_line(&check::run(&Config::read(argv)?)?),
        Some(Task::Ctl { question: Question::Reload }) => {
            // Not from the file, which may be wrong: the server will say so.
            let path = control::path(arguments.settings.control.as_deref());
            match control::ask_for_reload(path.as_deref())? {
                Ok(words) => print_line(&words),
                // In the journal it is already: the server's own entry, as an error.
                Err(_) if logging::to_journal() => ExitCode::from(exit::REFUSED),
                Err(words) => return Err(Failure::new(exit::REFUSED, words)),
            }
        }
        Some(Task::Healthcheck { target: Some(target), timeout }) => {
            print_line(&healthcheck::run(&target, timeout)?)
        }
        Some(Task::Healthcheck { target: None, timeout }) => {
            let config = Config::read(argv)?;
            let first = config.settings.listen.first().map_or(DEFAULT_LISTEN[0], String::as_str);
            print_line(&healthcheck::run(first, timeout)?)
        }
        Some(Task::User { task }) => {
            let config = Config::read(argv)?;
            print(auth::command::run(&task, config.settings.users.as_deref())?.as_bytes())
        }
        Some(Task::Tls { task }) => print(tls::self_signed::run(&task)?.as_bytes()),
        Some(Task::Completions { shell }) => print(generate::completions(shell).as_bytes()),
        Some(Task::Man { command }) => {
            let no_such = || Failure::new(exit::USAGE, "no such command; see echo-server --help");
            print(&generate::man(command.as_deref()).ok_or_else(no_such)?)
        }
    })
}

/// Whether what is printed is all that is wanted. A daemon, and commands that do something or whose exit code is the
/// answer, need no stdout.
fn is_to_print(arguments: &Arguments) -> bool {
    match &arguments.task {
        None => arguments.print_config,
        Some(Task::User { task }) => matches!(task, auth::command::Task::List { .. }),
        Some(Task::Ctl { .. } | Task::Healthcheck { .. }) => false,
        Some(Task::Check | Task::Tls { .. } | Task::Completions { .. } | Task::Man { .. }) => true,
    }
}

fn stdout_is_open() -> Result<(), Failure> {
    match began_closed(io::stdout().as_fd()) {
        true => Err(Failure::new(
            exit::IO,
            "cannot write to stdout: it is closed: redirect it; >/dev/null takes what nobody wants",
        )),
        false => Ok(()),
    }
}

fn print_line(line: &str) -> ExitCode {
    print(format!("{line}\n").as_bytes())
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
            fail(&Failure::new(exit::IO, format!("cannot write to stdout: {reason}")))
        }
        _ => ExitCode::SUCCESS,
    }
}

fn fail(failure: &Failure) -> ExitCode {
    // Stderr may be closed; the code tells as well.
    let _ = io::stderr().write_all(failure.line().as_bytes());
    ExitCode::from(failure.code)
}

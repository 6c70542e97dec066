//! The REPL: lines that are typed go to the server, their replies to the terminal.

mod command;
mod helper;
mod history;
mod terminal;

use std::env;
use std::path::PathBuf;

use crate::colours::Colours;

/// A path as it was typed, with the home folder for a first `~/`.
fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

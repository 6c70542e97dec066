//! `user`: adds, changes, removes and lists users.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use echo_scram::{Password, ask, prepare_name};
use serde_json::json;

use super::users::{self, Change, Users};
use crate::exit::{DATA, Failure, NO_INPUT, REFUSED, SIGNALLED, USAGE, reason};
use crate::units;
use crate::visitor::{Allow, User};

/// What is done to the users.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Add a user
    Add {
        /// The name
        name: String,

        #[command(flatten)]
        password: Source,

        /// What the user may do: echo, list, get, put, remove, joined by commas
        #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "echo")]
        #[arg(value_parser = users::allow)]
        allow: Vec<Allow>,

        /// How many bytes of files may be this user's
        #[arg(long, value_name = "SIZE", value_parser = units::size)]
        quota: Option<u64>,
    },
    /// Give a user another password, or none
    Passwd {
        /// The name
        name: String,

        #[command(flatten)]
        password: Source,
    },
    /// Remove a user. Connections that are open stay open
    Remove {
        /// The name
        name: String,
    },
    /// List the users, one a line
    List {
        /// As JSON objects
        #[arg(long)]
        json: bool,
    },
}

/// Where the password comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// Read the password from this file [default: from $ECHO_PASSWORD, else from the terminal]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// No password: the user comes by a certificate (--tls-client-ca) whose common name is the user's
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,
}

impl Source {
    fn read(&self) -> Result<Option<Password>, Failure> {
        if self.no_password {
            return Ok(None);
        }
        let prompts = ["New password: ", "Again: "];
        let text = ask::password(self.password_file.as_deref(), &prompts).map_err(|error| {
            if let Some(ask::EndedBy(signal)) = ask::EndedBy::of(&error) {
                return Failure::new(SIGNALLED + signal as u8, reason(&error));
            }
            let code = match error.kind() {
                // What was read, or typed.
                ErrorKind::InvalidData | ErrorKind::InvalidInput => DATA,
                _ if self.password_file.is_some() => NO_INPUT,
                _ => USAGE,
            };
            Failure::new(code, reason(&error))
        })?;
        let password = Password::new(&text);
        password.map(Some).map_err(|error| Failure::new(DATA, error.to_string()))
    }
}

/// Does it, and says what was done.
pub(crate) fn run(task: &Task, path: Option<&Path>) -> Result<String, Failure> {
    let path = path.ok_or_else(|| Failure::new(USAGE, "which file of users? give --users FILE"))?;
    let name =
        |name: &str| prepare_name(name).map_err(|error| Failure::new(USAGE, error.to_string()));
    let refused = |why: String| Failure::new(REFUSED, format!("users {}: {why}", path.display()));
    match task {
        Task::Add { name: given, password, allow, quota } => {
            let (name, password) = (name(given)?, password.read()?);
            let allow = allow.iter().fold(Allow::default(), |all, one| all.with(*one));
            let user = User { name: name.clone(), allow, quota: *quota };
            let mut change = Change::begin(path)?;
            if !change.users.add(user, password.as_ref())? {
                return Err(refused(format!("{name} is there already: user passwd changes it")));
            }
            change.commit()?;
            Ok(format!("added {name}\n"))
        }
        Task::Passwd { name: given, password } => {
            let (name, password) = (name(given)?, password.read()?);
            let mut change = Change::begin(path)?;
            if !change.users.set_password(&name, password.as_ref())? {
                return Err(refused(format!("there is no {name}")));
            }
            change.commit()?;
            let done = if password.is_some() { "changed" } else { "removed" };
            Ok(format!("{done} the password of {name}\n"))
        }
        Task::Remove { name: given } => {
            let name = name(given)?;
            let mut change = Change::begin(path)?;
            if !change.users.remove(&name) {
                return Err(refused(format!("there is no {name}")));
            }
            change.commit()?;
            Ok(format!("removed {name}\n"))
        }
        Task::List { json } => {
            let users = Users::read(path)?;
            Ok(users.iter().map(|(user, password)| line(user, password, *json)).collect())
        }
    }
}

fn line(user: &User, has_password: bool, json: bool) -> String {
    let User { name, allow, quota } = user;
    let words: Vec<_> = users::words(*allow).collect();
    if json {
        let line =
            json!({ "name": name, "allow": words, "quota": quota, "password": has_password });
        return format!("{line}\n");
    }
    let quota = quota.map_or_else(String::new, |bytes| format!("\tquota {bytes}"));
    let password = if has_password { "" } else { "\tno password" };
    format!("{name}\t{}{quota}{password}\n", words.join(","))
}

//! What the server is asked to be, in layers: an option wins over its variable, that over the file,
//! and that over the default.

mod file;
mod show;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;
use echo_core::{Address, Endpoint};

use crate::args::{self, Arguments};
use crate::auth;
use crate::exit::{CONFIG, Failure, USAGE};
use crate::settings::{DEFAULT_LISTEN, Settings};
use file::File;

/// The file that is read in the folder of `CONFIGURATION_DIRECTORY`, as systemd names it, if it is there.
const FILE_NAME: &str = "echo-server.toml";

/// Everything that was asked for.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) settings: Settings,
    /// Where to listen, each with the URI as it was given.
    pub(crate) listen: Vec<(String, Endpoint)>,
    /// The settings as texts, in the order of the help.
    values: Vec<Value>,
}

/// One setting as it was written.
#[derive(Debug)]
struct Value {
    name: String,
    texts: Vec<String>,
    origin: Origin,
}

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Option,
    Variable(String),
    /// The file, and the lines of its values.
    File(PathBuf, Vec<usize>),
    Default,
}

impl Config {
    /// Reads command line, environment and file. Done again, it sees what the file holds then.
    pub(crate) fn read(argv: &[OsString]) -> Result<Self, Failure> {
        args::refuse_unknown_variables(env::vars_os())?;
        let (arguments, _) = Arguments::parse(argv, &[]).map_err(|error| args::usage(&error))?;
        let known = args::settings();
        let file = match path(&arguments) {
            Some(path) => File::read(path, &known)?,
            None => File::default(),
        };
        let (arguments, matches) =
            Arguments::parse(argv, &file.values()).map_err(|error| args::usage(&error))?;
        let mut values: Vec<_> = known.iter().map(|arg| value(arg, &matches, &file)).collect();
        let mut settings = arguments.settings;
        let listen = values.iter_mut().find(|value| value.name == "listen");
        let listen = listen.map_or(Ok(Vec::new()), endpoints)?;
        if settings.users.is_none()
            && let Some((uri, _)) = listen.iter().find(|(_, it)| auth::is_required(it))
        {
            let what =
                format!("cannot listen on {uri}: auth=required needs users: give --users FILE");
            let origin = values.iter().find(|it| it.name == "listen").map(|it| &it.origin);
            return Err(origin.unwrap_or(&Origin::Default).blame(0, &what));
        }
        settings.listen = listen.iter().map(|(uri, _)| uri.clone()).collect();
        Ok(Self { settings, listen, values })
    }

    /// Listens on what was passed, if anything was, and nothing else was asked for.
    pub(crate) fn or_listen_on(&mut self, passed: Vec<(String, Endpoint)>) {
        let listen = self.values.iter().find(|value| value.name == "listen");
        if !passed.is_empty() && listen.is_some_and(|it| it.origin == Origin::Default) {
            self.listen = passed;
        }
    }

    /// Fails where one of the settings with these `names` is not as it is in `running`.
    pub(crate) fn refuse_changes(&self, running: &Self, names: &[&str]) -> Result<(), Failure> {
        for (new, old) in self.values.iter().zip(&running.values) {
            if names.contains(&new.name.as_str()) && new.texts != old.texts {
                let message =
                    format!("{} cannot change while the server runs: restart it", new.name);
                return Err(new.origin.blame(0, &message));
            }
        }
        Ok(())
    }

    /// What is wrong with one of those to listen on.
    pub(crate) fn blame_listen(&self, index: usize, why: &str) -> Failure {
        let origin = self.values.iter().find(|value| value.name == "listen").map(|it| &it.origin);
        let message = format!("cannot listen on {}: {why}", self.listen[index].0);
        origin.unwrap_or(&Origin::Default).blame(index, &message)
    }
}

/// The file that was asked for, or else the one that is in its usual place.
fn path(arguments: &Arguments) -> Option<PathBuf> {
    let usual = || {
        // systemd joins several by colons.
        let folders = env::var_os("CONFIGURATION_DIRECTORY")?;
        // An empty name would be that of the folder which the server was started in.
        let folder = env::split_paths(&folders).next().filter(|it| !it.as_os_str().is_empty())?;
        let path = folder.join(FILE_NAME);
        // Whatever else keeps it from being read is an error: the file may say much.
        let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        (!fs::symlink_metadata(&path).is_err_and(missing)).then_some(path)
    };
    arguments.config.clone().or_else(usual)
}

fn value(arg: &clap::Arg, matches: &ArgMatches, file: &File) -> Value {
    let (id, name) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
    let texts = matches.get_raw(id).into_iter().flatten();
    let origin = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Origin::Option,
        Some(ValueSource::EnvVariable) => {
            Origin::Variable(arg.get_env().unwrap_or_default().to_string_lossy().into_owned())
        }
        _ => file.origin(name).unwrap_or(Origin::Default),
    };
    let texts = texts.map(|text| text.to_string_lossy().into_owned()).collect();
    Value { name: name.to_owned(), texts, origin }
}

/// Reads where to listen.
fn endpoints(listen: &mut Value) -> Result<Vec<(String, Endpoint)>, Failure> {
    if let Origin::Variable(_) = listen.origin {
        let uris = listen.texts.concat();
        let uris = uris.split(',').map(str::trim).filter(|uri| !uri.is_empty());
        listen.texts = uris.map(str::to_owned).collect();
        if listen.texts.is_empty() {
            listen.texts = DEFAULT_LISTEN.map(str::to_owned).to_vec();
            listen.origin = Origin::Default;
        }
    }
    let mut endpoints: Vec<(String, Endpoint)> = Vec::new();
    for (index, uri) in listen.texts.iter().enumerate() {
        let endpoint = endpoint(uri).and_then(|endpoint| {
            match endpoints.iter().find(|it| is_same(&it.1, &endpoint)) {
                Some((other, _)) if other == uri => Err("it is listed twice".to_owned()),
                Some((other, _)) => Err(format!("{other} is the same address")),
                None => Ok(endpoint),
            }
        });
        let wrong = |why| listen.origin.blame(index, &format!("cannot listen on {uri}: {why}"));
        endpoints.push((uri.clone(), endpoint.map_err(wrong)?));
    }
    Ok(endpoints)
}

fn endpoint(uri: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = uri.parse().map_err(|error| format!("{error}"))?;
    auth::judge_options(&endpoint).map(|()| endpoint)
}

/// Whether both cannot be listened on at once. Of port 0 there are many.
fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    let any_port =
        matches!(one.address, Address::Tcp { port: 0, .. } | Address::Udp { port: 0, .. });
    one.address == other.address && !any_port
}

impl Origin {
    /// What is wrong with the value `index` from here, and whose fault that is.
    fn blame(&self, index: usize, message: &str) -> Failure {
        match self {
            Self::Option | Self::Default => Failure::new(USAGE, message),
            Self::Variable(name) => Failure::new(USAGE, format!("{name}: {message}")),
            Self::File(path, lines) => {
                let line = lines.get(index).or_else(|| lines.first()).copied().unwrap_or_default();
                Failure::new(CONFIG, format!("{}:{line}: {message}", path.display()))
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option => f.write_str("option"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path, lines) => {
                write!(f, "{}:{}", path.display(), lines.first().copied().unwrap_or_default())
            }
            Self::Default => f.write_str("default"),
        }
    }
}

//! The file of settings: TOML, with a key for each setting, named as its option is.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::error::ContextKind;
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Origin;
use crate::args;
use crate::exit::{self, CONFIG, Failure};

/// Far more than all settings need; something else was meant.
const MAX_LEN: u64 = 1 << 20;
/// The device number of /dev/null, which is how to say that there are no settings: 1:3, see null(4).
const NULL: u64 = 0x103;

/// What a file says, which is right: every key is a setting, every value one that it can have.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    /// As an option would have them.
    values: Vec<String>,
    lines: Vec<usize>,
}

impl File {
    /// Reads the settings that are `known`.
    pub(super) fn read(path: PathBuf, known: &[Arg]) -> Result<Self, Failure> {
        let text = contents(&path).map_err(|error| {
            let reason = exit::reason(&error);
            Failure::new(CONFIG, format!("cannot read {}: {reason}", path.display()))
        })?;
        Self::parse(path, &text, known)
    }

    pub(super) fn parse(path: PathBuf, text: &str, known: &[Arg]) -> Result<Self, Failure> {
        let line = |offset: usize| text[..offset].matches('\n').count() + 1;
        let wrong = |offset: usize, what: &str| {
            Failure::new(CONFIG, format!("{}:{}: {what}", path.display(), line(offset)))
        };
        let table = DeTable::parse(text).map_err(|error| {
            // Some of its messages have several lines.
            let message = error.message().replace('\n', ", ");
            wrong(error.span().map_or(0, |span| span.start), &message)
        })?;
        let at = |value: &Spanned<DeValue<'_>>, name: &str, why: &str| {
            wrong(value.span().start, &format!("{name}: {why}"))
        };
        let mut entries = Vec::new();
        for (key, value) in table.get_ref() {
            let name: &str = key.get_ref();
            let arg = known
                .iter()
                .find(|arg| arg.get_long() == Some(name))
                .ok_or_else(|| wrong(key.span().start, &unknown(name, known)))?;
            let mut entry = Entry { name: name.to_owned(), values: Vec::new(), lines: Vec::new() };
            for value in single(arg, value).map_err(|why| at(value, name, &why))? {
                let written =
                    as_option(arg, value.get_ref()).map_err(|why| at(value, name, &why))?;
                try_alone(arg, &written).map_err(|why| wrong(value.span().start, &why))?;
                entry.values.push(written);
                entry.lines.push(line(value.span().start));
            }
            entries.push(entry);
        }
        Ok(Self { path, entries })
    }

    /// All values, by the names of their settings.
    pub(super) fn values<'a>(&'a self) -> Vec<(&'a str, Vec<&'a str>)> {
        let texts = |values: &'a [String]| values.iter().map(String::as_str).collect();
        self.entries.iter().map(|it| (it.name.as_str(), texts(&it.values))).collect()
    }

    /// Where a setting stands, if it does.
    pub(super) fn origin(&self, name: &str) -> Option<Origin> {
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        Some(Origin::File(self.path.clone(), entry.lines.clone()))
    }
}

fn contents(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    // Opening a pipe that nobody writes to would wait for ever, as reading a terminal would.
    let found = fs::metadata(path)?;
    let is_null = found.file_type().is_char_device() && found.rdev() == NULL;
    if !found.is_file() && !is_null {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    fs::File::open(path)?.take(MAX_LEN + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_LEN {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    String::from_utf8(text).map_err(|error| {
        let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = right.iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::other(format!("line {line} is not UTF-8"))
    })
}

fn unknown(name: &str, known: &[Arg]) -> String {
    match args::nearest(name, known.iter().filter_map(Arg::get_long)) {
        Some(nearest) => format!("unknown key {name:?}; the nearest known one is {nearest:?}"),
        None => {
            format!("unknown key {name:?}; keys are named as the options in echo-server --help")
        }
    }
}

/// The single values of a setting: several where it is a list.
fn single<'a, 'i>(
    arg: &Arg,
    value: &'a Spanned<DeValue<'i>>,
) -> Result<Vec<&'a Spanned<DeValue<'i>>>, String> {
    let list = matches!(arg.get_action(), ArgAction::Append);
    match value.get_ref() {
        DeValue::Array(values) if list && values.is_empty() => Err("the list is empty".into()),
        DeValue::Array(values) if list => Ok(values.iter().collect()),
        _ if list => Err("write a list: [\"...\", \"...\"]".into()),
        _ => Ok(vec![value]),
    }
}

/// A value as an option would have it.
fn as_option(arg: &Arg, value: &DeValue<'_>) -> Result<String, String> {
    let switch = !arg.get_action().takes_values();
    match value {
        DeValue::Boolean(value) if switch => Ok(value.to_string()),
        _ if switch => Err("write true or false".into()),
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err("the number is too large".into()),
        },
        _ => Err("write a text in quotes, or a whole number".into()),
    }
}

/// Reads a value by the parser of its option.
fn try_alone(arg: &Arg, value: &str) -> Result<(), String> {
    if !arg.get_action().takes_values() {
        return Ok(()); // True or false.
    }
    let name = arg.get_long().unwrap_or_default();
    let alone =
        Command::new("file").no_binary_name(true).arg(arg.clone().env(None::<&'static str>));
    match alone.try_get_matches_from([format!("--{name}={value}")]) {
        Ok(_) => Ok(()),
        // Here it is a key.
        Err(error) => {
            let option = args::context(&error, ContextKind::InvalidArg).unwrap_or_default();
            Err(args::complaint(&error).replace(&format!("'{option}'"), name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, Failure> {
        File::parse("x.toml".into(), text, &args::settings())
    }

    #[test]
    fn values_are_what_options_take() {
        let text = "# comment\nlisten = [\n  \"unix:/a\",\n  \"unix:/b\" ]\nmax-frame = 0x10\n\
                    linger = \"250ms\"\ndrain-delay = 0\n";
        let file = parse(text).unwrap();
        let mut values = file.values();
        values.sort();
        let expected = [
            ("drain-delay", vec!["0"]),
            ("linger", vec!["250ms"]),
            ("listen", vec!["unix:/a", "unix:/b"]),
            ("max-frame", vec!["16"]),
        ];
        assert_eq!(values, expected);
        assert_eq!(file.origin("listen"), Some(Origin::File("x.toml".into(), vec![3, 4])));
        assert_eq!(file.origin("workers"), None);
    }

    /// Fault 72: each kind of mistake is told with its line.
    #[test]
    fn mistakes_are_told_with_their_lines() {
        for (text, told) in [
            (
                "max_connections = 5",
                "x.toml:1: unknown key \"max_connections\"; the nearest known one is \"max-connections\"",
            ),
            (
                "linger = \"1s\"\nDrain-Timout = \"1s\"",
                "x.toml:2: unknown key \"Drain-Timout\"; the nearest known one is \"drain-timeout\"",
            ),
            (
                "config = \"y.toml\"",
                "x.toml:1: unknown key \"config\"; keys are named as the options",
            ),
            ("version = true", "x.toml:1: unknown key \"version\""),
            ("[limits]\nmax-frame = 1", "x.toml:1: unknown key \"limits\""),
            ("linger.base = \"1s\"", "x.toml:1: linger: write a text"),
            ("\nlinger = \"soon\"", "x.toml:2: invalid value 'soon' for linger: "),
            ("linger = \"0s\"", "no \"unlimited\""),
            ("linger = 5", "units"),
            ("linger = 5.0", "write a text in quotes"),
            ("linger = 1979-05-27", "write a text in quotes"),
            ("linger = [\"1s\"]", "write a text in quotes"),
            ("linger = true", "write a text in quotes"),
            ("max-frame = -1", "x.toml:1: invalid value '-1' for max-frame: "),
            ("max-frame = 99999999999999999999", "too large"),
            ("log = \"xml\"", "possible values"),
            ("listen = \"unix:/a\"", "x.toml:1: listen: write a list"),
            ("listen = []", "x.toml:1: listen: the list is empty"),
            ("listen = [\n\"unix:/a\",\n[]]", "x.toml:3: listen: write a text"),
            ("linger = \"1s\"\nlinger = \"1s\"", "x.toml:2: duplicate key"),
            ("linger", "x.toml:1: "),
            ("\n\nlinger = \"", "x.toml:3: "),
            ("linger = \u{0}", "x.toml:1: "),
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.code, CONFIG, "{text}");
            assert!(failure.message.contains(told), "{text:?}: {}", failure.message);
            assert_eq!(failure.line().lines().count(), 1, "{text:?}");
        }
    }
}

//! Settings as the text of a file: those in force with where each came from, and all of them with
//! their defaults, which is the example that is shipped.

use std::fmt::Write;
use std::num::NonZeroUsize;

use clap::{Arg, ArgAction};
use echo_core::Limits;
use toml::Value as Toml;

use super::{Config, Value};
use crate::args;
use crate::control;

impl Config {
    /// What is in force, with the limits as they fit this host.
    pub(crate) fn show(&self, limits: &Limits, workers: NonZeroUsize) -> String {
        let mut text = String::new();
        for (value, arg) in self.values.iter().zip(args::settings()) {
            let Value { name, texts, origin } = value;
            let unset = || format!("# {name} is not set");
            let line = match name.as_str() {
                _ if !texts.is_empty() => format!("{name} = {}", toml(&arg, texts)),
                "max-connections" => format!("{name} = {}", limits.max_connections),
                // As a line it would count loopback peers as well.
                "max-per-source" => {
                    format!("# {name} = {}, loopback exempt", limits.max_per_source)
                }
                "control" => control::path(None).map_or_else(unset, |path| {
                    format!("{name} = {}", toml(&arg, &[path.to_string_lossy().into_owned()]))
                }),
                "workers" => format!("{name} = {workers}"),
                _ => unset(),
            };
            // A vector of bytes takes all that is written to it.
            let _ = writeln!(text, "{line}  # {origin}");
        }
        text
    }
}

fn toml(arg: &Arg, texts: &[String]) -> String {
    let one = |text: &String| match text.parse::<i64>() {
        Ok(number) if number.to_string() == *text => text.clone(),
        _ if !arg.get_action().takes_values() => text.clone(),
        _ => Toml::from(text.as_str()).to_string(),
    };
    match arg.get_action() {
        ArgAction::Append => {
            format!("[{}]", texts.iter().map(one).collect::<Vec<_>>().join(", "))
        }
        _ => texts.first().map(one).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::DEFAULT_LISTEN;

    /// What a line of the example's comments has at most.
    const WIDTH: usize = 100;

    const HEAD: &str = "\
# Settings of echo-server, each with its default. An option wins over its variable, and that over
# its line here: --max-frame over ECHO_SERVER_MAX_FRAME over max-frame.
#
# echo-server --config FILE check           tells whether a file is right
# echo-server --config FILE --print-config  shows what is in force, and where it came from
#
# Units: us ms s m h d; B kB MB GB KiB MiB GiB
";

    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/echo-server.toml");

    /// All settings with what they mean and their defaults.
    fn example() -> String {
        let mut text = HEAD.to_owned();
        let limits = Limits::default();
        for arg in args::settings() {
            let name = arg.get_long().unwrap();
            let default: Vec<_> =
                arg.get_default_values().iter().map(|it| it.to_str().unwrap().to_owned()).collect();
            let default = match name {
                _ if !default.is_empty() => toml(&arg, &default),
                "max-connections" => limits.max_connections.to_string(),
                "max-per-source" => limits.max_per_source.to_string(),
                _ if !arg.get_action().takes_values() => "false".to_owned(),
                // What has no default has an example.
                "admin" => "\"127.0.0.1:9777\"".to_owned(),
                "users" => "\"/etc/echo-server/users.toml\"".to_owned(),
                "files" => "\"/var/lib/echo-server/files\"".to_owned(),
                "workers" => "2".to_owned(),
                "tls-cert" => "\"/etc/echo-server/cert.pem\"".to_owned(),
                "tls-key" => "\"/etc/echo-server/key.pem\"".to_owned(),
                "tls-client-ca" => "\"/etc/echo-server/clients.pem\"".to_owned(),
                "control" => "\"/run/echo-server-control/control.sock\"".to_owned(),
                _ => panic!("{name} needs an example"),
            };
            let mut line = "\n#".to_owned();
            for word in arg.get_help().unwrap().to_string().split(' ') {
                if line.len() + word.len() >= WIDTH {
                    text += &line;
                    line = "\n#".to_owned();
                }
                line = line + " " + word;
            }
            writeln!(text, "{line}\n#{name} = {default}").unwrap();
        }
        text
    }

    fn read(args: &[&str]) -> Config {
        let argv: Vec<_> = [&["echo-server"], args].concat().into_iter().map(Into::into).collect();
        Config::read(&argv).unwrap()
    }

    /// The shipped file is made of the definitions: `BLESS=1` writes it anew.
    #[test]
    fn the_shipped_file_has_every_setting() {
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(SHIPPED, example()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(SHIPPED).unwrap(), example(), "BLESS=1 writes it anew");
    }

    /// As it is shipped it changes nothing; and what it shows are the defaults.
    #[test]
    fn the_shipped_file_is_the_defaults() {
        let text = std::fs::read_to_string(SHIPPED).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let spoken = folder.path().join("spoken.toml");
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') && !setting.is_empty() => setting,
            _ => line,
        });
        std::fs::write(&spoken, lines.collect::<Vec<_>>().join("\n")).unwrap();
        for path in [SHIPPED, spoken.to_str().unwrap()] {
            let config = read(&["--config", path]);
            let mut limits = config.settings.limits(None).unwrap();
            limits.spare_loopback = true; // A wish for the default number is still a wish.
            assert_eq!(limits, Limits::default(), "{path}");
            assert_eq!(config.settings.listen, DEFAULT_LISTEN);
            let (shown, default) = (config.settings, read(&[]).settings);
            assert_eq!(shown.drain_delay, default.drain_delay);
            assert_eq!(
                (shown.greeting, shown.log, shown.log_level),
                (default.greeting, default.log, default.log_level)
            );
        }
        assert_eq!(
            read(&["--config", spoken.to_str().unwrap()]).values.len(),
            args::settings().len()
        );
    }

    /// What is shown can be used as a file, and gives the same again.
    #[test]
    fn what_is_shown_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, workers) = (folder.path().join("shown.toml"), NonZeroUsize::new(3).unwrap());
        let greeting = "a \"quoted\" \\ \u{1b}[31m, and 123";
        let args = ["--greeting", greeting, "--listen", "unix:/a?mode=raw", "--max-frame", "64KiB"];
        let config = read(&args);
        let limits = config.settings.limits(None).unwrap();
        let shown = config.show(&limits, workers);
        assert!(shown.contains("max-frame = \"64KiB\"  # option\n"), "{shown}");
        assert!(shown.contains("linger = \"5s\"  # default\n"), "{shown}");
        assert!(shown.contains("workers = 3  # default\n"), "{shown}");
        std::fs::write(&path, shown).unwrap();
        let again = read(&["--config", path.to_str().unwrap()]);
        assert_eq!(again.settings.limits(None).unwrap(), limits);
        assert_eq!(again.settings.greeting, greeting);
        assert_eq!(again.settings.listen, ["unix:/a?mode=raw"]);
        assert_eq!(again.settings.workers, Some(3));
    }
}

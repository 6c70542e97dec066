//! Completion, hints and colours of the line that is being edited.

use std::borrow::Cow;
use std::fs;

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::command::{COMMANDS, Entry, MESSAGES, named};
use super::{Colours, expand_home};

/// A folder is read up to this many names: a hint appears while one types.
const NAMES_MAX: usize = 10_000;

/// What the editor asks while a line is being typed.
pub(super) struct Line(pub(super) Colours);

/// What stands before the cursor, and where in the line it begins.
enum Place<'a> {
    /// A command's name, among these.
    Name(&'a str, &'static [Entry]),
    /// An argument that is one of few words.
    Word(&'a str, &'static [&'static str]),
    File(&'a str),
    /// Right after a command, where this is to be written.
    Arguments(&'static str),
    Elsewhere,
}

fn place(line: &str) -> Place<'_> {
    let mut rest = line.strip_prefix(' ').unwrap_or(line);
    let mut commands = COMMANDS;
    loop {
        if !rest.starts_with(':') {
            return Place::Elsewhere;
        }
        let Some((word, arguments)) = rest.split_once(' ') else {
            return Place::Name(rest, commands);
        };
        let Ok(command) = named(word) else { return Place::Elsewhere };
        rest = arguments.trim_start_matches(' ');
        match command.name {
            ":file" if !rest.is_empty() => return Place::File(rest),
            ":timing" => return Place::Word(rest, &["on", "off"]),
            ":repeat" | ":watch" => match rest.split_once(' ') {
                Some((_, message)) => rest = message.trim_start_matches(' '),
                None if rest.is_empty() => return Place::Arguments(command.arguments),
                None => return Place::Elsewhere,
            },
            _ if rest.is_empty() => return Place::Arguments(command.arguments),
            _ => return Place::Elsewhere,
        }
        commands = &COMMANDS[..MESSAGES];
    }
}

impl Place<'_> {
    /// The word that is begun, and what it may become.
    fn candidates(&self) -> (&str, Vec<String>) {
        match *self {
            Self::Name(begun, commands) => {
                let names = commands.iter().filter(|command| command.name.starts_with(begun));
                let space = |command: &Entry| if command.arguments.is_empty() { "" } else { " " };
                (begun, names.map(|command| command.name.to_owned() + space(command)).collect())
            }
            Self::Word(begun, words) => {
                let words = words.iter().filter(|word| word.starts_with(begun));
                (begun, words.map(|word| (*word).to_owned()).collect())
            }
            Self::File(begun) => (begun, files(begun)),
            Self::Arguments("PATH") => ("", files("")),
            Self::Arguments(_) | Self::Elsewhere => ("", Vec::new()),
        }
    }
}

/// The paths that begin with `begun`, folders with a slash at their end.
fn files(begun: &str) -> Vec<String> {
    let (folder, name) = match begun.rfind('/') {
        Some(at) => begun.split_at(at + 1),
        None => ("", begun),
    };
    let Ok(entries) =
        fs::read_dir(if folder.is_empty() { ".".into() } else { expand_home(folder) })
    else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    for entry in entries.take(NAMES_MAX).flatten() {
        // A name that cannot be typed is not offered, one that is hidden only to who asks for it.
        let Ok(found) = entry.file_name().into_string() else { continue };
        let hidden = found.starts_with('.') && !name.starts_with('.');
        if found.starts_with(name) && !hidden && crate::escape::escape(&found) == found {
            // Follows links.
            let slash = if entry.path().is_dir() { "/" } else { "" };
            paths.push(format!("{folder}{found}{slash}"));
        }
    }
    paths.sort();
    paths
}

impl Completer for Line {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let place = place(&line[..pos]);
        let (begun, candidates) = place.candidates();
        let pair = |replacement: String| {
            // The last part of a path says enough.
            let name = replacement.trim_end_matches(['/', ' ']);
            let at = name.rfind('/').map_or(0, |at| at + 1);
            Pair { display: replacement[at..].to_owned(), replacement }
        };
        Ok((pos - begun.len(), candidates.into_iter().map(pair).collect()))
    }
}

/// What is shown after the cursor, of which so many bytes can be taken over.
pub(super) struct Hint {
    text: String,
    taken: usize,
}

impl rustyline::hint::Hint for Hint {
    fn display(&self) -> &str {
        &self.text
    }

    fn completion(&self) -> Option<&str> {
        Some(&self.text[..self.taken]).filter(|text| !text.is_empty())
    }
}

impl Hinter for Line {
    type Hint = Hint;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<Hint> {
        // Without colours it would look as if it had been typed.
        if pos < line.len() || line.is_empty() || !self.0.enabled() {
            return None;
        }
        let place = place(line);
        if let Place::Arguments(arguments) = place {
            return Some(Hint { text: arguments.to_owned(), taken: 0 });
        }
        let (begun, candidates) = place.candidates();
        let [only] = &candidates[..] else { return None };
        let rest = &only[begun.len()..];
        let after = match place {
            Place::Name(..) => named(only.trim_end()).map_or("", |command| command.arguments),
            _ => "",
        };
        Some(Hint { text: format!("{rest}{after}"), taken: rest.len() })
    }
}

impl Highlighter for Line {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        self.0.dim(hint).into()
    }
}

impl Validator for Line {}
impl Helper for Line {}

#[cfg(test)]
mod tests {
    use rustyline::hint::Hint as _;
    use rustyline::history::MemHistory;

    use super::*;

    fn completed(line: &str) -> (usize, Vec<String>) {
        let history = MemHistory::new();
        let (start, pairs) =
            Line(Colours::NONE).complete(line, line.len(), &Context::new(&history)).unwrap();
        (start, pairs.into_iter().map(|pair| pair.replacement).collect())
    }

    fn hint(line: &str) -> Option<(String, Option<String>)> {
        let history = MemHistory::new();
        let hint = Line(Colours::ALL).hint(line, line.len(), &Context::new(&history))?;
        Some((hint.display().to_owned(), hint.completion().map(str::to_owned)))
    }

    #[test]
    fn commands_are_completed() {
        assert_eq!(completed(":wa"), (0, vec![":watch ".to_owned()]));
        assert_eq!(completed(" :q"), (1, vec![":quit".to_owned()]));
        assert_eq!(completed(":h").1, [":hex ", ":help"]);
        assert_eq!(completed(":").1.len(), COMMANDS.len());
        assert_eq!(completed(":repeat 5 :").1, [":hex ", ":file "]);
        assert_eq!(completed(":timing o"), (8, vec!["on".to_owned(), "off".to_owned()]));
        for line in ["", "hello", ":nonsense x", ":repeat 5 hello", ":hex 00", ":repeat"] {
            assert!(completed(line).1.len() <= usize::from(line == ":repeat"), "{line}");
        }
    }

    #[test]
    fn file_names_are_completed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["alpha beta", "alpine", ".hidden", "bad\u{1b}[2J"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("sub")).unwrap();
        let path = folder.path().to_str().unwrap();
        let found = |begun: &str| {
            let (start, paths) = completed(&format!(":file {path}/{begun}"));
            assert_eq!(start, 6);
            paths.iter().map(|found| found[path.len() + 1..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found("al"), ["alpha beta", "alpine"]);
        assert_eq!(found("alpha "), ["alpha beta"]);
        assert_eq!(found("s"), ["sub/"]);
        assert_eq!(found(""), ["alpha beta", "alpine", "sub/"]);
        assert_eq!(found("."), [".hidden"]);
        assert_eq!(found("none/"), [""; 0]);
        assert_eq!(
            completed(&format!(":repeat 5 :file {path}/alpi")).1,
            [format!("{path}/alpine")]
        );
        let told = hint(&format!(":file {path}/alpi"));
        assert_eq!(told, Some(("ne".to_owned(), Some("ne".to_owned()))));
    }

    #[test]
    fn hints() {
        let hinted = |text: &str, taken: &str| {
            Some((text.to_owned(), Some(taken.to_owned()).filter(|taken| !taken.is_empty())))
        };
        assert_eq!(hint(":wa"), hinted("tch INTERVAL [MESSAGE]", "tch "));
        assert_eq!(hint(":watch"), hinted(" INTERVAL [MESSAGE]", " "));
        assert_eq!(hint(":watch "), hinted("INTERVAL [MESSAGE]", ""));
        assert_eq!(hint(":q"), hinted("uit", "uit"));
        let history = MemHistory::new();
        assert!(Line(Colours::NONE).hint(":wa", 3, &Context::new(&history)).is_none());
        for line in ["", "hello", ":h", ":quit ", ":watch 5s", ":nonsense "] {
            assert_eq!(hint(line).filter(|(text, _)| !text.is_empty()), None, "{line}");
        }
    }
}

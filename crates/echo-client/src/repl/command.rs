//! What a line means.

use std::num::NonZeroU64;
use std::time::Duration;

use echo_core::Endpoint;

use crate::args;
use crate::escape::{hex, unescape};

/// One of the commands, for `:help`, completion and hints.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) arguments: &'static str,
    pub(super) does: &'static str,
}

const fn entry(name: &'static str, arguments: &'static str, does: &'static str) -> Entry {
    Entry { name, arguments, does }
}

/// All commands. Those at [`MESSAGES`] also stand for the message of another one.
pub(super) const COMMANDS: &[Entry] = &[
    entry(":hex", "DIGITS", "send the bytes that these hexadecimal digits stand for"),
    entry(":file", "PATH", "send a file as one message"),
    entry(":repeat", "N [MESSAGE]", "send a message, or the last one again, N times"),
    entry(":watch", "INTERVAL [MESSAGE]", "the same each 500ms, 2s, ... until Ctrl-C"),
    entry(":probe", "", "tell the network's time from the server's"),
    entry(":stats", "", "show count, loss and round trips so far"),
    entry(":timing", "on|off", "show each round trip, or not"),
    entry(":connect", "TARGET", "talk to another server"),
    entry(":help", "", "show this"),
    entry(":quit", "", "leave, as Ctrl-D does"),
];

/// How many of [`COMMANDS`], from the first on, are messages.
pub(super) const MESSAGES: usize = 2;

/// A line that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// An empty line.
    Nothing,
    Send(Message),
    /// `None` is the last message again.
    Repeat(NonZeroU64, Option<Message>),
    Watch(Duration, Option<Message>),
    Probe,
    Stats,
    Timing(bool),
    Connect(Box<Endpoint>),
    Help,
    Quit,
}

/// What a line asks to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Text(Vec<u8>),
    /// Its reply is shown in hexadecimal too.
    Hex(Vec<u8>),
    /// The file at this path, as it is when it is sent.
    File(String),
}

/// Reads a line. A first space is not part of it: it keeps the line out of the history.
pub(super) fn parse(line: &str) -> Result<Command, String> {
    let line = line.strip_prefix(' ').unwrap_or(line);
    if line.is_empty() {
        return Ok(Command::Nothing);
    }
    if !line.starts_with(':') {
        return Ok(Command::Send(Message::Text(unescape(line)?)));
    }
    let (word, rest) = split(line);
    let Entry { name, arguments, .. } = *named(word)?;
    if arguments.is_empty() && !rest.is_empty() {
        return Err(format!("{name} takes no argument"));
    }
    let usage = || format!("write {name} {arguments}");
    match name {
        ":repeat" => {
            let (count, message) = split(rest);
            let count = args::count(count).map_err(|error| format!("{}: {error}", usage()))?;
            Ok(Command::Repeat(count, optional(message)?))
        }
        ":watch" => {
            let (interval, message) = split(rest);
            let interval =
                args::timeout(interval).map_err(|error| format!("{}: {error}", usage()))?;
            Ok(Command::Watch(interval, optional(message)?))
        }
        ":timing" => match rest {
            "on" => Ok(Command::Timing(true)),
            "off" => Ok(Command::Timing(false)),
            _ => Err(usage()),
        },
        ":connect" if rest.is_empty() => Err(usage()),
        ":connect" => Ok(Command::Connect(Box::new(args::target(rest)?))),
        ":probe" => Ok(Command::Probe),
        ":stats" => Ok(Command::Stats),
        ":help" => Ok(Command::Help),
        ":quit" => Ok(Command::Quit),
        _ => Ok(Command::Send(message(line)?)),
    }
}

/// The command that `word` names, or begins as the only one.
pub(super) fn named(word: &str) -> Result<&'static Entry, String> {
    if let Some(command) = COMMANDS.iter().find(|command| command.name == word) {
        return Ok(command);
    }
    let begun = COMMANDS.iter().filter(|command| command.name.starts_with(word));
    match &begun.collect::<Vec<_>>()[..] {
        [command] => Ok(command),
        [] => Err(format!("unknown command {word}: see :help; a message begins so as \\{word}")),
        several => {
            let names: Vec<_> = several.iter().map(|command| command.name).collect();
            Err(format!("{word} may be {}", names.join(" or ")))
        }
    }
}

/// A message as `:repeat` and `:watch` take it.
fn optional(text: &str) -> Result<Option<Message>, String> {
    if text.is_empty() { Ok(None) } else { message(text).map(Some) }
}

fn message(text: &str) -> Result<Message, String> {
    if !text.starts_with(':') {
        return Ok(Message::Text(unescape(text)?));
    }
    let (word, rest) = split(text);
    let Entry { name, arguments, .. } = *named(word)?;
    match name {
        ":hex" if rest.is_empty() => {
            Err(format!("write :hex {arguments}, or :hex \"\" for a message of no bytes"))
        }
        ":hex" if rest == "\"\"" => Ok(Message::Hex(Vec::new())),
        ":hex" => Ok(Message::Hex(hex(rest)?)),
        ":file" if rest.is_empty() => Err(format!("write :file {arguments}")),
        ":file" => Ok(Message::File(rest.to_owned())),
        _ => Err(format!("{name} is no message")),
    }
}

/// The first word, and the rest without the spaces before it.
fn split(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    (word, rest.trim_start_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Message {
        Message::Text(bytes.to_vec())
    }

    #[test]
    fn lines_that_are_messages() {
        for (line, sent) in [
            ("hello world", &b"hello world"[..]),
            ("  two spaces ", b" two spaces "),
            (r"\x00\xff", b"\0\xff"),
            (r"\:quit", b":quit"),
            ("\u{e9}", b"\xc3\xa9"),
            ("quit", b"quit"),
        ] {
            assert_eq!(parse(line), Ok(Command::Send(text(sent))), "{line}");
        }
        for line in ["", " "] {
            assert_eq!(parse(line), Ok(Command::Nothing));
        }
        assert!(parse(r"C:\new\dir").is_err());
    }

    #[test]
    fn commands() {
        let five = NonZeroU64::new(5).unwrap();
        let half = Duration::from_millis(500);
        let file = Message::File("a file".to_owned());
        for (line, command) in [
            (":hex de ad", Command::Send(Message::Hex(vec![0xde, 0xad]))),
            (":hex \"\"", Command::Send(Message::Hex(Vec::new()))),
            (":file a file", Command::Send(Message::File("a file".to_owned()))),
            (":repeat 5", Command::Repeat(five, None)),
            (":repeat 5 a  b", Command::Repeat(five, Some(text(b"a  b")))),
            (":repeat 5 :file a file", Command::Repeat(five, Some(file))),
            (":watch 500ms", Command::Watch(half, None)),
            (":watch 500ms :hex 00", Command::Watch(half, Some(Message::Hex(vec![0])))),
            (":watch 500ms \\x00", Command::Watch(half, Some(text(b"\0")))),
            (":probe", Command::Probe),
            (" :stats", Command::Stats),
            (":timing on", Command::Timing(true)),
            (":timing off", Command::Timing(false)),
            (":help", Command::Help),
            (":quit", Command::Quit),
            (":q", Command::Quit),
            (":rep 5", Command::Repeat(five, None)),
        ] {
            assert_eq!(parse(line), Ok(command), "{line}");
        }
        let Ok(Command::Connect(target)) = parse(":connect localhost") else { panic!() };
        assert_eq!(target.to_string(), "tcp://localhost:7777");
    }

    #[test]
    fn wrong_lines_say_what_to_write() {
        for (line, told) in [
            (":nonsense", "unknown command :nonsense"),
            (":", ":hex or :file or"),
            (":h", ":h may be :hex or :help"),
            (":hex 0", "two hexadecimal digits"),
            (":hex", "write :hex DIGITS, or :hex \"\" for"),
            (":repeat 2 :hex", "write :hex DIGITS"),
            (":file", "write :file PATH"),
            (":repeat", "write :repeat N [MESSAGE]"),
            (":repeat 0", "write :repeat N [MESSAGE]: write a whole number from 1 to 1844"),
            (":repeat -1 x", "from 1 to 1844"),
            (":hex abc", "c stands alone"),
            (r"\u41", r"\u needs braces"),
            (r"\u{xy}", "\"xy\" is no number"),
            (r"\u{d800}", r"\u{d800} is no character"),
            (":repeat x y", "write :repeat N [MESSAGE]"),
            (":repeat 5 :quit", ":quit is no message"),
            (":repeat 5 :file", "write :file PATH"),
            (":watch", "write :watch INTERVAL [MESSAGE]: "),
            (":watch 5", "unit"),
            (":watch 0", "more than 0"),
            (":timing", "write :timing on|off"),
            (":connect", "write :connect TARGET"),
            (":connect x?colour=1", "unknown option"),
            (":quit now", ":quit takes no argument"),
            (r"\d", "unknown escape"),
        ] {
            let words = parse(line).unwrap_err();
            assert!(words.contains(told), "{line}: {words}");
        }
    }
}

//! Text from elsewhere, harmless in a log and on a terminal.

use std::borrow::Cow;
use std::fmt::{self, Debug, Display, Formatter, Write};

/// Shows a value with every character escaped that a terminal or a reader of lines would obey.
pub(crate) struct Harmless<T>(pub(crate) T);

impl<T: Display> Display for Harmless<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

impl<T: Debug> Debug for Harmless<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{:?}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, harmful)) = rest.char_indices().find(|(_, it)| is_harmful(*it)) {
            self.0.write_str(&rest[..at])?;
            Display::fmt(&harmful.escape_default(), self.0)?;
            rest = &rest[at + harmful.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Controls (C0, DEL, C1), and what turns the direction of writing or breaks a line: Unicode's bidi
/// controls and line separators.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// A line of JSON whose strings the encoder has escaped only as far as JSON needs it.
pub(crate) fn json(line: &[u8]) -> Cow<'_, [u8]> {
    let (line, end) = line.strip_suffix(b"\n").map_or((line, ""), |line| (line, "\n"));
    let text = String::from_utf8_lossy(line);
    if !text.contains(is_harmful) {
        return Cow::Owned([line, end.as_bytes()].concat());
    }
    let mut escaped = String::new();
    for character in text.chars() {
        // Those that are harmful have one unit each, and stand in strings only.
        match is_harmful(character) {
            true => escaped += &format!("\\u{:04x}", u32::from(character)),
            false => escaped.push(character),
        }
    }
    Cow::Owned((escaped + end).into_bytes())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Text with everything in it that could do harm.
    pub(crate) const HOSTILE: &str = "a\0b\tc\r\nd\u{7}\u{8}\u{1b}]0;title\u{7}\u{1b}[2J\u{7f}\u{85}\
                                      \u{9b}31m\u{202e}olleh\u{2066}\u{2028}\u{200f}\u{61c}\"\\ é漢";

    /// Fails where a line could do harm.
    pub(crate) fn assert_harmless(line: &str) {
        assert!(!line.contains(is_harmful), "{}", line.escape_debug());
    }

    #[test]
    fn nothing_harmful_is_left() {
        let shown = Harmless(HOSTILE).to_string();
        assert_harmless(&shown);
        assert!(
            shown.starts_with(r"a\u{0}b\tc\r\nd\u{7}") && shown.ends_with("\"\\ é漢"),
            "{shown}"
        );
        assert_harmless(&format!("{:?}", Harmless(HOSTILE)));
        for character in '\0'..=char::MAX {
            assert_harmless(&Harmless(character).to_string());
        }
    }

    #[test]
    fn json_stays_json() {
        let line = serde_json::to_string(&[HOSTILE]).unwrap() + "\n";
        let escaped = json(line.as_bytes());
        let escaped = str::from_utf8(&escaped).unwrap().strip_suffix('\n').unwrap();
        assert_harmless(escaped);
        assert_eq!(serde_json::from_str::<Vec<String>>(escaped).unwrap(), [HOSTILE]);
    }
}

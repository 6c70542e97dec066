//! Bytes and text from the network, made safe for a terminal, and the way back.

use std::fmt::Write;

use serde_json::Value;

/// Shows a peer's text on one line: control characters (C0, DEL, C1) and those that reorder or hide
/// text (bidirectional and line separators, zero width, byte order mark) come as escapes, so that
/// nothing a peer sends can move the cursor, recolour the screen or make a line read differently
/// from what it says.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        put(&mut out, c);
    }
    out
}

/// Shows bytes as [`escape`] shows text, those that are not UTF-8 as `\xNN`, a backslash doubled:
/// [`unescape`] reads it back as the same bytes.
pub(crate) fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' { out.push_str("\\\\") } else { put(&mut out, c) }
        }
        for byte in chunk.invalid() {
            put_byte(&mut out, *byte);
        }
    }
    out
}

/// JSON in which what [`escape`] escapes is escaped as JSON does it: the same value to programs, whoever looks
/// at it on its way.
pub(crate) fn escape_json(value: &Value) -> String {
    let mut out = String::new();
    // Outside of strings there is nothing of that kind.
    for c in value.to_string().chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Reads text with escapes: `\xNN` is a byte, `\u{N}` a character; `\n`, `\r`, `\t`, `\0`, `\:` and
/// `\\` are what they are elsewhere.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut parts = text.split('\\');
    out.extend(parts.next().unwrap_or_default().as_bytes());
    while let Some(part) = parts.next() {
        let mut rest = part.chars();
        match rest.next() {
            Some('n') => out.push(b'\n'),
            Some('r') => out.push(b'\r'),
            Some('t') => out.push(b'\t'),
            Some('0') => out.push(0),
            Some(':') => out.push(b':'),
            Some('x') => {
                let (byte, after) =
                    digits(rest.as_str()).ok_or("\\x needs two hexadecimal digits")?;
                out.push(byte);
                rest = after.chars();
            }
            Some('u') => {
                let (c, after) = braced(rest.as_str())?;
                out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after.chars();
            }
            Some(other) => {
                return Err(format!(
                    "unknown escape \\{}: write \\\\ for a backslash",
                    other.escape_debug()
                ));
            }
            // Two backslashes, with what follows the second one; or the text ends after the first.
            None => {
                let Some(after) = parts.next() else {
                    return Err("a backslash at the end: write \\\\ for one".to_owned());
                };
                out.push(b'\\');
                rest = after.chars();
            }
        }
        out.extend(rest.as_str().as_bytes());
    }
    Ok(out)
}

/// Reads hexadecimal digits, two for each byte; white space and colons may stand between bytes.
pub(crate) fn hex(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut half = None;
    for c in text.chars() {
        match (c.to_digit(16), half) {
            (Some(digit), None) => half = Some(digit),
            (Some(digit), Some(high)) => {
                out.push((high << 4 | digit) as u8);
                half = None;
            }
            (None, None) if c.is_ascii_whitespace() || c == ':' => {}
            (None, Some(digit)) if c.is_ascii_whitespace() || c == ':' => return Err(alone(digit)),
            (None, _) => return Err(format!("{c:?} is no hexadecimal digit")),
        }
    }
    match half {
        None => Ok(out),
        Some(digit) => Err(alone(digit)),
    }
}

fn alone(digit: u32) -> String {
    format!("a byte has two hexadecimal digits: {digit:x} stands alone")
}

/// Shows bytes in hexadecimal, as [`hex`] reads them.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(3 * bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        let _ = write!(out, "{}{byte:02x}", if at == 0 { "" } else { " " });
    }
    out
}

/// The one notation for what is escaped: `\n`, `\x1b`, `\u{202e}`.
fn put(out: &mut String, c: char) {
    match c {
        '\n' | '\r' | '\t' => out.extend(c.escape_default()),
        c if c.is_ascii_control() => put_byte(out, c as u8),
        c if is_unsafe(c) => out.extend(c.escape_unicode()),
        c => out.push(c),
    }
}

fn put_byte(out: &mut String, byte: u8) {
    let _ = write!(out, "\\x{byte:02x}");
}

/// The byte that two digits stand for, and what follows them.
fn digits(text: &str) -> Option<(u8, &str)> {
    let (digits, after) = text.split_at_checked(2)?;
    // `from_str_radix` would take a sign.
    let number = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
    Some((number, after))
}

/// The character of `{N}`, and what follows it.
fn braced(text: &str) -> Result<(char, &str), String> {
    let inside = text.strip_prefix('{').and_then(|text| text.split_once('}'));
    let (digits, after) = inside.ok_or("\\u needs braces: write \\u{202e}, in hexadecimal")?;
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        let digits = escape(digits);
        return Err(format!("{digits:?} is no number: write \\u{{202e}}, in hexadecimal"));
    }
    let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
    let c = c.ok_or_else(|| {
        format!("\\u{{{digits}}} is no character: they go to 10ffff, without d800 to dfff")
    })?;
    Ok((c, after))
}

/// The joiners U+200C and U+200D stay: they belong to the spelling of many languages, and to emoji.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200B}' | '\u{200E}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Fault 39: escape sequences, C1 controls and bidirectional overrides in a peer's text.
    #[test]
    fn nothing_a_peer_sends_reaches_the_terminal_as_control() {
        assert_eq!(escape("plain text, übung, 漢字"), "plain text, übung, 漢字");
        assert_eq!(escape("\x1b[2J\r\n\0\x7f"), "\\x1b[2J\\r\\n\\x00\\x7f");
        assert_eq!(escape("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(escape("a\u{202e}b\u{2066}c\u{200f}"), "a\\u{202e}b\\u{2066}c\\u{200f}");
        assert_eq!(escape("\u{feff}\u{2028}"), "\\u{feff}\\u{2028}");
    }

    #[test]
    fn json_stays_the_same_value() {
        let text = "\x1b[2J\r\n\0\x7f\u{9b}31m \u{202e}\u{2066} \u{e0001} \"\\ übung, 漢字";
        let value = serde_json::json!({ "name": text });
        let written = escape_json(&value);
        assert!(!written.contains(is_unsafe), "{written:?}");
        assert!(written.contains(r"\u007f\u009b31m \u202e\u2066 \udb40\udc01"), "{written}");
        assert!(written.contains("übung, 漢字"));
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), value);
    }

    #[test]
    fn bytes_stay_readable() {
        for text in ["plain text, übung, 漢字", "👩‍🔧", "می‌خواهم"] {
            assert_eq!(escape_bytes(text.as_bytes()), text);
        }
        assert_eq!(escape_bytes(b"\x1b[2J\r\n\t\0\x7f\\"), r"\x1b[2J\r\n\t\x00\x7f\\");
        assert_eq!(escape_bytes(b"\xff\xc3(\xe2\x82"), r"\xff\xc3(\xe2\x82");
        assert_eq!(escape_bytes("\u{9b}31m\u{202e}".as_bytes()), r"\u{9b}31m\u{202e}");
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let odd = select(vec!["\\x", "\\", "\u{202e}", "{1b}", "u", "\u{85}"]);
        prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            (0..0x20_u8).prop_map(|byte| vec![byte]),
            odd.prop_map(|text| text.as_bytes().to_vec()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 10_000_000 } else { 20_000 }))]

        /// Whatever bytes there are: what is shown is safe, and reads back as the same bytes.
        #[test]
        fn what_is_shown_can_be_typed(pieces in vec(piece(), 0..8)) {
            let bytes = pieces.concat();
            let shown = escape_bytes(&bytes);
            prop_assert!(!shown.chars().any(is_unsafe), "{}", shown);
            prop_assert_eq!(unescape(&shown), Ok(bytes));
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\x00\xfFb"), Ok(b"a\0\xffb".to_vec()));
        assert_eq!(unescape(r"\n\r\t\0\\\\x41\:"), Ok(b"\n\r\t\0\\\\x41:".to_vec()));
        assert_eq!(unescape(r"\u{e9}\u{1F600}"), Ok("é😀".into()));
        assert_eq!(unescape(""), Ok(Vec::new()));
        for wrong in [
            r"\x",
            r"\x1",
            r"\xg0",
            r"\x é",
            r"\x+1",
            r"\d",
            r"\",
            r"a\\\",
            r"\u",
            r"\u{}",
            r"\u{d800}",
            r"\u{+41}",
            r"\u{110000}",
            r"\u41",
            r"\x: ",
            r"\é",
        ] {
            assert!(unescape(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(hex("DEadbe EF"), Ok(b"\xde\xad\xbe\xef".to_vec()));
        assert_eq!(hex(" 00:ff\t01 "), Ok(b"\0\xff\x01".to_vec()));
        assert_eq!(hex(""), Ok(Vec::new()));
        for wrong in ["0", "000", "0g", "0x00", "0 0", "é", "٣٣"] {
            assert!(hex(wrong).is_err(), "{wrong}");
        }
        assert_eq!(to_hex(b"\0\xffa"), "00 ff 61");
        assert_eq!(hex(&to_hex(b"\0\xffa")), Ok(b"\0\xffa".to_vec()));
    }
}

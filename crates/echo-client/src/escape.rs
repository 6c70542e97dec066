//! Text from the network, made safe for a terminal.

/// Shows a peer's text on one line: control characters (C0, DEL, C1) and those that reorder or hide
/// text (bidirectional and line separators, zero width, byte order mark) come as escapes, so that
/// nothing a peer sends can move the cursor, recolour the screen or make a line read differently
/// from what it says.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fault 39: escape sequences, C1 controls and bidirectional overrides in a peer's text.
    #[test]
    fn nothing_a_peer_sends_reaches_the_terminal_as_control() {
        assert_eq!(escape("plain text, übung, 漢字"), "plain text, übung, 漢字");
        assert_eq!(escape("\x1b[2J\r\n\0\x7f"), "\\u{1b}[2J\\r\\n\\u{0}\\u{7f}");
        assert_eq!(escape("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(escape("a\u{202e}b\u{2066}c\u{200f}"), "a\\u{202e}b\\u{2066}c\\u{200f}");
        assert_eq!(escape("\u{feff}\u{2028}"), "\\u{feff}\\u{2028}");
    }
}

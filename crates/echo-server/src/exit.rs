//! How the process ends: the codes of sysexits.h where one fits.

/// The server that was asked does not answer.
pub(crate) const UNHEALTHY: u8 = 1;
/// Some connections were forced to end at the drain's deadline.
pub(crate) const FORCED: u8 = 3;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 64;
/// A listener's address cannot be used.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A defect of this program.
pub(crate) const SOFTWARE: u8 = 70;
/// A listener failed while it served.
pub(crate) const IO: u8 = 74;
/// The settings do not fit this host.
pub(crate) const CONFIG: u8 = 78;
/// Ended by a signal: its number comes on top.
pub(crate) const SIGNALLED: u8 = 128;

/// Why the server does not run: one line that says what to do, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The line on stderr.
    pub(crate) fn line(&self) -> String {
        // Whatever is quoted in it, it stays one line and harmless on a terminal.
        let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { c.into() };
        let message: String = self.message.chars().map::<String, _>(escape).collect();
        format!("echo-server: {message}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fault 39: control characters in what a user or a file gave.
    #[test]
    fn a_failure_is_one_harmless_line() {
        let failure = Failure::new(USAGE, "no such\nhost \u{1b}[2J");
        assert_eq!(failure.line(), "echo-server: no such\\nhost \\u{1b}[2J\n");
    }
}

//! How numbers and a peer's bytes are shown to people.

use std::time::Duration;

use crate::escape::{escape_bytes, to_hex};

/// How many of a peer's bytes are shown: half a screen.
const SHOWN_MAX: usize = 1024;

/// A peer's bytes, safe for a terminal, cut where they would fill it.
pub(crate) fn preview(bytes: &[u8], hex: bool) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_MAX)];
    let shown = if hex { to_hex(shown) } else { escape_bytes(shown) };
    if bytes.len() > SHOWN_MAX { shown + " ..." } else { shown }
}

/// A duration for people, to three digits.
pub(crate) fn time(duration: Duration) -> String {
    let nanos = duration.as_nanos() as f64;
    let (value, unit) = match nanos {
        ..999.5e3 => (nanos / 1e3, "µs"),
        ..999.5e6 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let decimals = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// A number of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") }
}

/// A limit in bytes for people: `1 MiB`.
pub(crate) fn size(count: u64) -> String {
    match count {
        0 => "0 bytes".to_owned(),
        count if count % (1 << 20) == 0 => format!("{} MiB", count >> 20),
        count if count % (1 << 10) == 0 => format!("{} KiB", count >> 10),
        count => bytes(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        for (nanos, told) in [
            (0, "0.00 µs"),
            (1, "0.00 µs"),
            (1_234, "1.23 µs"),
            (9_996, "10.0 µs"),
            (12_345, "12.3 µs"),
            (123_456, "123 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (999_600_000, "1.00 s"),
            (61_000_000_000, "61.0 s"),
            (3_600_000_000_000, "3600 s"),
        ] {
            assert_eq!(time(Duration::from_nanos(nanos)), told, "{nanos}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (count, told) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1 << 20, "1 MiB"),
            ((1 << 24) - 1, "16777215 bytes"),
        ] {
            assert_eq!(size(count), told);
        }
    }

    #[test]
    fn long_bytes_are_cut() {
        assert_eq!(preview(b"a\n", false), "a\\n");
        assert_eq!(preview(b"a\n", true), "61 0a");
        assert_eq!(preview(&[b'x'; SHOWN_MAX], false), "x".repeat(SHOWN_MAX));
        assert_eq!(preview(&[b'x'; 100_000], false), "x".repeat(SHOWN_MAX) + " ...");
    }
}

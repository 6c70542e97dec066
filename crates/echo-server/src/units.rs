//! Durations and sizes as people write them: `250ms`, `30s`, `64KiB`.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

/// About 30 years, which every timer can hold.
const MAX_SECONDS: f64 = 1e9;

/// Reads a duration. Zero needs no unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "write a number and its unit: 30s; units are us, ms, s, m, h and d";
    let (number, unit) = split(text).ok_or(HINT)?;
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "" if number == 0.0 => 0.0,
        _ => return Err(HINT.into()),
    };
    let seconds = number * seconds;
    if seconds > MAX_SECONDS {
        return Err("longer than 30 years".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Reads a duration that bounds something, which zero does not.
pub(crate) fn bound(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be above 0: there is no \"unlimited\"".into()),
        bound => Ok(bound),
    }
}

/// Reads a size in bytes, which need no unit.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const HINT: &str =
        "write a number, with a unit or not: 64KiB; units are B, kB, MB, GB, KiB, MiB and GiB";
    let (number, unit) = split(text).ok_or(HINT)?;
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(HINT.into()),
    };
    let bytes = number * bytes;
    if bytes.fract() != 0.0 {
        return Err("not a whole number of bytes".into());
    }
    Ok(bytes as u64) // Saturates.
}

/// Reads how many of something there may be, which is not none.
pub(crate) fn count<T: TryFrom<NonZeroU64>>(text: &str) -> Result<T, String> {
    // The most that fits, which differs between the counts.
    let most = u64::MAX >> (64 - 8 * size_of::<T>());
    let count = text.parse().ok().and_then(|count: NonZeroU64| T::try_from(count).ok());
    count.ok_or_else(|| format!("write a whole number from 1 to {most}"))
}

/// Reads the longest payload of a frame.
pub(crate) fn frame_len(text: &str) -> Result<u32, String> {
    match u32::try_from(size(text)?) {
        Ok(len @ 1..=echo_core::MAX_PAYLOAD_LEN) => Ok(len),
        _ => Err(format!("a frame holds 1 to {} bytes (16 MiB - 1)", echo_core::MAX_PAYLOAD_LEN)),
    }
}

/// Reads the longest Unix datagram.
pub(crate) fn datagram_len(text: &str) -> Result<u32, String> {
    match u32::try_from(size(text)?) {
        Ok(len @ 1..=echo_core::MAX_DATAGRAM) => Ok(len),
        _ => Err(format!("a datagram holds 1 to {} bytes (16 MiB)", echo_core::MAX_DATAGRAM)),
    }
}

/// Reads a rate in bytes per second: `1KiB` or `1KiB/s`.
pub(crate) fn rate(text: &str) -> Result<NonZeroU32, String> {
    let bytes = u32::try_from(size(text.strip_suffix("/s").unwrap_or(text))?);
    let rate = bytes.map_err(|_| "faster than 4 GiB/s".to_owned())?;
    NonZeroU32::new(rate).ok_or_else(|| "must be above 0: there is no \"unlimited\"".into())
}

/// A decimal number, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let read = |text| duration(text).ok().map(|read| read.as_micros());
        for (text, micros) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250_000),
            ("1.5s", 1_500_000),
            ("30 s", 30_000_000),
            ("10m", 600_000_000),
            ("10min", 600_000_000),
            ("1h", 3_600_000_000),
            ("2d", 172_800_000_000),
            ("100us", 100),
        ] {
            assert_eq!(read(text), Some(micros), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1e3s", "1.2.3s", "5 parsecs", "99999999999h", "inf", "."]
        {
            assert_eq!(read(text), None, "{text}");
        }
        assert!(bound("0s").is_err());
        assert_eq!(bound("1ms"), Ok(Duration::from_millis(1)));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("1kB", 1000),
            ("64KiB", 65_536),
            ("64kib", 65_536),
            ("1.5MiB", 1_572_864),
            ("2GiB", 2_147_483_648),
            ("99999999999999999999999GiB", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "1K", "-1", "0.5B", "1 furlong"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    /// Fault 35: numbers at and around their bounds.
    #[test]
    fn bounds_are_inclusive() {
        assert_eq!(frame_len("16777215"), Ok(16_777_215));
        assert_eq!(frame_len("1MiB"), Ok(1 << 20));
        assert!(frame_len("16MiB").is_err() && frame_len("0").is_err());
        assert!(frame_len("99999999GiB").is_err());
        assert_eq!(datagram_len("16MiB"), Ok(1 << 24));
        assert!(datagram_len("16777217").is_err() && datagram_len("0").is_err());
        assert_eq!(rate("1KiB/s").map(NonZeroU32::get), Ok(1024));
        assert!(rate("0").is_err() && rate("4GiB").is_err());
    }
}

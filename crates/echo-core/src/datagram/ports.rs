//! Sets of ports: as they are written, and as they are asked for each datagram.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Ranges of ports, written `0-1023,5353`; none is written as an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRanges(Vec<RangeInclusive<u16>>);

impl PortRanges {
    /// The ports below 1024, whose services answer what they do not know: two of them that were
    /// pointed at each other by a forged address would never stop.
    pub fn privileged() -> Self {
        Self(vec![0..=1023])
    }

    /// Whether `port` is among them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromStr for PortRanges {
    type Err = BadPortRange;

    fn from_str(text: &str) -> Result<Self, BadPortRange> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            // `parse` alone would take a plus sign.
            let port = |text: &str| {
                text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
            };
            match (port(first), port(last)) {
                (Some(first), Some(last)) if first <= last => Ok(first..=last),
                _ => Err(BadPortRange(text.to_owned())),
            }
        };
        text.split(',').map(str::trim).map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// A text that is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad range of ports {0:?}: write ports and ranges joined by commas: 0-1023,5353")]
pub struct BadPortRange(String);

/// A set of ports that is read for each datagram and changed while it is: a bit for each port.
pub(crate) struct PortSet(Box<[AtomicU64; 1024]>);

impl PortSet {
    #[inline]
    pub(crate) fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)].load(Relaxed) >> (port % 64) & 1 == 1
    }

    pub(crate) fn insert(&self, port: u16) {
        self.0[usize::from(port / 64)].fetch_or(1 << (port % 64), Relaxed);
    }

    pub(crate) fn remove(&self, port: u16) {
        self.0[usize::from(port / 64)].fetch_and(!(1 << (port % 64)), Relaxed);
    }

    /// Makes it hold what `ranges` hold. Who reads meanwhile sees the old or the new for each port.
    pub(crate) fn store(&self, ranges: &PortRanges) {
        for (word, first) in self.0.iter().zip((0..=u16::MAX).step_by(64)) {
            let bits = (0..64).filter(|bit| ranges.contains(first + bit));
            word.store(bits.fold(0, |word, bit| word | 1 << bit), Relaxed);
        }
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([const { AtomicU64::new(0) }; 1024]))
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=u16::MAX).filter(|port| self.contains(*port))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for (text, inside, outside) in [
            ("0-1023", &[0, 7, 1023][..], &[1024, 65_535][..]),
            ("0-1023,5353", &[0, 5353], &[5352, 5354]),
            ("65535", &[65_535], &[0, 65_534]),
            ("0-65535", &[0, 1, 65_535], &[]),
            ("", &[], &[0, 7, 1024]),
        ] {
            let ranges: PortRanges = text.parse().unwrap();
            assert_eq!(ranges.to_string(), text);
            let set = PortSet::default();
            set.insert(4444); // Goes when the ranges are stored.
            set.store(&ranges);
            for port in inside {
                assert!(ranges.contains(*port) && set.contains(*port), "{port} in {text}");
            }
            for port in outside
                .iter()
                .chain(&[4444].into_iter().filter(|_| text != "0-65535").collect::<Vec<_>>())
            {
                assert!(!ranges.contains(*port) && !set.contains(*port), "{port} in {text}");
            }
        }
        assert_eq!("1, 2-3".parse::<PortRanges>().unwrap().to_string(), "1,2-3");
        assert_eq!(PortRanges::privileged().to_string(), "0-1023");
    }

    #[test]
    fn wrong_ranges_are_refused() {
        for text in ["x", "-", "1-", "-1", "2-1", "65536", "1,,2", "+1", "1-+2", "1-2-3", ","] {
            let error = text.parse::<PortRanges>().unwrap_err();
            assert!(error.to_string().contains("0-1023,5353"), "{error}");
        }
    }

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let set = PortSet::default();
        for port in [0, 1, 63, 64, 65, 7777, 65_535] {
            assert!(!set.contains(port));
            set.insert(port);
            assert!(set.contains(port));
        }
        set.insert(62);
        set.remove(62);
        assert_eq!(format!("{set:?}"), "{0, 1, 63, 64, 65, 7777, 65535}");
    }
}

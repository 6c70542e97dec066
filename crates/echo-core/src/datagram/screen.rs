//! Who is answered.

use std::net::IpAddr;

use echo_sys::{Arrival, Datagram, Source};

use super::own::OwnSockets;
use super::ports::PortSet;
use super::rate::{Buckets, FIRST_OF_CLIENTS, SourceKey};
use crate::frame::{HEADER_LEN, Header, Kind, PROBE_MIN_LEN, is_probe_reply};
use crate::stats::Unanswered;

/// The index of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;
/// What came before an inherited socket was ours: the kernel had not been asked.
const UNKNOWN: u32 = 0;

/// What is looked at in a datagram but its rate.
pub(super) struct Screen<'a> {
    /// Source ports that are refused.
    pub(super) refused: &'a PortSet,
    /// The sockets of the service itself.
    pub(super) own: &'a OwnSockets,
    /// Whether PROBE means something.
    pub(super) probes: bool,
    pub(super) buckets: &'a Buckets,
}

/// Who sent a datagram that may be answered.
pub(super) struct Sender {
    /// Whose rate it counts against.
    pub(super) source: SourceKey,
    /// The UDP port it came from, if that may be a server's.
    pub(super) server: Option<u16>,
}

impl Screen<'_> {
    /// Whether `datagram` may be answered, and to whom.
    #[inline]
    pub(super) fn judge(&self, datagram: &Datagram<'_>) -> Result<Sender, Unanswered> {
        if datagram.truncated {
            return Err(Unanswered::Truncated);
        }
        let mut server = None;
        let source = match datagram.source {
            Source::Ip(source) => {
                let (ip, port) = (source.ip().to_canonical(), source.port());
                // Nothing can be sent to port 0.
                if port == 0 || self.refused.contains(port) || self.own.has_port(port) {
                    return Err(Unanswered::Port);
                }
                if !is_one_host(ip, datagram.arrival) {
                    return Err(Unanswered::Address);
                }
                server = (port < FIRST_OF_CLIENTS).then_some(port);
                SourceKey::of_ip(ip)
            }
            // A relative one means a file in a directory that only the peer knows.
            Source::Unix(name) if !matches!(name.first(), Some(b'/' | 0)) => {
                return Err(Unanswered::Address);
            }
            Source::Unix(name) if name[0] == 0 && self.own.has_abstract(name) => {
                return Err(Unanswered::Address);
            }
            Source::Unix(name) => self.buckets.key_of_name(name),
            Source::Unnamed => return Err(Unanswered::Unnamed),
        };
        if self.probes && probe(datagram.payload).is_some_and(is_probe_reply) {
            return Err(Unanswered::ProbeReply);
        }
        Ok(Sender { source, server })
    }
}

/// The part of a PROBE datagram that is stamped, if `payload` is one: a whole PROBE frame, and long
/// enough.
#[inline]
pub(crate) fn probe(payload: &[u8]) -> Option<&[u8; PROBE_MIN_LEN as usize]> {
    let (head, rest) = payload.split_first_chunk::<HEADER_LEN>()?;
    if head[0] != Kind::PROBE.0 || Header::parse(*head).len as usize != rest.len() {
        return None;
    }
    rest.first_chunk()
}

/// The same, to be stamped.
#[inline]
pub(super) fn probe_mut(payload: &mut [u8]) -> Option<&mut [u8; PROBE_MIN_LEN as usize]> {
    probe(payload)?;
    payload[HEADER_LEN..].first_chunk_mut()
}

/// Whether a datagram comes from one host that may have that address, and was sent to this one alone.
#[inline]
fn is_one_host(source: IpAddr, arrival: Option<Arrival>) -> bool {
    // Without it nobody can tell. The kernel leaves it out where its options were tampered with.
    let Some(arrival) = arrival else { return false };
    let many = match source {
        // "This network", multicast, reserved, broadcast (RFC 6890).
        IpAddr::V4(ip) => matches!(ip.octets()[0], 0 | 224..),
        IpAddr::V6(ip) => ip.is_multicast() || ip.is_unspecified(),
    };
    let local = !source.is_loopback() || matches!(arrival.interface, LOOPBACK | UNKNOWN);
    !many && arrival.unicast && local
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::datagram::own::Own;
    use crate::datagram::ports::PortRanges;
    use crate::frame::mark_probe_reply;

    fn judge(source: Source<'_>, payload: &[u8], arrival: Option<Arrival>) -> Option<Unanswered> {
        let (refused, own) = (PortSet::default(), OwnSockets::default());
        refused.store(&PortRanges::privileged());
        own.insert(Own::Port(7777));
        own.insert(Own::Abstract(b"\0echo".to_vec()));
        let buckets = Buckets::default();
        let screen = Screen { refused: &refused, own: &own, probes: true, buckets: &buckets };
        screen.judge(&Datagram { payload, truncated: false, source, arrival, user: None }).err()
    }

    fn from(source: &str, interface: u32, unicast: bool) -> Option<Unanswered> {
        let source: SocketAddr = source.parse().unwrap();
        let local = if source.is_ipv4() { "192.0.2.9" } else { "2001:db8::9" }.parse().unwrap();
        judge(Source::Ip(source), b"?", Some(Arrival { local, interface, unicast }))
    }

    /// Faults 41 and 48.
    #[test]
    fn who_is_refused() {
        use Unanswered::{Address, Port};
        const OTHER: u32 = 2;
        for (source, interface, unicast, refused) in [
            ("192.0.2.1:1024", OTHER, true, None),
            ("192.0.2.1:65535", OTHER, true, None),
            ("[2001:db8::1]:5000", OTHER, true, None),
            ("[fe80::1%2]:5000", OTHER, true, None),
            ("127.0.0.1:5000", LOOPBACK, true, None),
            ("[::1]:5000", LOOPBACK, true, None),
            ("[::ffff:192.0.2.1]:5000", OTHER, true, None),
            // Ports.
            ("192.0.2.1:0", OTHER, true, Some(Port)),
            ("192.0.2.1:7", OTHER, true, Some(Port)),
            ("127.0.0.1:1023", LOOPBACK, true, Some(Port)),
            ("[2001:db8::1]:53", OTHER, true, Some(Port)),
            ("192.0.2.1:7777", OTHER, true, Some(Port)),
            ("127.0.0.1:7777", LOOPBACK, true, Some(Port)),
            // Addresses of many, or of nobody.
            ("255.255.255.255:5000", OTHER, true, Some(Address)),
            ("224.0.0.1:5000", OTHER, true, Some(Address)),
            ("0.0.0.0:5000", OTHER, true, Some(Address)),
            ("0.1.2.3:5000", OTHER, true, Some(Address)),
            ("240.0.0.1:5000", OTHER, true, Some(Address)),
            ("[::ffff:240.0.0.1]:5000", OTHER, true, Some(Address)),
            ("223.255.255.1:5000", OTHER, true, None),
            ("1.0.0.1:5000", OTHER, true, None),
            ("[::]:5000", OTHER, true, Some(Address)),
            ("[ff02::1]:5000", OTHER, true, Some(Address)),
            ("[::ffff:224.0.0.1]:5000", OTHER, true, Some(Address)),
            ("[::ffff:255.255.255.255]:5000", LOOPBACK, true, Some(Address)),
            // Loopback from outside.
            ("127.0.0.1:5000", OTHER, true, Some(Address)),
            ("127.9.9.9:5000", OTHER, true, Some(Address)),
            ("[::1]:5000", OTHER, true, Some(Address)),
            ("[::ffff:127.0.0.1]:5000", OTHER, true, Some(Address)),
            // Sent to many.
            ("192.0.2.1:5000", OTHER, false, Some(Address)),
            ("[2001:db8::1]:5000", OTHER, false, Some(Address)),
        ] {
            assert_eq!(from(source, interface, unicast), refused, "{source} by {interface}");
        }
        let source = Source::Ip("192.0.2.1:5000".parse().unwrap());
        assert_eq!(judge(source, b"?", None), Some(Address), "nobody knows where it arrived");
        assert_eq!(judge(Source::Unnamed, b"?", None), Some(Unanswered::Unnamed));
        assert_eq!(judge(Source::Unix(b"/run/peer\0"), b"?", None), None);
        assert_eq!(judge(Source::Unix(b"run/peer\0"), b"?", None), Some(Address), "where?");
        assert_eq!(judge(Source::Unix(b"\0peer"), b"?", None), None);
        assert_eq!(judge(Source::Unix(b"\0echo"), b"?", None), Some(Address), "ourselves");
    }

    #[test]
    fn only_a_whole_probe_is_one() {
        let frame = |kind: u8, declared: u8, len: usize| {
            let mut frame = vec![0; 4 + len];
            (frame[0], frame[3]) = (kind, declared);
            frame
        };
        assert!(probe(&frame(0x83, 32, 32)).is_some());
        assert!(probe(&frame(0x83, 100, 100)).is_some());
        for other in [
            frame(0x83, 31, 31), // Too short to be stamped.
            frame(0x83, 33, 32),
            frame(0x83, 32, 33),
            frame(0x00, 32, 32),
            frame(0x03, 32, 32),
            vec![0x83],
            vec![],
        ] {
            assert!(probe(&other).is_none(), "{other:02x?}");
        }
        let mut request = frame(0x83, 40, 40);
        let stamped = probe_mut(&mut request).unwrap();
        assert!(!is_probe_reply(stamped));
        mark_probe_reply(stamped, 1, 2);
        let peer = Source::Unix(b"/peer");
        assert_eq!(judge(peer, &request, None), Some(Unanswered::ProbeReply));
        request[0] = 0x00;
        assert_eq!(judge(peer, &request, None), None);
    }
}

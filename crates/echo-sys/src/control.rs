//! Control messages (cmsg(3)): read and written as bytes, without unsafe code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes for the control messages of one datagram. PKTINFO of both families and the drop counter take
/// 96; an inherited socket may have timestamps, TTL and the like switched on as well.
pub(crate) const CONTROL_LEN: usize = 192;

/// The same for sending: PKTINFO of one family, and UDP_SEGMENT.
pub(crate) const SEND_CONTROL_LEN: usize = 64;

/// `struct cmsghdr` as the kernel has it: a `size_t` and two `int`.
const HEADER_LEN: usize = size_of::<usize>() + 8;

/// Where a datagram arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The address of this host that it was sent to: the one that a reply comes from.
    pub local: IpAddr,
    /// The index of the network interface; 1 is loopback in every network namespace. 0 if the kernel
    /// was not asked when it arrived.
    pub interface: u32,
    /// Whether it was sent to this host alone, and not to a broadcast or multicast address.
    pub unicast: bool,
}

/// What the kernel told of a datagram.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) arrival: Option<Arrival>,
    /// How many datagrams the kernel had dropped on this socket when this one came; told from the
    /// first drop on.
    pub(crate) kernel_drops: Option<u32>,
    pub(crate) user: Option<u32>,
}

/// Reads the control messages of a received datagram.
#[inline]
pub(crate) fn read(mut control: &[u8]) -> Told {
    let mut told = Told::default();
    while let Some((len, level, kind)) = header(control) {
        let Some(data) = control.get(HEADER_LEN..len) else { break };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                told.arrival = ipv4_arrival(data).or(told.arrival);
            }
            // Of an IPv4 datagram on a socket for both families the other message says more.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if told.arrival.is_none() => {
                told.arrival = ipv6_arrival(data);
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                told.kernel_drops = field(data, 0).map(u32::from_ne_bytes);
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => told.user = user(data),
            _ => {}
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    told
}

/// Writes the control messages of a datagram to be sent: that it comes from the address at which
/// `arrival` was received, and that the kernel cuts it into datagrams of `segment` bytes (udp(7),
/// UDP_SEGMENT). Returns how many bytes they take.
pub(crate) fn write(
    control: &mut [u8; SEND_CONTROL_LEN],
    arrival: Option<Arrival>,
    segment: Option<u16>,
) -> usize {
    let mut len = 0;
    let mut put = |level: i32, kind: i32, data: &[u8]| {
        let message = &mut control[len..];
        let end = HEADER_LEN + data.len();
        message[..size_of::<usize>()].copy_from_slice(&end.to_ne_bytes());
        message[HEADER_LEN - 8..HEADER_LEN - 4].copy_from_slice(&level.to_ne_bytes());
        message[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER_LEN..end].copy_from_slice(data);
        len += end.next_multiple_of(size_of::<usize>());
    };
    match arrival.map(|arrival| (arrival.local, arrival.interface)) {
        // in_pktinfo: interface, this host's address, (ignored). By which interface it leaves is for
        // the routes to say.
        Some((IpAddr::V4(local), _)) => {
            let mut data = [0; 12];
            data[4..8].copy_from_slice(&local.octets());
            put(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
        }
        // in6_pktinfo: this host's address, interface. A link-local address means something on its
        // link only.
        Some((IpAddr::V6(local), interface)) => {
            let mut data = [0; 20];
            data[..16].copy_from_slice(&local.octets());
            if local.is_unicast_link_local() {
                data[16..].copy_from_slice(&interface.to_ne_bytes());
            }
            put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
        }
        None => {}
    }
    if let Some(segment) = segment {
        put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    len
}

/// Length, level and kind of the message at the start.
#[inline]
fn header(control: &[u8]) -> Option<(usize, i32, i32)> {
    let len = usize::from_ne_bytes(field(control, 0)?);
    let level = i32::from_ne_bytes(field(control, HEADER_LEN - 8)?);
    let kind = i32::from_ne_bytes(field(control, HEADER_LEN - 4)?);
    // One that is shorter than its header would be read for ever.
    (len >= HEADER_LEN).then_some((len, level, kind))
}

/// struct ucred: process, user, group. Of what came before the kernel was asked it tells of no process,
/// and of the user that stands for all who have no number here.
fn user(data: &[u8]) -> Option<u32> {
    const NOBODY: u32 = 65_534;
    let (process, user) =
        (u32::from_ne_bytes(field(data, 0)?), u32::from_ne_bytes(field(data, 4)?));
    ((process, user) != (0, NOBODY)).then_some(user)
}

/// in_pktinfo: interface, this host's address, the address in the packet's header. The two are one,
/// but for broadcast and multicast, and the first two are 0 for what came before the kernel was asked.
fn ipv4_arrival(data: &[u8]) -> Option<Arrival> {
    let interface = u32::from_ne_bytes(field(data, 0)?);
    let local = Ipv4Addr::from(field::<4>(data, 4)?);
    let sent_to = Ipv4Addr::from(field::<4>(data, 8)?);
    if local.is_unspecified() {
        let unicast = !sent_to.is_broadcast() && !sent_to.is_multicast();
        return Some(Arrival { local: sent_to.into(), interface, unicast });
    }
    Some(Arrival { local: local.into(), interface, unicast: local == sent_to })
}

/// in6_pktinfo: the address in the packet's header, interface.
fn ipv6_arrival(data: &[u8]) -> Option<Arrival> {
    let local = Ipv6Addr::from(field::<16>(data, 0)?);
    let interface = u32::from_ne_bytes(field(data, 16)?);
    let unicast = !local.to_canonical().is_multicast();
    Some(Arrival { local: local.to_canonical(), interface, unicast })
}

#[inline]
pub(crate) fn field<const LEN: usize>(bytes: &[u8], at: usize) -> Option<[u8; LEN]> {
    bytes.get(at..at + LEN)?.try_into().ok()
}

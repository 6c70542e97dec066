//! What a batch knows of one datagram beside its payload.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::Source;
use crate::control::{self, CONTROL_LEN, Told, field};

/// Holds every socket address; `sockaddr_un`, the longest, has 110 bytes.
pub(super) const NAME_LEN: usize = 112;

/// Bytes of a Unix path with the zero byte after it, and of what stands before it.
const MAX_PATH: usize = 108;
const FAMILY_LEN: usize = size_of::<libc::sa_family_t>();

/// Who sent one datagram, what the kernel told of it, and how long it is.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: [u8; NAME_LEN],
    pub(super) name_len: usize,
    pub(super) control: [u8; CONTROL_LEN],
    pub(super) told: Told,
    pub(super) len: usize,
    pub(super) truncated: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            name: [0; NAME_LEN],
            name_len: 0,
            control: [0; CONTROL_LEN],
            told: Told::default(),
            len: 0,
            truncated: false,
        }
    }
}

impl Slot {
    /// Has it answered to `path`, and not to where it came from.
    pub(super) fn answer_to(&mut self, path: &[u8]) {
        assert!(path.len() < MAX_PATH, "no Unix address is so long");
        self.name[..FAMILY_LEN].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        self.name[FAMILY_LEN..][..path.len()].copy_from_slice(path);
        self.name[FAMILY_LEN + path.len()] = 0;
        self.name_len = FAMILY_LEN + path.len() + 1;
    }

    /// Takes over what the kernel wrote into the header.
    #[inline]
    pub(super) fn take(&mut self, header: &libc::mmsghdr) {
        self.name_len = (header.msg_hdr.msg_namelen as usize).min(NAME_LEN);
        self.len = header.msg_len as usize;
        self.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        #[allow(clippy::unnecessary_cast, reason = "not a usize in every C library")]
        let control_len = (header.msg_hdr.msg_controllen as usize).min(CONTROL_LEN);
        self.told = control::read(&self.control[..control_len]);
    }

    #[inline]
    pub(super) fn source(&self) -> Source<'_> {
        let name = &self.name[..self.name_len];
        self.ip().map_or_else(
            || match name.get(FAMILY_LEN..) {
                Some(name) if !name.is_empty() => Source::Unix(name),
                _ => Source::Unnamed,
            },
            Source::Ip,
        )
    }

    /// `sockaddr_in` or `sockaddr_in6`, if it is one.
    #[inline]
    fn ip(&self) -> Option<SocketAddr> {
        let name = &self.name[..self.name_len];
        let family = i32::from(libc::sa_family_t::from_ne_bytes(field(name, 0)?));
        let port = || Some(u16::from_be_bytes(field(name, 2)?));
        match family {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(field::<4>(name, 4)?);
                Some(SocketAddrV4::new(ip, port()?).into())
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(field::<16>(name, 8)?);
                let scope = u32::from_ne_bytes(field(name, 24)?);
                Some(SocketAddrV6::new(ip, port()?, 0, scope).into())
            }
            _ => None,
        }
    }
}

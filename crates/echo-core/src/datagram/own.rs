//! The datagram sockets of the service itself: it does not talk to itself.

use std::sync::{Arc, PoisonError, RwLock};

use super::ports::PortSet;
use crate::service::Core;

/// What one of the service's sockets is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    Port(u16),
    /// With the zero byte before it.
    Abstract(Vec<u8>),
    /// A file has many names.
    File {
        device: u64,
        inode: u64,
    },
}

/// All of them, those of one port or name as often as there are.
#[derive(Debug, Default)]
pub(crate) struct OwnSockets {
    /// Asked for each datagram.
    ports: PortSet,
    all: RwLock<Vec<Own>>,
}

impl OwnSockets {
    #[inline]
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.contains(port)
    }

    pub(super) fn has_abstract(&self, name: &[u8]) -> bool {
        self.any(|own| matches!(own, Own::Abstract(own) if own == name))
    }

    pub(super) fn has_file(&self, device: u64, inode: u64) -> bool {
        self.any(|own| *own == Own::File { device, inode })
    }

    fn any(&self, is_it: impl FnMut(&Own) -> bool) -> bool {
        self.all.read().unwrap_or_else(PoisonError::into_inner).iter().any(is_it)
    }

    pub(super) fn insert(&self, own: Own) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if let Own::Port(port) = own {
            self.ports.insert(port);
        }
        all.push(own);
    }

    fn remove(&self, own: &Own) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = all.iter().position(|it| it == own) {
            all.swap_remove(index);
        }
        if let Own::Port(port) = own
            && !all.contains(own)
        {
            self.ports.remove(*port);
        }
    }
}

/// One of them, until it is dropped.
pub(super) struct Registered {
    core: Arc<Core>,
    own: Option<Own>,
}

impl Registered {
    pub(super) fn new(core: Arc<Core>, own: Option<Own>) -> Self {
        own.iter().cloned().for_each(|own| core.own.insert(own));
        Self { core, own }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.own.iter().for_each(|own| self.core.own.remove(own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_sockets_share_stays_until_both_are_gone() {
        let own = OwnSockets::default();
        for _ in 0..2 {
            own.insert(Own::Port(7777));
            own.insert(Own::Abstract(b"\0echo".to_vec()));
        }
        own.insert(Own::File { device: 1, inode: 2 });
        let has = || (own.has_port(7777), own.has_abstract(b"\0echo"), own.has_file(1, 2));
        own.remove(&Own::Port(7777));
        own.remove(&Own::Abstract(b"\0echo".to_vec()));
        assert_eq!(has(), (true, true, true));
        own.remove(&Own::Port(7777));
        own.remove(&Own::Abstract(b"\0echo".to_vec()));
        own.remove(&Own::File { device: 1, inode: 2 });
        assert_eq!(has(), (false, false, false));
    }
}

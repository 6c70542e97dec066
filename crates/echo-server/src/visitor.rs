//! Who is at the other end of a connection, and what it may do.

use std::sync::Arc;

/// What a connection knows of its peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visitor {
    /// Who has authenticated, if anybody has.
    pub(crate) user: Option<Arc<User>>,
}

/// One line of the file of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) allow: Allow,
    /// How many bytes of files may be this user's.
    pub(crate) quota: Option<u64>,
}

/// What a user may do: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allow(u8);

impl Allow {
    pub(crate) const ECHO: Self = Self(1);
    pub(crate) const LIST: Self = Self(2);
    pub(crate) const GET: Self = Self(4);
    pub(crate) const PUT: Self = Self(8);
    pub(crate) const REMOVE: Self = Self(16);

    /// Whether all of `other` is in it.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

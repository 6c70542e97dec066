//! What the store counts for who runs it. Nothing here is as many as peers like: a number for each word.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use echo_core::{ErrorCode, Seldom};

/// A bound that an upload, a download or a part can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Bytes,
    UserBytes,
    Files,
    UserFiles,
    Transfers,
    UserTransfers,
    /// What the disk holds, or the file system for one file.
    Disk,
    /// How many threads may be at the disk at once.
    Jobs,
    /// How long a part stays.
    Parked,
}

impl Limit {
    pub(crate) const ALL: [Self; 9] = [
        Self::Bytes,
        Self::UserBytes,
        Self::Files,
        Self::UserFiles,
        Self::Transfers,
        Self::UserTransfers,
        Self::Disk,
        Self::Jobs,
        Self::Parked,
    ];

    /// The word for it in metrics.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Bytes => "files_bytes",
            Self::UserBytes => "files_user_bytes",
            Self::Files => "files_count",
            Self::UserFiles => "files_user_count",
            Self::Transfers => "files_transfers",
            Self::UserTransfers => "files_user_transfers",
            Self::Disk => "files_disk",
            Self::Jobs => "files_jobs",
            Self::Parked => "files_parked",
        }
    }
}

/// What became of a part that is no upload under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its upload stopped, and may go on.
    Parked,
    /// Its upload went on.
    Resumed,
    /// It could not be parked, or was broken when it was to go on.
    Lost,
    /// Nobody went on with it in time.
    Expired,
    /// A crash left it without what is needed to go on.
    Swept,
}

impl Fate {
    pub(crate) const ALL: [Self; 5] =
        [Self::Parked, Self::Resumed, Self::Lost, Self::Expired, Self::Swept];

    /// The word for it in metrics.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Resumed => "resumed",
            Self::Lost => "lost",
            Self::Expired => "expired",
            Self::Swept => "swept",
        }
    }
}

/// What is refused, each with the word for it in metrics; all other codes are the last.
pub(crate) const REFUSED: [(&str, ErrorCode); 10] = [
    ("too_long", ErrorCode::TooLong),
    ("unexpected_kind", ErrorCode::UnexpectedKind),
    ("malformed", ErrorCode::Malformed),
    ("busy", ErrorCode::Busy),
    ("denied", ErrorCode::Denied),
    ("forbidden", ErrorCode::Forbidden),
    ("not_found", ErrorCode::NotFound),
    ("no_space", ErrorCode::NoSpace),
    ("mismatch", ErrorCode::Mismatch),
    ("failed", ErrorCode::Failed),
];

/// How often something was done, and with how many bytes.
#[derive(Debug, Default)]
pub(crate) struct Done {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Done {
    pub(super) fn add_one(&self) {
        self.count.fetch_add(1, Relaxed);
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// The counters of a store.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Files that have appeared, and bytes that came for files.
    pub(crate) put: Done,
    /// Files that were sent to their end, and bytes that were sent.
    pub(crate) got: Done,
    /// Files that were removed, and their bytes.
    pub(crate) removed: Done,
    /// What LIST came by and left out, as it has no name for clients.
    unlisted: AtomicU64,
    /// What has no name for clients stays there, and each list comes by it.
    says_unlisted: Mutex<Seldom>,
    refused: [AtomicU64; REFUSED.len()],
    limits: [AtomicU64; Limit::ALL.len()],
    fates: [AtomicU64; Fate::ALL.len()],
}

impl Counts {
    pub(super) fn refuse(&self, code: ErrorCode) {
        let known = REFUSED.iter().position(|(_, known)| *known == code);
        self.refused[known.unwrap_or(REFUSED.len() - 1)].fetch_add(1, Relaxed);
    }

    /// How often a list has left something out.
    pub(crate) fn unlisted(&self) -> u64 {
        self.unlisted.load(Relaxed)
    }

    /// Counts what a list leaves out. If it is time to say so: how often nothing was said since.
    pub(super) fn leave_out(&self) -> Option<u64> {
        self.unlisted.fetch_add(1, Relaxed);
        self.says_unlisted.lock().unwrap_or_else(PoisonError::into_inner).speak()
    }

    pub(super) fn reach(&self, limit: Limit) {
        self.limits[limit as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn part(&self, fate: Fate) {
        self.fates[fate as usize].fetch_add(1, Relaxed);
    }

    /// Frames that were refused, in the order of [`REFUSED`].
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSED.iter().zip(&self.refused).map(|((word, _), count)| (*word, count.load(Relaxed)))
    }

    pub(crate) fn reached(&self, limit: Limit) -> u64 {
        self.limits[limit as usize].load(Relaxed)
    }

    pub(crate) fn parts(&self, fate: Fate) -> u64 {
        self.fates[fate as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_the_place_of_its_own() {
        assert!(Limit::ALL.iter().enumerate().all(|(place, limit)| *limit as usize == place));
        assert!(Fate::ALL.iter().enumerate().all(|(place, fate)| *fate as usize == place));
        let counts = Counts::default();
        for (number, (_, code)) in (1..).zip(REFUSED) {
            (0..number).for_each(|_| counts.refuse(code));
        }
        assert!(counts.refused().map(|(_, count)| count).eq(1..=10));
        counts.refuse(ErrorCode::Other(99));
        assert_eq!(counts.refused().last(), Some(("failed", 11)));
    }
}

//! How much of the store is used, and by whom: bytes (of files, and of what is not whole yet), files with the
//! folders on the way to them, places kept for both, and transfers that are open.

mod places;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use echo_core::ErrorCode;

use super::counts::Limit;
use super::refusal::Refusal;
use super::store::Gone;
pub(super) use places::Places;

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    pub(crate) transfers: u64,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    /// On the way to them, which count as files do.
    pub(crate) folders: u64,
    /// Places for both that uploads will need.
    pub(crate) kept: u64,
    pub(crate) transfers: u64,
}

impl Used {
    /// Whether there are not too many files, of which there may be some `more`.
    fn fits(&self, bounds: &Bounds, more: u64) -> Result<(), What> {
        let all = self.files + self.folders + self.kept;
        let fits = all <= bounds.files.saturating_add(more);
        if fits { Ok(()) } else { Err(What::Files) }
    }

    fn add_bytes(&mut self, len: u64, bounds: &Bounds) -> Result<(), What> {
        let sum = self.bytes.checked_add(len).filter(|sum| *sum <= bounds.bytes);
        self.bytes = sum.ok_or(What::Bytes)?;
        Ok(())
    }
}

/// Who is counted for something: nobody by name for all that have not authenticated.
#[derive(Clone, Debug, Default)]
pub(super) struct Owner {
    pub(super) name: Option<String>,
    /// Bytes that this one may have, where that differs from others.
    pub(super) bytes: Option<u64>,
}

/// The counters of a store.
#[derive(Debug)]
pub(crate) struct Quota {
    total: Bounds,
    each: Bounds,
    used: Mutex<(Used, HashMap<Option<String>, Used>)>,
}

impl Quota {
    pub(crate) fn new(total: Bounds, each: Bounds) -> Self {
        Self { total, each, used: Mutex::default() }
    }

    /// All that is used.
    pub(crate) fn used(&self) -> Used {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Counts what lies there at the start, whatever the bounds.
    pub(super) fn found(&self, owner: Option<String>, files: u64, bytes: u64) {
        self.change(&owner, |used| {
            used.files += files;
            used.bytes += bytes;
        });
    }

    /// Counts `len` more bytes of `owner`.
    pub(super) fn take_bytes(&self, owner: &Owner, len: u64) -> Result<(), Refusal> {
        let add = |used: &mut Used, bounds: &Bounds| used.add_bytes(len, bounds);
        self.try_change(owner, self.bounds(owner), add, add)
    }

    /// Whether `len` bytes more of `owner` would be too many now. Nothing is counted.
    pub(super) fn admit_bytes(&self, owner: &Owner, len: u64) -> Result<(), Refusal> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let add = |used: &mut Used, bounds: &Bounds| used.add_bytes(len, bounds);
        self.changed(&used, owner, self.bounds(owner), add, add).map(drop)
    }

    fn bounds(&self, owner: &Owner) -> Bounds {
        Bounds { bytes: owner.bytes.unwrap_or(self.each.bytes), ..self.each }
    }

    /// A folder is gone.
    pub(super) fn give_folder(&self, owner: &Option<String>) {
        self.change(owner, |used| used.folders = used.folders.saturating_sub(1));
    }

    /// Counts a folder that lies there at the start, whatever the bounds.
    pub(super) fn found_folder(&self, owner: &Option<String>) {
        self.change(owner, |used| used.folders += 1);
    }

    /// Takes back what was counted for a file that did not appear.
    pub(super) fn give_file(&self, owner: &Option<String>) {
        self.change(owner, |used| used.files = used.files.saturating_sub(1));
    }

    /// Takes back bytes of what is no file, or is none any more.
    pub(super) fn give_bytes(&self, owner: &Option<String>, len: u64) {
        self.change(owner, |used| used.bytes = used.bytes.saturating_sub(len));
    }

    /// A file is gone, removed or replaced.
    pub(super) fn gone(&self, gone: Gone) {
        self.change(&gone.owner, |used| {
            used.files = used.files.saturating_sub(1);
            used.bytes = used.bytes.saturating_sub(gone.size);
        });
    }

    /// Counts an open transfer of `owner`, until the [`Open`] is dropped.
    pub(super) fn open(self: &Arc<Self>, owner: &Owner) -> Result<Open, Refusal> {
        let add = |used: &mut Used, bounds: &Bounds| {
            used.transfers += 1;
            if used.transfers <= bounds.transfers { Ok(()) } else { Err(What::Transfers) }
        };
        self.try_change(owner, self.each, add, add)?;
        Ok(Open { quota: Arc::clone(self), owner: owner.name.clone() })
    }

    fn change(&self, owner: &Option<String>, change: impl Fn(&mut Used)) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, each) = &mut *used;
        change(total);
        let own = each.entry(owner.clone()).or_default();
        change(own);
        if *own == Used::default() {
            each.remove(owner);
        }
    }

    /// Changes both counters, or none.
    fn try_change(
        &self,
        owner: &Owner,
        bounds: Bounds,
        change_total: impl Fn(&mut Used, &Bounds) -> Result<(), What>,
        change_own: impl Fn(&mut Used, &Bounds) -> Result<(), What>,
    ) -> Result<(), Refusal> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, own) = self.changed(&used, owner, bounds, change_total, change_own)?;
        used.0 = total;
        used.1.insert(owner.name.clone(), own);
        Ok(())
    }

    /// What both counters would be.
    fn changed(
        &self,
        used: &(Used, HashMap<Option<String>, Used>),
        owner: &Owner,
        bounds: Bounds,
        change_total: impl Fn(&mut Used, &Bounds) -> Result<(), What>,
        change_own: impl Fn(&mut Used, &Bounds) -> Result<(), What>,
    ) -> Result<(Used, Used), Refusal> {
        let (mut total, mut own) = (used.0, used.1.get(&owner.name).copied().unwrap_or_default());
        change_total(&mut total, &self.total).map_err(|what| what.refused(false))?;
        change_own(&mut own, &bounds).map_err(|what| what.refused(true))?;
        Ok((total, own))
    }
}

/// What there may be no more of.
#[derive(Clone, Copy, Debug)]
enum What {
    Bytes,
    Files,
    Transfers,
}

impl What {
    /// As a peer and the operator are told: for that peer, or for all.
    fn refused(self, own: bool) -> Refusal {
        let (what, code, [all, each]) = match self {
            Self::Bytes => ("bytes", ErrorCode::NoSpace, [Limit::Bytes, Limit::UserBytes]),
            Self::Files => ("files", ErrorCode::NoSpace, [Limit::Files, Limit::UserFiles]),
            Self::Transfers => {
                ("open transfers", ErrorCode::Busy, [Limit::Transfers, Limit::UserTransfers])
            }
        };
        let (whose, limit) = if own { ("your", each) } else { ("the server's", all) };
        Refusal::over(limit, code, format!("{whose} quota of {what} is used up"))
    }
}

/// An open transfer, counted.
#[derive(Debug)]
pub(super) struct Open {
    quota: Arc<Quota>,
    owner: Option<String>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.quota.change(&self.owner, |used| used.transfers = used.transfers.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> Arc<Quota> {
        let total = Bounds { bytes: 100, files: 3, transfers: 3 };
        Arc::new(Quota::new(total, Bounds { bytes: 60, files: 2, transfers: 2 }))
    }

    fn owner(name: &str) -> Owner {
        Owner { name: Some(name.to_owned()), bytes: None }
    }

    #[test]
    fn bytes_are_bounded_for_each_and_for_all() {
        let quota = quota();
        let (ann, bob) = (owner("ann"), owner("bob"));
        quota.take_bytes(&ann, 60).unwrap();
        let refusal = quota.take_bytes(&ann, 1).unwrap_err();
        let text = "your quota of bytes is used up";
        assert_eq!(refusal, Refusal::over(Limit::UserBytes, ErrorCode::NoSpace, text));
        quota.take_bytes(&bob, 40).unwrap();
        let refusal = quota.take_bytes(&bob, 1).unwrap_err();
        assert_eq!(refusal.text, "the server's quota of bytes is used up");
        // A refused byte is not counted.
        quota.gone(Gone { size: 60, owner: Some("ann".to_owned()) });
        quota.take_bytes(&bob, 20).unwrap();
        assert_eq!(quota.used().bytes, 60);
        let large = Owner { bytes: Some(1 << 40), ..owner("bob") };
        quota.take_bytes(&large, 40).unwrap();
        assert!(quota.take_bytes(&large, u64::MAX).is_err());
    }

    #[test]
    fn transfers_are_bounded() {
        let quota = quota();
        let ann = owner("ann");
        let open = (quota.open(&ann).unwrap(), quota.open(&ann).unwrap());
        assert_eq!(quota.open(&ann).unwrap_err().code, ErrorCode::Busy);
        let _third = quota.open(&owner("bob")).unwrap();
        assert!(quota.open(&owner("eve")).is_err());
        drop(open);
        quota.open(&ann).unwrap();
    }
}

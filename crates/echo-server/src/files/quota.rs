//! How much of the store is used, and by whom: bytes (of files, and of what is not whole yet), files with the
//! folders on the way to them, and transfers that are open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use echo_core::ErrorCode;

use super::counts::Limit;
use super::refusal::Refusal;
use super::store::Gone;

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
    pub(crate) transfers: u64,
}

impl Used {
    /// Whether there are not too many files, of which there may be some `more`.
    fn fits(&self, bounds: &Bounds, more: u64) -> Result<(), What> {
        let fits = self.files + self.folders <= bounds.files.saturating_add(more);
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

    /// Counts a file more of `owner`. Where that is one too many, `replaced` tells whose file it is to replace, if it
    /// is: then there may be one more for each open transfer, until it has that one's place.
    pub(super) fn take_file(
        &self,
        owner: &Owner,
        replaced: impl FnOnce() -> Option<Option<String>>,
    ) -> Result<(), Refusal> {
        self.take_file_in_place_of(owner, None).or_else(|refusal| {
            let replaced = replaced().ok_or(refusal)?;
            self.take_file_in_place_of(owner, Some(replaced))
        })
    }

    fn take_file_in_place_of(
        &self,
        owner: &Owner,
        replaced: Option<Option<String>>,
    ) -> Result<(), Refusal> {
        let add = |used: &mut Used, bounds: &Bounds, replaces: bool| {
            let more = if replaces { used.transfers } else { 0 };
            used.files += 1;
            used.fits(bounds, more)
        };
        // One more of `owner` stays where another one's file goes.
        let of_own = replaced.as_ref() == Some(&owner.name);
        let total = |used: &mut Used, bounds: &Bounds| add(used, bounds, replaced.is_some());
        let own = |used: &mut Used, bounds: &Bounds| add(used, bounds, of_own);
        self.try_change(owner, self.each, total, own)
    }

    /// Whether `more` files and folders of `owner` would be too many now. Nothing is counted.
    pub(super) fn admit_files(&self, owner: &Owner, more: u64) -> Result<(), Refusal> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let add = |used: &mut Used, bounds: &Bounds| {
            used.files += more;
            used.fits(bounds, 0)
        };
        self.changed(&used, owner, self.each, add, add).map(drop)
    }

    /// Counts a folder that is made for `owner`.
    pub(super) fn take_folder(&self, owner: &Owner) -> Result<(), Refusal> {
        let add = |used: &mut Used, bounds: &Bounds| {
            used.folders += 1;
            used.fits(bounds, 0)
        };
        self.try_change(owner, self.each, add, add)
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
    fn files_and_transfers_are_bounded() {
        let quota = quota();
        let ann = owner("ann");
        quota.take_file(&ann, || None).unwrap();
        quota.take_file(&ann, || None).unwrap();
        assert!(quota.take_file(&ann, || None).is_err());
        quota.give_file(&ann.name);
        quota.take_file(&ann, || None).unwrap();
        let open = (quota.open(&ann).unwrap(), quota.open(&ann).unwrap());
        assert_eq!(quota.open(&ann).unwrap_err().code, ErrorCode::Busy);
        let _third = quota.open(&owner("bob")).unwrap();
        assert!(quota.open(&owner("eve")).is_err());
        drop(open);
        quota.open(&ann).unwrap();
    }

    /// A replacement of one's own file is one more until it has its place, for each open transfer; that of another's
    /// stays one more.
    #[test]
    fn a_replacement_fits_where_a_new_file_does_not() {
        let quota = quota();
        let (ann, bob) = (owner("ann"), owner("bob"));
        let of = |owner: &Owner| Some(owner.name.clone());
        quota.found(ann.name.clone(), 2, 0);
        quota.found(bob.name.clone(), 1, 0);
        let _open = quota.open(&ann).unwrap();
        assert_eq!(quota.take_file(&ann, || None).unwrap_err().limit, Some(Limit::Files));
        assert_eq!(quota.take_file(&ann, || of(&bob)).unwrap_err().limit, Some(Limit::UserFiles));
        quota.take_file(&ann, || of(&ann)).unwrap();
        assert!(quota.take_file(&ann, || of(&ann)).is_err(), "one open transfer, one more");
        quota.gone(Gone { size: 0, owner: ann.name.clone() });
        quota.take_file(&ann, || of(&ann)).unwrap();
        quota.give_file(&ann.name);
        assert_eq!(quota.used().files, 3);
    }
}

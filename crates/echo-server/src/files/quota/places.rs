//! Places for a file and the folders on the way to it: kept at PUT, so that others do not use up what an upload will
//! need at its end, once all of it has come.

use std::sync::Arc;

use super::{Bounds, Owner, Quota, Used, What};
use crate::files::refusal::Refusal;

/// Places that are kept for an upload, until it has made what they are for, or is dropped.
#[derive(Debug)]
pub(in super::super) struct Places {
    quota: Arc<Quota>,
    owner: Owner,
    count: u64,
}

impl Places {
    /// None yet.
    pub(in super::super) fn none(quota: &Arc<Quota>, owner: &Owner) -> Self {
        Self { quota: Arc::clone(quota), owner: owner.clone(), count: 0 }
    }

    /// Keeps so many in all. `replaced` tells whose file the new one is to replace, if it is: then there may be one
    /// more for each open transfer, until it has that one's place.
    pub(in super::super) fn keep(
        &mut self,
        count: u64,
        replaced: Option<Option<String>>,
    ) -> Result<(), Refusal> {
        if count <= self.count {
            self.keep_at_most(count);
            return Ok(());
        }
        let add = |used: &mut Used, bounds: &Bounds, replaces: bool| -> Result<(), What> {
            used.kept += count - self.count;
            used.fits(bounds, if replaces { used.transfers } else { 0 })
        };
        // One more of the owner stays where another one's file goes.
        let of_own = replaced.as_ref() == Some(&self.owner.name);
        let total = |used: &mut Used, bounds: &Bounds| add(used, bounds, replaced.is_some());
        let own = |used: &mut Used, bounds: &Bounds| add(used, bounds, of_own);
        self.quota.try_change(&self.owner, self.quota.each, total, own)?;
        self.count = count;
        Ok(())
    }

    /// Gives back what is not needed.
    pub(in super::super) fn keep_at_most(&mut self, count: u64) {
        let back = self.count.saturating_sub(count);
        if back > 0 {
            self.count -= back;
            self.quota.change(&self.owner.name, |used| used.kept -= back);
        }
    }

    /// A file is made, at one of the places.
    pub(in super::super) fn make_file(&mut self) {
        let kept = self.count.min(1);
        self.count -= kept;
        // In one go, so that nobody takes the place between.
        self.quota.change(&self.owner.name, |used| {
            used.kept -= kept;
            used.files += 1;
        });
    }

    /// A folder is to be made: at one of the places, or at another one if there is, as one that was there may be gone.
    pub(in super::super) fn make_folder(&mut self) -> Result<(), Refusal> {
        self.keep(self.count.max(1), None)?;
        self.count -= 1;
        self.quota.change(&self.owner.name, |used| {
            used.kept -= 1;
            used.folders += 1;
        });
        Ok(())
    }

    /// It could not be made.
    pub(in super::super) fn unmake_folder(&mut self) {
        self.count += 1;
        self.quota.change(&self.owner.name, |used| {
            used.folders = used.folders.saturating_sub(1);
            used.kept += 1;
        });
    }

    /// The counters that they are in.
    pub(in super::super) fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Whose they are.
    pub(in super::super) fn owner(&self) -> &Owner {
        &self.owner
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.keep_at_most(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limit;
    use super::*;
    use crate::files::store::Gone;

    fn quota(files: u64, each: u64) -> Arc<Quota> {
        let bounds = |files| Bounds { bytes: 100, files, transfers: 3 };
        Arc::new(Quota::new(bounds(files), bounds(each)))
    }

    fn owner(name: &str) -> Owner {
        Owner { name: Some(name.to_owned()), bytes: None }
    }

    fn kept(quota: &Arc<Quota>, owner: &Owner, count: u64) -> Result<Places, Refusal> {
        let mut places = Places::none(quota, owner);
        places.keep(count, None).map(|()| places)
    }

    #[test]
    fn what_is_kept_is_nobody_elses() {
        let quota = quota(5, 4);
        let (ann, bob) = (owner("ann"), owner("bob"));
        let mut places = kept(&quota, &ann, 3).unwrap();
        assert_eq!(kept(&quota, &ann, 2).unwrap_err().limit, Some(Limit::UserFiles));
        assert_eq!(kept(&quota, &bob, 3).unwrap_err().limit, Some(Limit::Files));
        let others = kept(&quota, &bob, 2).unwrap();
        // What is made takes no more than was kept.
        places.make_file();
        places.make_folder().unwrap();
        assert_eq!(kept(&quota, &owner("eve"), 1).unwrap_err().limit, Some(Limit::Files));
        places.unmake_folder();
        places.make_folder().unwrap();
        places.keep_at_most(0);
        kept(&quota, &owner("eve"), 1).unwrap();
        // Beyond it, what there is.
        places.make_folder().unwrap();
        assert_eq!(places.make_folder().unwrap_err().limit, Some(Limit::Files));
        drop((places, others));
        let used = Used { files: 1, folders: 2, ..Used::default() };
        assert_eq!(quota.used(), used);
    }

    /// Nothing is asked of a store that is too full already.
    #[test]
    fn no_place_is_always_there() {
        let quota = quota(1, 1);
        quota.found(None, 5, 0);
        kept(&quota, &Owner::default(), 0).unwrap();
        assert!(kept(&quota, &Owner::default(), 1).is_err());
    }

    /// A replacement of one's own file is one more until it has its place, for each open transfer; that of another's
    /// stays one more.
    #[test]
    fn a_replacement_fits_where_a_new_file_does_not() {
        let quota = quota(3, 2);
        let (ann, bob) = (owner("ann"), owner("bob"));
        let replacing = |owner: &Owner| {
            let mut places = Places::none(&quota, &ann);
            places.keep(1, Some(owner.name.clone())).map(|()| places)
        };
        quota.found(ann.name.clone(), 2, 0);
        quota.found(bob.name.clone(), 1, 0);
        let _open = quota.open(&ann).unwrap();
        assert_eq!(kept(&quota, &ann, 1).unwrap_err().limit, Some(Limit::Files));
        assert_eq!(replacing(&bob).unwrap_err().limit, Some(Limit::UserFiles));
        let mut first = replacing(&ann).unwrap();
        assert!(replacing(&ann).is_err(), "one open transfer, one more");
        first.make_file();
        assert!(replacing(&ann).is_err(), "the same");
        quota.gone(Gone { size: 0, owner: ann.name.clone() });
        drop(replacing(&ann).unwrap());
        assert_eq!(quota.used().files, 3);
    }
}

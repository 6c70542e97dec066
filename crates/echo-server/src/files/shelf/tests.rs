use super::super::quota::Bounds;
use super::*;

#[test]
fn what_nobody_goes_on_with_is_taken_away_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { bytes: 100, files: 2, transfers: 1 };
    let quota = Arc::new(Quota::new(bounds, bounds));
    let shelf = Shelf::open(Store::open(folder.path()).unwrap(), quota).unwrap();
    let now = SystemTime::now();
    for (name, since) in [("old", now - KEPT - SWEEP), ("new", now - KEPT + SWEEP)] {
        let (_, id) = shelf.create().unwrap();
        let key = Key { owner: None, name: name.into() };
        shelf.quota.found(None, 1, 10);
        shelf.put(key, Parked { id, len: 10, since });
    }
    shelf.sweep();
    assert_eq!((shelf.parked(), shelf.quota.used().files, shelf.quota.used().bytes), (1, 1, 10));
    assert!(shelf.has_parked(&Key { owner: None, name: b"new".to_vec() }));
    assert_eq!(shelf.counts.parts(Fate::Expired), 1);
    let parts = std::fs::read_dir(folder.path().join(super::super::store::PRIVATE)).unwrap();
    assert_eq!(parts.count(), 2, "the lock, and one part");
}

//! A table of sources that never grows.

/// Places in a set; a source's hash chooses the set. Two cache lines of buckets.
const WAYS: usize = 8;

/// Something about each source, for as long as it holds more than nothing.
///
/// **On overflow**, when all places of a source's set are taken, the source shares one place with all
/// others that find none; who has a place keeps it.
#[derive(Debug)]
pub(super) struct Table<T> {
    places: Box<[Place<T>]>,
    shared: T,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place<T> {
    source: u64,
    kept: T,
}

impl<T: Copy + Default> Table<T> {
    /// A table of so many sets of 8 places, a power of two.
    pub(super) fn new(sets: usize) -> Self {
        Self { places: vec![Place::default(); sets * WAYS].into(), shared: T::default() }
    }

    /// What is kept of `source`, whose keyed hash is `hash`, and whether that is its alone. A place is
    /// free for others unless what is there `counts`, and is found as its last source has left it.
    #[inline]
    pub(super) fn place(
        &mut self,
        source: u64,
        hash: u64,
        counts: impl Fn(&T) -> bool,
    ) -> (&mut T, bool) {
        let set = hash as usize % (self.places.len() / WAYS);
        let places = &mut self.places[set * WAYS..][..WAYS];
        let mine = |place: &Place<T>| place.source == source && counts(&place.kept);
        let found = places.iter().position(mine);
        match found.or_else(|| places.iter().position(|place| !counts(&place.kept))) {
            Some(place) => {
                let place = &mut places[place];
                place.source = source;
                (&mut place.kept, true)
            }
            None => (&mut self.shared, false),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}

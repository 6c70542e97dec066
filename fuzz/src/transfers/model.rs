//! What a store has to be like after what was answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use echo_core::{
    Commit, DataReply, Digest, Get, GetReply, Kind, List, ListReply, Put, PutReply, Read, Remove,
};
use sha2::{Digest as _, Sha256};

/// Whose upload it is (nobody's or the user's), and of what name.
type Key = (bool, Vec<u8>);

/// What is known of the store, and of the transfer under way.
#[derive(Default)]
pub(super) struct Model {
    pub(super) logged_in: bool,
    visible: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names of which an answer is missing: nothing is known of them.
    unsure: BTreeSet<Vec<u8>>,
    /// All that uploads were given which did not come to their end: some of it may be parked.
    parked: HashMap<Key, Vec<Vec<u8>>>,
    /// The upload under way, and what it was given.
    upload: Option<(Key, Vec<u8>)>,
    download: Option<Download>,
}

/// What a download has to bring, if that is known, and how far it is.
struct Download {
    contents: Option<Vec<u8>>,
    at: usize,
}

impl Model {
    /// What the upload under way was given.
    pub(super) fn given(&self) -> &[u8] {
        self.upload.as_ref().map_or(&[], |(_, given)| given)
    }

    /// What is visible under that name.
    pub(super) fn visible(&self, name: &[u8]) -> &[u8] {
        self.visible.get(name).map_or(&[], Vec::as_slice)
    }

    /// An answer of a frame's own kind.
    pub(super) fn answered(&mut self, asked: Kind, payload: &[u8], answer: &[u8]) {
        const SOUND: &str = "what is malformed was answered";
        match asked {
            Kind::PUT => {
                let name = Put::parse(payload).expect(SOUND).name;
                self.opened(name.as_bytes().to_vec(), PutReply::parse(answer).unwrap());
            }
            Kind::DATA => {
                let (_, given) = self.upload.as_mut().expect("DATA without an upload");
                given.extend_from_slice(payload);
                assert_eq!(DataReply::parse(answer).unwrap().received, given.len() as u64);
            }
            Kind::COMMIT => {
                let commit = Commit::parse(payload).expect(SOUND);
                let ((_, name), given) = self.upload.take().expect("COMMIT without an upload");
                let digest: [u8; 32] = Sha256::digest(&given).into();
                assert_eq!((commit.digest, commit.size), (digest, given.len() as u64));
                assert_eq!(Digest::parse(answer), Ok(Digest(digest)));
                self.unsure.remove(&name);
                self.visible.insert(name, given);
            }
            Kind::GET => {
                self.dropped();
                let (get, reply) = (Get::parse(payload).expect(SOUND), GetReply::parse(answer));
                let (name, reply) = (get.name.as_bytes(), reply.unwrap());
                let contents = self.visible.get(name).cloned();
                let contents = contents.filter(|_| !self.unsure.contains(name));
                assert!(contents.is_some() || self.unsure.contains(name), "it is not there");
                let at = reply.offset as usize;
                if let Some(contents) = &contents {
                    assert_eq!(reply.size, contents.len() as u64);
                    let begins = contents.get(..get.offset as usize);
                    let same = begins.is_some_and(|it| Sha256::digest(it)[..] == get.prefix);
                    assert_eq!(reply.offset, if same { get.offset } else { 0 });
                }
                self.download = Some(Download { contents, at });
            }
            Kind::READ => {
                let len = Read::parse(payload).expect(SOUND).len as usize;
                let Download { contents, at } = self.download.as_mut().expect("no download");
                assert!(answer.len() <= len);
                if let Some(contents) = contents {
                    let rest = &contents[*at..];
                    assert!(answer == &rest[..len.min(rest.len())], "other bytes than the file's");
                }
                *at += answer.len();
            }
            Kind::DONE => {
                let Download { contents, at } = self.download.take().expect("no download");
                if let Some(contents) = contents {
                    assert_eq!(at, contents.len(), "DONE before the end");
                    assert_eq!(answer, &Sha256::digest(&contents)[..]);
                }
            }
            Kind::LIST => {
                let (list, reply) = (List::parse(payload).expect(SOUND), ListReply::parse(answer));
                let (listed, due) = (reply.unwrap(), self.listed(&list));
                let listed = listed.entries.iter().map(|it| (it.name.as_bytes(), it.size));
                let listed = listed.filter(|(name, _)| !self.unsure.contains(*name));
                assert!(listed.eq(due), "the list has other files");
            }
            Kind::REMOVE => {
                let name = Remove::parse(payload).expect(SOUND).name.as_bytes();
                let was_there = self.visible.remove(name).is_some();
                assert!(self.unsure.remove(name) | was_there, "it was not there");
            }
            _ => {}
        }
    }

    /// Few files lie here: a list is never cut.
    fn listed<'a>(&'a self, list: &'a List<'_>) -> impl Iterator<Item = (&'a [u8], u64)> {
        let files = self.visible.iter().filter(|(name, _)| !self.unsure.contains(*name));
        let files = files.map(|(name, contents)| (&name[..], contents.len() as u64));
        files.filter(|(name, _)| name.starts_with(list.prefix) && *name > list.cursor)
    }

    fn opened(&mut self, name: Vec<u8>, reply: PutReply) {
        self.dropped();
        let key = (self.logged_in, name);
        let offset = usize::try_from(reply.offset).unwrap();
        let begins = |given: &&Vec<u8>| {
            given.get(..offset).is_some_and(|it| Sha256::digest(it)[..] == reply.prefix)
        };
        let none = vec![Vec::new()];
        let parked = self.parked.get(&key).into_iter().flatten().chain(&none);
        let found = parked.into_iter().find(begins).expect("nobody has sent what is parked");
        self.upload = Some((key, found[..offset].to_vec()));
    }

    /// What was open is so no more; an upload may be parked.
    fn dropped(&mut self) {
        self.download = None;
        if let Some((key, given)) = self.upload.take() {
            self.parked.entry(key).or_default().push(given);
        }
    }

    /// An ERROR.
    pub(super) fn refused(&mut self, asked: Kind, payload: &[u8]) {
        match asked {
            // Part of it may have been written.
            Kind::DATA => {
                if let Some((_, given)) = &mut self.upload {
                    given.extend_from_slice(payload);
                }
                // Without an upload it is out of place, and changes nothing.
                if self.upload.is_some() {
                    self.dropped();
                }
            }
            Kind::COMMIT if self.upload.is_some() => self.dropped(),
            // Not all was read: it is open no more.
            Kind::DONE => self.download = None,
            Kind::PUT | Kind::GET => self.dropped(),
            _ => {}
        }
    }

    /// The connection ended, and this frame had no answer.
    pub(super) fn lost(&mut self, asked: Kind, payload: &[u8]) {
        match (asked, &mut self.upload) {
            (Kind::DATA, Some((_, given))) => given.extend_from_slice(payload),
            (Kind::COMMIT, Some(((_, name), _))) => drop(self.unsure.insert(name.clone())),
            (Kind::REMOVE, _) => {
                let name = Remove::parse(payload).map(|it| it.name.as_bytes().to_vec());
                self.unsure.extend(name);
            }
            _ => {}
        }
        self.dropped();
        self.logged_in = false;
    }

    /// All that has to be visible is, and nothing else.
    pub(super) fn compare(&self, found: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let sure = |(name, _): &(&Vec<u8>, &Vec<u8>)| !self.unsure.contains(*name);
        let (found, due) = (found.iter().filter(sure), self.visible.iter().filter(sure));
        assert!(found.eq(due), "the store is another one than its answers said");
    }
}

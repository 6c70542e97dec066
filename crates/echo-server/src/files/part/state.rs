//! The state of a part as a file: whose it is, how much of it is covered, and the running digest.

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

use bytes::{Buf, BufMut};

use crate::files::shelf::Key;

/// What such a file begins with: another version is another number.
const MAGIC: &[u8] = b"echo-server part 1\n";

/// The longest such file: a name, a user's name, the rest.
pub(in super::super) const MAX_LEN: u64 = 4096;

/// Where an upload stands.
#[derive(Clone, Debug)]
pub(in super::super) struct State {
    pub(in super::super) key: Key,
    /// So many bytes of the part are synced, and digested.
    pub(in super::super) covered: u64,
    pub(in super::super) digest: Sha256,
}

impl State {
    pub(in super::super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.put_u64(self.covered);
        let owner = self.key.owner.as_deref();
        out.put_u8(owner.is_some().into());
        for field in
            [owner.unwrap_or_default().as_bytes(), &self.key.name, &self.digest.serialize()]
        {
            out.put_u16(field.len() as u16);
            out.put_slice(field);
        }
        let sum = Sha256::digest(&out);
        out.put_slice(&sum);
        out
    }

    /// `None` for what is broken.
    pub(in super::super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (mut fields, sum) = bytes.split_last_chunk::<32>()?;
        if Sha256::digest(fields)[..] != sum[..] {
            return None;
        }
        fields = fields.strip_prefix(MAGIC)?;
        let covered = fields.try_get_u64().ok()?;
        let owned = fields.try_get_u8().ok()? == 1;
        let mut field = || {
            let len = fields.try_get_u16().ok()?;
            fields.split_off(..usize::from(len))
        };
        let (owner, name, digest) = (field()?, field()?, field()?);
        let owner = owned.then(|| String::from_utf8(owner.to_vec())).transpose().ok()?;
        let digest = SerializedState::<Sha256>::try_from(digest).ok()?;
        let key = Key { owner, name: name.to_vec() };
        Some(Self { key, covered, digest: Sha256::deserialize(&digest).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_and_a_broken_one_does_not() {
        for owner in [None, Some("ann".to_owned())] {
            let digest =
                Sha256::new().chain_update(b"what came so far, and more than a block of it in all");
            let key = Key { owner, name: b"a/\xffb".to_vec() };
            let state = State { key, covered: 52, digest };
            let bytes = state.to_bytes();
            let read = State::parse(&bytes).unwrap();
            assert_eq!((&read.key, read.covered), (&state.key, 52));
            let whole = |state: State| state.digest.chain_update(b"the rest").finalize();
            assert_eq!(whole(read), whole(state));
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 1;
                assert!(State::parse(&broken).is_none(), "{at}");
                assert!(State::parse(&bytes[..at]).is_none(), "{at}");
            }
        }
    }
}

//! Bytes that a connection keeps, rarely: one word when there are none.

use std::ops::Deref;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes waiting to be processed or written. An idle connection has two of these, empty: behind a
/// box that is not there they cost 16 bytes instead of 64.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Option<Box<BytesMut>>);

impl Buffer {
    /// Keeps `bytes`.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.get_or_insert_default().extend_from_slice(bytes);
        }
    }

    /// Makes room for `len` more bytes.
    pub(crate) fn reserve(&mut self, len: usize) {
        self.0.get_or_insert_default().reserve(len);
    }

    /// Drops the first `len` bytes.
    pub(crate) fn advance(&mut self, len: usize) {
        if let Some(bytes) = &mut self.0 {
            bytes.advance(len);
        }
    }

    /// Takes the first `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Bytes {
        self.0.as_mut().map_or_else(Bytes::new, |bytes| bytes.split_to(len).freeze())
    }

    /// Moves the bytes to a block of their size: what was dropped before them is still in theirs.
    pub(crate) fn compact(&mut self) {
        if let Some(bytes) = &mut self.0 {
            **bytes = BytesMut::from(&bytes[..]);
        }
    }

    /// Room that nothing is in.
    pub(crate) fn spare(&self) -> usize {
        self.0.as_ref().map_or(0, |bytes| bytes.capacity() - bytes.len())
    }

    /// Drops all, memory included.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Gives the memory back if nothing is in it.
    #[inline]
    pub(crate) fn release(&mut self) {
        if self.0.as_ref().is_some_and(|bytes| bytes.is_empty()) {
            self.0 = None;
        }
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.put(bytes);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.as_deref().map_or(&[], |bytes| bytes)
    }
}

//! What the clients send.

/// What stays in the processor's cache.
const ENOUGH: usize = 256 << 10;

/// Messages with different random payloads, one after the other, and the same once more behind
/// them: a slice of up to [`len`](Self::len) bytes is contiguous wherever it begins.
#[derive(Debug)]
pub struct Messages {
    bytes: Vec<u8>,
    message: usize,
}

impl Messages {
    /// At least `count` messages with `size` bytes of payload.
    pub fn new(size: usize, count: usize) -> Self {
        let message = size_of::<u32>() + size;
        let count = (ENOUGH / message).clamp(2, 1024).max(count);
        let mut random = fastrand::Rng::with_seed(7);
        let mut bytes = Vec::with_capacity(2 * count * message);
        for _ in 0..count {
            bytes.extend_from_slice(&(size as u32).to_be_bytes());
            bytes.extend((0..size).map(|_| random.u8(..)));
        }
        bytes.extend_from_within(..);
        Self { bytes, message }
    }

    /// The payloads from message `number` on, round and round.
    pub fn payloads(&self, number: usize) -> impl Iterator<Item = &[u8]> {
        let offset = self.offset(number);
        let round = &self.bytes[offset..offset + self.len()];
        round.chunks_exact(self.message).cycle().map(|message| &message[size_of::<u32>()..])
    }

    /// Bytes of all messages.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / 2
    }

    /// Bytes of one message, with its header.
    pub(super) fn message(&self) -> usize {
        self.message
    }

    /// The first message.
    pub(super) fn first(&self) -> &[u8] {
        &self.bytes[..self.message]
    }

    /// Where message `number` begins, counted round and round.
    pub(super) fn offset(&self, number: usize) -> usize {
        number * self.message % self.len()
    }

    /// Up to `most` bytes from `offset` on.
    #[inline]
    pub(super) fn from(&self, offset: usize, most: usize) -> &[u8] {
        &self.bytes[offset..offset + most.min(self.len())]
    }
}

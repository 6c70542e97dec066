//! How much has been asked, and how much of it answered.

use super::Requests;
use crate::client::Dialect;
use crate::frame::HEADER_LEN;

impl Requests {
    /// Requests of this connection: asked, and answered.
    pub(in crate::client) fn counts(&self) -> (u64, u64) {
        let answered = self.first_unanswered() as u64;
        (self.delivered + self.due.len() as u64, self.delivered + answered)
    }

    /// Payload bytes: without an answer, and answered.
    pub(in crate::client) fn byte_counts(&self) -> (u64, u64) {
        let answered = self.answered_bytes();
        (self.asked_bytes - answered, answered)
    }

    /// Payload bytes that came back, over all connections: never fewer than before.
    pub(in crate::client) fn came_bytes(&self) -> u64 {
        self.came_bytes.max(self.answered_bytes())
    }

    /// Payload bytes that came back, of this connection and those delivered before.
    pub(super) fn answered_bytes(&self) -> u64 {
        if self.dialect == Dialect::Raw {
            return self.delivered_bytes + (self.verified - self.front);
        }
        let first = self.first_unanswered();
        let (start, header) = (self.start_of(first), HEADER_LEN as u64);
        let whole = start - self.front - header * first as u64;
        self.delivered_bytes + whole + (self.verified - start).saturating_sub(header)
    }
}

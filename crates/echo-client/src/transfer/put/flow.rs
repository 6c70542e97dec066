//! Bytes of a file on their way to the server, which says how many have come.

use std::collections::VecDeque;

use echo_core::client::{Dialogue, Error};
use echo_core::{DataReply, Kind};

use crate::transfer::patience::Patience;
use crate::transfer::{Trouble, WINDOW, accepted, unreadable};

/// The DATA frames without an answer.
#[derive(Debug)]
pub(super) struct Flow {
    /// How much of the file is sent.
    at: u64,
    /// Where each frame under way ends.
    ends: VecDeque<u64>,
}

impl Flow {
    /// Goes on behind the `offset` bytes that the server has.
    pub(super) fn from(offset: u64, patience: &mut Patience) -> Self {
        patience.reached(offset);
        Self { at: offset, ends: VecDeque::new() }
    }

    /// Sends the next bytes in a frame.
    pub(super) async fn send(
        &mut self,
        bytes: &[u8],
        dialogue: &mut Dialogue,
    ) -> Result<(), Trouble> {
        self.at += bytes.len() as u64;
        self.ends.push_back(self.at);
        Ok(dialogue.send(Kind::DATA, &[bytes]).await?)
    }

    /// Receives answers until there is room for another frame.
    pub(super) async fn make_room(
        &mut self,
        dialogue: &mut Dialogue,
        patience: &mut Patience,
    ) -> Result<(), Trouble> {
        self.receive(WINDOW - 1, dialogue, patience).await
    }

    /// Receives all that are due.
    pub(super) async fn end(
        mut self,
        dialogue: &mut Dialogue,
        patience: &mut Patience,
    ) -> Result<(), Trouble> {
        self.receive(0, dialogue, patience).await
    }

    async fn receive(
        &mut self,
        left: usize,
        dialogue: &mut Dialogue,
        patience: &mut Patience,
    ) -> Result<(), Trouble> {
        while self.ends.len() > left
            && let Some(end) = self.ends.pop_front()
        {
            counted(&accepted(dialogue.recv().await?)?, end)?;
            patience.reached(end);
        }
        Ok(())
    }
}

/// What the answer to DATA counts is what was sent. A server that counts otherwise has lost some of it.
pub(super) fn counted(answer: &[u8], sent: u64) -> Result<(), Trouble> {
    let DataReply { received } = DataReply::parse(answer).map_err(|_| unreadable(Kind::DATA))?;
    if received == sent {
        return Ok(());
    }
    let what = format!("the server counts {received} bytes of the file where {sent} were sent");
    Err(Trouble::Lost(Error::Different { at: received.min(sent), what }))
}

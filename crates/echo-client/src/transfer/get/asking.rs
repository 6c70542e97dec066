//! What is asked of the server for one file.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use echo_core::client::{Dialogue, Error};
use echo_core::{Digest, ErrorCode, ErrorFrame, FileName, Get, GetReply, Kind, Read};

use crate::show;
use crate::transfer::{Trouble, WINDOW, accepted, send, unreadable};

/// Bytes that a server digests in a second, even from a slow disk.
const DIGESTED: u64 = 20 << 20;

pub(in crate::transfer) async fn ask(
    name: &[u8],
    offset: u64,
    prefix: [u8; 32],
    dialogue: &mut Dialogue,
) -> Result<(), Trouble> {
    let name = FileName::new(name).map_err(|why| Trouble::File(why.to_string()))?;
    send(dialogue, Kind::GET, |out| Get { offset, prefix, name }.put(out)).await
}

/// The answer to GET; or, if there is no file of that name, what the server says of that. The server first
/// digests the `offset` bytes that were said to be here.
pub(in crate::transfer) async fn opened(
    offset: u64,
    dialogue: &mut Dialogue,
) -> Result<Result<GetReply, String>, Trouble> {
    let (header, payload) = dialogue.recv_late(Duration::from_secs(offset / DIGESTED)).await?;
    let missing = header.kind == Kind::ERROR
        && ErrorFrame::parse(&payload).is_ok_and(|it| it.code == ErrorCode::NotFound);
    match accepted((header, payload)) {
        Err(Trouble::File(why)) if missing => Ok(Err(why)),
        payload => {
            let reply = GetReply::parse(&payload?).map_err(|_| unreadable(Kind::GET))?;
            if i64::try_from(reply.size).is_err() {
                let told = show::bytes(reply.size);
                let text = format!("the server tells of {told}, and no file is that long");
                return Err(Trouble::File(text));
            }
            Ok(Ok(reply))
        }
    }
}

pub(super) async fn done(dialogue: &mut Dialogue) -> Result<Digest, Trouble> {
    send(dialogue, Kind::DONE, |_| {}).await?;
    let payload = accepted(dialogue.recv().await?)?;
    Digest::parse(&payload).map_err(|_| unreadable(Kind::DONE))
}

/// The bytes of a file that is open, asked for ahead of their arrival.
pub(super) struct Stream {
    unasked: u64,
    asked: VecDeque<u32>,
    block: u32,
}

impl Stream {
    /// In frames of at most so many bytes.
    pub(super) fn new(
        reply: &GetReply,
        frame: usize,
        dialogue: &Dialogue,
    ) -> Result<Self, Trouble> {
        let unasked = reply.size.checked_sub(reply.offset).ok_or_else(|| unreadable(Kind::GET))?;
        let block = dialogue.session().max_frame.clamp(1, frame as u32);
        Ok(Self { unasked, asked: VecDeque::new(), block })
    }

    /// The next bytes, exactly as many as were asked for; `None` when all have come.
    pub(super) async fn next(&mut self, dialogue: &mut Dialogue) -> Result<Option<Bytes>, Trouble> {
        while self.asked.len() < WINDOW && self.unasked > 0 {
            let len = self.unasked.min(self.block.into()) as u32;
            self.unasked -= u64::from(len);
            self.asked.push_back(len);
            send(dialogue, Kind::READ, |out| Read { len }.put(out)).await?;
        }
        let Some(len) = self.asked.pop_front() else { return Ok(None) };
        let data = accepted(dialogue.recv().await?)?;
        if data.len() != len as usize {
            let what = format!("the server sent {} bytes of {len} asked for", data.len());
            return Err(Trouble::Lost(Error::Different { at: 0, what }));
        }
        Ok(Some(data))
    }
}

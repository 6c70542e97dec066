//! `echo-client put`.

mod flow;
mod gather;
mod piped;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use echo_core::client::Dialogue;
use echo_core::{Attributes, Commit, Digest, FileName, Kind, Put, PutReply};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::get::asking;
use super::patience::Patience;
use super::progress::Meter;
use super::report::{Deed, Done, Report};
use super::source::{Ahead, Reader, Stamp, unreadable};
use super::work::{self, Transfer, Work};
use super::{SMALL, Trouble, accepted, frame, options};
use super::{joined, send, with_output};
use crate::args::{Putting, own_name};
use crate::failure::Failure;
use crate::stdio::Output;
use flow::{Flow, counted};
use gather::Gatherer;
use piped::Piped;

/// Stores what the command line names.
pub(crate) async fn run(args: &Putting) -> Result<(), Failure> {
    with_output(args.transferring.asking.json, |output| run_with(args, output)).await
}

async fn run_with(args: &Putting, output: Output) -> Result<(), Failure> {
    let asking = &args.transferring.asking;
    let report = Arc::new(Report::new(asking.json, asking.connecting.quiet, output));
    let options = options(&asking.connecting, &args.target)?;
    let mut paths = Vec::new();
    for path in &args.paths {
        let name = match &args.name {
            Some(name) => name,
            None => own_name(path).map_err(Failure::Local)?,
        };
        paths.push((path.clone(), name.as_bytes().to_vec()));
    }
    let work = Work::new(&args.target, options, report, Gatherer::new(paths));
    let preserve = args.transferring.preserve;
    let connections = args.transferring.connections;
    let frame = frame(connections);
    let sender =
        || Sender { preserve, frame, piped: None, hashed: None, committed: HashMap::new() };
    work.run(connections, sender).await
}

/// A file to be stored.
#[derive(Clone, Debug)]
struct Item {
    /// `None` is stdin.
    path: Option<PathBuf>,
    name: Vec<u8>,
    size: u64,
}

impl work::Item for Item {
    fn name(&self) -> &[u8] {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// A small file that is sent and has no answer yet.
#[derive(Debug)]
struct Sent {
    commit: Commit,
    /// Its frames.
    frames: u32,
}

struct Sender {
    preserve: bool,
    /// Bytes of a frame.
    frame: usize,
    /// Stdin, once it is read.
    piped: Option<Piped>,
    hashed: Option<Hashed>,
    /// Files whose COMMIT had no answer: the server may have stored them before the connection was lost.
    committed: HashMap<Vec<u8>, Commit>,
}

/// The beginning of a file that was hashed for a connection which may be lost before it is of use.
struct Hashed {
    name: Vec<u8>,
    /// What the file was like.
    stamp: Stamp,
    at: u64,
    digest: Sha256,
}

impl Transfer for Sender {
    type Item = Item;
    type Source = Gatherer;
    type Small = Sent;
    const DEED: Deed = Deed::Stored;

    async fn begin(
        &mut self,
        item: &Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
    ) -> Result<Option<Sent>, Trouble> {
        if self.committed.contains_key(&item.name) {
            return Ok(None);
        }
        // In one frame.
        let most = SMALL.min(dialogue.session().max_frame.into());
        let Some(path) = item.path.clone().filter(|_| item.size <= most) else { return Ok(None) };
        let read = move || {
            let (mut reader, attributes) = Reader::open(&path)?;
            // One more tells of a file without a size whether it is small.
            let block = match reader.size.is_some_and(|size| size > most) {
                true => return Ok(None),
                false => reader.read(Vec::new(), most as usize + 1)?,
            };
            let digest = reader.digest.finalize().into();
            let small = (attributes, Commit { digest, size: reader.at }, block);
            Ok(Some(small).filter(|_| reader.at <= most))
        };
        let read = joined(spawn_blocking(read)).await?.map_err(local)?;
        let Some((attributes, commit, block)) = read else { return Ok(None) };
        meter.open(0, Some(commit.size));
        let keep = self.keep(attributes);
        open(&item.name, false, Some(commit.size), keep, dialogue).await?;
        let frames = if block.is_empty() { 2 } else { 3 };
        if !block.is_empty() {
            dialogue.send(Kind::DATA, &[&block]).await?;
            meter.moved(commit.size);
        }
        send(dialogue, Kind::COMMIT, |out| commit.put(out)).await?;
        Ok(Some(Sent { commit, frames }))
    }

    async fn end(
        &mut self,
        _: &Item,
        sent: &Sent,
        dialogue: &mut Dialogue,
        _: &Meter,
    ) -> Result<Option<Done>, Trouble> {
        let mut last = Ok(Default::default());
        for _ in 0..sent.frames {
            let (header, payload) = dialogue.recv().await?;
            if header.kind == Kind::DATA {
                counted(&payload, sent.commit.size)?;
            }
            last = accepted((header, payload));
        }
        let digest = Digest(sent.commit.digest);
        match Digest::parse(&last?) {
            Ok(stored) if stored == digest => Ok(Some(Done { digest, size: sent.commit.size })),
            _ => Err(super::unreadable(Kind::COMMIT)),
        }
    }

    fn lost(&mut self, item: &Item, sent: &Sent) {
        self.committed.insert(item.name.clone(), sent.commit);
    }

    async fn whole(
        &mut self,
        item: &Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
        patience: &mut Patience,
    ) -> Result<Option<Done>, Trouble> {
        if let Some(commit) = self.committed.get(&item.name).copied() {
            let stored = is_stored(&item.name, &commit, dialogue).await?;
            self.committed.remove(&item.name);
            if stored {
                meter.open(commit.size, Some(commit.size));
                return Ok(Some(Done { digest: Digest(commit.digest), size: commit.size }));
            }
        }
        let (done, flow) = match &item.path {
            Some(path) => self.send_file(path, item, dialogue, meter, patience).await?,
            None => self.send_stdin(item, dialogue, meter, patience).await?,
        };
        let commit = Commit { digest: done.digest.0, size: done.size };
        self.committed.insert(item.name.clone(), commit);
        let answered = async {
            send(dialogue, Kind::COMMIT, |out| commit.put(out)).await?;
            flow.end(dialogue, patience).await?;
            accepted(dialogue.recv().await?)
        };
        let answer = answered.await;
        if !matches!(answer, Err(Trouble::Lost(_) | Trouble::Busy(_))) {
            self.committed.remove(&item.name);
        }
        match Digest::parse(&answer?) {
            Ok(stored) if stored == done.digest => Ok(Some(done)),
            _ => Err(super::unreadable(Kind::COMMIT)),
        }
    }
}

impl Sender {
    /// What is asked to be kept of a file.
    fn keep(&self, attributes: Attributes) -> Option<Attributes> {
        self.preserve.then_some(attributes)
    }

    /// Sends a file block by block, from where the server has it.
    async fn send_file(
        &mut self,
        path: &Path,
        item: &Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
        patience: &mut Patience,
    ) -> Result<(Done, Flow), Trouble> {
        let path = path.to_owned();
        let opened = joined(spawn_blocking(move || Reader::open(&path))).await?;
        let (mut reader, attributes) = opened.map_err(local)?;
        let size = reader.size;
        let keep = self.keep(attributes);
        open(&item.name, true, size, keep, dialogue).await?;
        let mut reply = put_reply(dialogue).await?;
        if reply.offset > 0 {
            if let Some(hashed) = self.hashed.take()
                && (&hashed.name, hashed.stamp) == (&item.name, reader.stamp)
                && hashed.at <= reply.offset
            {
                (reader.at, reader.digest) = (hashed.at, hashed.digest);
            }
            let check = move || {
                let equal = reader.skip(reply.offset, &reply.prefix);
                (reader, equal)
            };
            let began = Instant::now();
            let (checked, equal) = joined(spawn_blocking(check)).await?;
            // That this takes long is not the server's fault.
            patience.excuse(began);
            reader = checked;
            let (stamp, at, digest) = (reader.stamp, reader.at, reader.digest.clone());
            self.hashed = Some(Hashed { name: item.name.clone(), stamp, at, digest });
            if !equal.map_err(local)? {
                open(&item.name, false, size, keep, dialogue).await?;
                reply = put_reply(dialogue).await?;
            }
        }
        if reply.offset != reader.at {
            return Err(super::unreadable(Kind::PUT));
        }
        let mut flow = Flow::from(reply.offset, patience);
        meter.open(reply.offset, size);
        let max = (dialogue.session().max_frame as usize).clamp(1, self.frame);
        let mut ahead = Ahead::start(reader, max);
        while let Some(block) = ahead.next().await {
            let block = block.map_err(|error| {
                // What the server has of it stays a part.
                Trouble::File(format!("{}; nothing was stored", unreadable(&error)))
            })?;
            flow.send(&block, dialogue).await?;
            flow.make_room(dialogue, patience).await?;
            meter.moved(block.len() as u64);
            ahead.reuse(block);
        }
        let reader = joined(ahead.end()).await?;
        let digest = Digest(reader.digest.finalize().into());
        Ok((Done { digest, size: reader.at }, flow))
    }

    /// Sends stdin, which cannot be read again, from where the server has it, if that is not too far behind.
    async fn send_stdin(
        &mut self,
        item: &Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
        patience: &mut Patience,
    ) -> Result<(Done, Flow), Trouble> {
        let begun = self.piped.is_some();
        let piped = match &mut self.piped {
            Some(piped) => piped,
            none => none.insert(Piped::new()?),
        };
        open(&item.name, begun, None, None, dialogue).await?;
        let mut reply = put_reply(dialogue).await?;
        if !piped.is_at(&reply) {
            piped.rewind(reply.offset).map_err(Trouble::File)?;
            open(&item.name, false, None, None, dialogue).await?;
            reply = put_reply(dialogue).await?;
        }
        if !piped.is_at(&reply) {
            return Err(super::unreadable(Kind::PUT));
        }
        let mut at = reply.offset;
        let mut flow = Flow::from(at, patience);
        meter.open(at, None);
        let max = (dialogue.session().max_frame as usize).max(1);
        loop {
            let waiting = Instant::now();
            let chunk = piped.chunk(at).await?;
            // That stdin is slow is not the server's fault.
            patience.excuse(waiting);
            let Some(chunk) = chunk else {
                return Ok((Done { digest: piped.digest(), size: at }, flow));
            };
            for part in chunk.chunks(max) {
                flow.send(part, dialogue).await?;
            }
            dialogue.flush().await?;
            flow.make_room(dialogue, patience).await?;
            at += chunk.len() as u64;
            meter.moved(chunk.len() as u64);
        }
    }
}

/// Whether the server has stored a file, though its answer to COMMIT was lost with the connection. PUT comes first: it
/// waits for who may be storing it still. That it is refused may be for the very file, as when that has used up a quota.
async fn is_stored(name: &[u8], commit: &Commit, dialogue: &mut Dialogue) -> Result<bool, Trouble> {
    open(name, true, Some(commit.size), None, dialogue).await?;
    match put_reply(dialogue).await {
        Ok(reply) if reply.offset > 0 => return Ok(false),
        Ok(_) | Err(Trouble::File(_)) => {}
        Err(trouble) => return Err(trouble),
    }
    asking::ask(name, commit.size, commit.digest, dialogue).await?;
    match asking::opened(commit.size, dialogue).await {
        Ok(there) => Ok(there.is_ok_and(|it| (it.offset, it.size) == (commit.size, commit.size))),
        // It may be stored by somebody who must not read it. Then it is sent again.
        Err(Trouble::File(_)) => Ok(false),
        Err(trouble) => Err(trouble),
    }
}

fn local(error: std::io::Error) -> Trouble {
    Trouble::File(unreadable(&error))
}

async fn open(
    name: &[u8],
    resume: bool,
    size: Option<u64>,
    keep: Option<Attributes>,
    dialogue: &mut Dialogue,
) -> Result<(), Trouble> {
    let name = FileName::new(name).map_err(|why| Trouble::File(why.to_string()))?;
    send(dialogue, Kind::PUT, |out| Put { resume, keep, size, name }.put(out)).await
}

async fn put_reply(dialogue: &mut Dialogue) -> Result<PutReply, Trouble> {
    let payload = accepted(dialogue.recv().await?)?;
    PutReply::parse(&payload).map_err(|_| super::unreadable(Kind::PUT))
}

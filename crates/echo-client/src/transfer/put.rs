//! `echo-client put`.

mod gather;

use std::collections::VecDeque;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use echo_core::client::Dialogue;
use echo_core::{Attributes, Commit, Digest, FileName, Kind, Put, PutReply};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::local::{Reader, unreadable};
use super::progress::Progress;
use super::{
    FRAME, SMALL, SMALL_WINDOW, Trouble, WINDOW, Work, Worker, accepted, options, skip_answers,
    sum_line,
};
use super::{joined, send, together, with_output};
use crate::args::Putting;
use crate::failure::Failure;
use crate::stdio::{self, Output};
use gather::{add, own_name};

/// Stores what the command line names.
pub(crate) async fn run(args: &Putting) -> Result<(), Failure> {
    with_output(|output| run_with(args, output)).await
}

async fn run_with(args: &Putting, output: Output) -> Result<(), Failure> {
    let asking = &args.transferring.asking;
    let quiet = asking.connecting.quiet;
    let work = Work {
        target: args.target.clone(),
        options: options(&asking.connecting, &args.target)?,
        quiet,
        items: Mutex::default(),
        progress: Progress::new(quiet || asking.json),
        failed: AtomicU64::new(0),
        of: AtomicU64::new(0),
        output,
    };
    for path in &args.paths {
        let name = match &args.name {
            Some(name) => name.clone().into_vec(),
            None => own_name(path)?,
        };
        add(&work, path, &name);
    }
    let (json, preserve) = (asking.json, args.transferring.preserve);
    let worker = || Sender { json, preserve, again: VecDeque::new(), sent: VecDeque::new() };
    together(work, args.transferring.connections.get(), worker).await
}

/// A file to be stored.
#[derive(Clone, Debug)]
struct Item {
    /// `None` is stdin.
    path: Option<PathBuf>,
    name: Vec<u8>,
    size: u64,
}

/// A small file that is sent and has no answer yet.
#[derive(Debug)]
struct Sent {
    item: Item,
    commit: Commit,
    /// Its frames.
    frames: u32,
    since: Instant,
}

struct Sender {
    json: bool,
    preserve: bool,
    /// What is to be sent again.
    again: VecDeque<Item>,
    sent: VecDeque<Sent>,
}

impl Worker<Item> for Sender {
    async fn work(
        &mut self,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
    ) -> Result<(), Trouble> {
        let again = self.sent.drain(..).map(|sent| sent.item);
        self.again.extend(again);
        loop {
            let Some(item) = self.again.pop_front().or_else(|| work.next()) else {
                while !self.sent.is_empty() {
                    self.receive(dialogue, work, alive).await?;
                }
                return Ok(());
            };
            if item.path.is_some() && item.size <= SMALL {
                self.send_small(item, dialogue, work).await?;
                while self.sent.len() >= SMALL_WINDOW {
                    self.receive(dialogue, work, alive).await?;
                }
                continue;
            }
            self.again.push_front(item.clone());
            while !self.sent.is_empty() {
                self.receive(dialogue, work, alive).await?;
            }
            let began = Instant::now();
            let stored = match &item.path {
                Some(path) => self.send_large(path, &item, dialogue, work, alive).await,
                None => self.send_stdin(&item, dialogue, work, alive).await,
            };
            match stored {
                Ok((digest, size, resumed)) => {
                    self.again.pop_front();
                    self.stored(&item, digest, size, resumed, began.elapsed(), work).await;
                }
                Err(Trouble::File(why)) => {
                    self.again.pop_front();
                    work.fail(&item.name, &why);
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn is_busy(&self) -> bool {
        !self.again.is_empty() || !self.sent.is_empty()
    }
}

impl Sender {
    /// Sends all of a small file, and does not wait.
    async fn send_small(
        &mut self,
        item: Item,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
    ) -> Result<(), Trouble> {
        let since = Instant::now();
        let path = item.path.clone().unwrap_or_default();
        let read = spawn_blocking(move || {
            let (mut reader, attributes) = Reader::open(&path)?;
            if reader.size > SMALL {
                return Err(std::io::Error::other("it became longer while it was read"));
            }
            let block = reader.read(Vec::new(), SMALL as usize)?;
            Ok((block, Digest(reader.digest.finalize().into()), attributes))
        });
        let (block, Digest(digest), attributes) = match joined(read).await? {
            Ok(read) => read,
            Err(error) => {
                work.fail(&item.name, &unreadable(&error));
                return Ok(());
            }
        };
        let size = block.len() as u64;
        let commit = Commit { digest, size };
        // The frames may be sent before the connection is known to be lost.
        let frames = if block.is_empty() { 2 } else { 3 };
        self.sent.push_back(Sent { item, commit, frames, since });
        let Some(Sent { item, .. }) = self.sent.back() else { return Ok(()) };
        self.open(&item.name, false, Some(size), attributes, dialogue).await?;
        if !block.is_empty() {
            dialogue.send(Kind::DATA, &[&block]).await?;
        }
        send(dialogue, Kind::COMMIT, |out| commit.put(out)).await
    }

    async fn open(
        &self,
        name: &[u8],
        resume: bool,
        size: Option<u64>,
        attributes: Attributes,
        dialogue: &mut Dialogue,
    ) -> Result<(), Trouble> {
        let name = FileName::new(name).map_err(|why| Trouble::File(why.to_string()))?;
        let put = Put { resume, keep: self.preserve.then_some(attributes), size, name };
        send(dialogue, Kind::PUT, |out| put.put(out)).await
    }

    /// Receives what became of the small file that was sent first.
    async fn receive(
        &mut self,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
    ) -> Result<(), Trouble> {
        let Some(Sent { frames, .. }) = self.sent.front() else { return Ok(()) };
        let mut last = Ok(Default::default());
        for _ in 0..*frames {
            last = accepted(dialogue.recv().await?);
        }
        let Some(Sent { item, commit, since, .. }) = self.sent.pop_front() else { return Ok(()) };
        *alive = Instant::now();
        match last {
            Ok(_) => {
                work.progress.done(commit.size);
                let digest = Digest(commit.digest);
                self.stored(&item, digest, commit.size, 0, since.elapsed(), work).await;
                Ok(())
            }
            Err(Trouble::File(why)) => {
                work.fail(&item.name, &why);
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Sends a file block by block, from where the server has it.
    async fn send_large(
        &self,
        path: &Path,
        item: &Item,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
    ) -> Result<(Digest, u64, u64), Trouble> {
        let local = |error: std::io::Error| Trouble::File(unreadable(&error));
        let path = path.to_owned();
        let opened = joined(spawn_blocking(move || Reader::open(&path))).await?;
        let (mut reader, attributes) = opened.map_err(local)?;
        let size = reader.size;
        self.open(&item.name, true, Some(size), attributes, dialogue).await?;
        let mut reply = put_reply(dialogue).await?;
        if reply.offset > 0 {
            let check = move || {
                let equal = reader.skip(reply.offset, &reply.prefix);
                (reader, equal)
            };
            let (checked, equal) = joined(spawn_blocking(check)).await?;
            reader = checked;
            if !equal.map_err(local)? {
                self.open(&item.name, false, Some(size), attributes, dialogue).await?;
                reply = put_reply(dialogue).await?;
            }
        }
        if reply.offset != reader.at {
            return Err(super::unreadable(Kind::PUT));
        }
        let resumed = reply.offset;
        work.progress.done(resumed);
        let sent = async {
            let max = (dialogue.session().max_frame as usize).clamp(1, FRAME);
            let (mut next, mut spare) = (read_ahead(reader, Vec::new(), max), Vec::new());
            loop {
                let (reader, block) = joined(next).await?;
                let block = block.map_err(local)?;
                if block.is_empty() {
                    let digest = Digest(reader.digest.finalize().into());
                    return Ok((digest, reader.at, resumed));
                }
                next = read_ahead(reader, spare, max);
                dialogue.send(Kind::DATA, &[&block]).await?;
                while dialogue.unanswered() >= WINDOW {
                    accepted(dialogue.recv().await?)?;
                    *alive = Instant::now();
                }
                work.progress.done(block.len() as u64);
                spare = block;
            }
        };
        let sent = sent.await;
        self.end(sent, dialogue, work, alive, item).await
    }

    /// Sends stdin, once: it cannot be read again.
    async fn send_stdin(
        &self,
        item: &Item,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
    ) -> Result<(Digest, u64, u64), Trouble> {
        self.open(&item.name, false, None, Attributes::default(), dialogue).await?;
        put_reply(dialogue).await?;
        let start = |error| Trouble::All(Failure::local("cannot start", &error));
        let mut input = stdio::read_stdin().map_err(start)?;
        let (mut digest, mut size) = (Sha256::new(), 0);
        let sent = async {
            let max = (dialogue.session().max_frame as usize).max(1);
            while let Some(chunk) = input.recv().await {
                let chunk = chunk
                    .map_err(|error| Trouble::All(Failure::local("cannot read stdin", &error)))?;
                digest.update(&chunk);
                size += chunk.len() as u64;
                for part in chunk.chunks(max) {
                    dialogue.send(Kind::DATA, &[part]).await?;
                }
                dialogue.flush().await?;
                while dialogue.unanswered() >= WINDOW {
                    accepted(dialogue.recv().await?)?;
                    *alive = Instant::now();
                }
                work.progress.expect(chunk.len() as u64);
                work.progress.done(chunk.len() as u64);
            }
            Ok((Digest(digest.finalize().into()), size, 0))
        };
        let sent = sent.await;
        self.end(sent, dialogue, work, alive, item).await.map_err(|trouble| match trouble {
            Trouble::Lost(error) => Trouble::All(error.into()),
            trouble => trouble,
        })
    }

    /// Ends an upload, whose frames are all sent, or which has failed.
    async fn end(
        &self,
        sent: Result<(Digest, u64, u64), Trouble>,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
        item: &Item,
    ) -> Result<(Digest, u64, u64), Trouble> {
        let ended = async {
            let (digest, size, resumed) = match sent {
                Ok(sent) => sent,
                Err(trouble @ Trouble::File(_)) => {
                    skip_answers(dialogue).await?;
                    return Err(trouble);
                }
                Err(trouble) => return Err(trouble),
            };
            send(dialogue, Kind::COMMIT, |out| Commit { digest: digest.0, size }.put(out)).await?;
            let mut last = Ok(Default::default());
            while dialogue.unanswered() > 0 {
                last = accepted(dialogue.recv().await?);
                *alive = Instant::now();
            }
            match Digest::parse(&last?) {
                Ok(stored) if stored == digest => Ok((digest, size, resumed)),
                _ => Err(super::unreadable(Kind::COMMIT)),
            }
        };
        let ended = ended.await;
        if ended.is_err() {
            work.progress.undo(item.size);
        }
        ended
    }

    async fn stored(
        &self,
        item: &Item,
        digest: Digest,
        size: u64,
        resumed: u64,
        took: Duration,
        work: &Work<Item>,
    ) {
        let line = if self.json {
            let name = String::from_utf8_lossy(&item.name);
            let object = json!({
                "name": name,
                "sha256": digest.to_string(),
                "bytes": size,
                "resumed_at": resumed,
                "seconds": took.as_secs_f64(),
            });
            format!("{object}\n")
        } else {
            sum_line(digest, &item.name)
        };
        work.print(line).await;
    }
}

fn read_ahead(
    mut reader: Reader,
    block: Vec<u8>,
    len: usize,
) -> JoinHandle<(Reader, std::io::Result<Vec<u8>>)> {
    spawn_blocking(move || {
        let block = reader.read(block, len);
        (reader, block)
    })
}

async fn put_reply(dialogue: &mut Dialogue) -> Result<PutReply, Trouble> {
    let payload = accepted(dialogue.recv().await?)?;
    PutReply::parse(&payload).map_err(|_| super::unreadable(Kind::PUT))
}

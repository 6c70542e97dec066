//! `echo-client get`.

mod asking;
mod find;

use std::collections::VecDeque;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use echo_core::client::Dialogue;
use echo_core::{Attributes, Digest, FileName, GetReply, Kind, Read};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::local::{Fetched, unwritable};
use super::progress::Progress;
use super::{SMALL, SMALL_WINDOW, Trouble, Work, Worker, accepted, options, skip_answers};
use super::{joined, send, together, with_output};
use crate::args::Getting;
use crate::escape::escape_bytes;
use crate::failure::Failure;
use crate::stdio::{self, Output};
use asking::{Stream, ask, done, opened};
use find::{Place, find};

/// Fetches what the command line names.
pub(crate) async fn run(args: &Getting) -> Result<(), Failure> {
    with_output(|output| run_with(args, output)).await
}

async fn run_with(args: &Getting, output: Output) -> Result<(), Failure> {
    let asking = &args.transferring.asking;
    let quiet = asking.connecting.quiet;
    let to_stdout = args.output.as_ref().is_some_and(|path| path.as_os_str() == "-");
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
    for name in &args.names {
        let bytes = name.clone().into_vec();
        let bytes = bytes.strip_suffix(b"/").unwrap_or(&bytes).to_vec();
        if let Err(why) = FileName::new(&bytes) {
            return Err(Failure::Local(format!("{}: no file's name: {why}", escape_bytes(&bytes))));
        }
        if to_stdout {
            work.add([Item { name: bytes, place: None, size: None }]);
        } else {
            find(args, &bytes, &work).await?;
        }
    }
    let (json, preserve) = (asking.json && !to_stdout, args.transferring.preserve);
    let worker = || Fetcher { json, preserve, again: VecDeque::new(), asked: VecDeque::new() };
    together(work, args.transferring.connections.get(), worker).await
}

/// A file to be fetched.
#[derive(Clone, Debug)]
struct Item {
    name: Vec<u8>,
    /// `None` is stdout.
    place: Option<Place>,
    /// As a list told.
    size: Option<u64>,
}

struct Fetcher {
    json: bool,
    preserve: bool,
    /// What is to be asked for again.
    again: VecDeque<Item>,
    /// Small files that are asked for, and have no answer yet.
    asked: VecDeque<Item>,
}

impl Worker<Item> for Fetcher {
    async fn work(
        &mut self,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
    ) -> Result<(), Trouble> {
        let asked = std::mem::take(&mut self.asked);
        self.again.extend(asked);
        loop {
            let Some(item) = self.again.pop_front().or_else(|| work.next()) else {
                while !self.asked.is_empty() {
                    self.receive_small(dialogue, work, alive).await?;
                }
                return Ok(());
            };
            if item.place.is_some() && item.size.is_some_and(|size| size <= SMALL) {
                self.asked.push_back(item.clone());
                ask(&item.name, 0, [0; 32], dialogue).await?;
                let len = small(dialogue);
                send(dialogue, Kind::READ, |out| Read { len }.put(out)).await?;
                send(dialogue, Kind::DONE, |_| {}).await?;
                while self.asked.len() >= SMALL_WINDOW {
                    self.receive_small(dialogue, work, alive).await?;
                }
                continue;
            }
            self.again.push_front(item.clone());
            while !self.asked.is_empty() {
                self.receive_small(dialogue, work, alive).await?;
            }
            let fetched = match &item.place {
                Some(place) => self.fetch(&item, place, dialogue, work, alive).await,
                None => self.print(&item, dialogue, work, alive).await,
            };
            match fetched {
                Ok(()) => {
                    self.again.pop_front();
                }
                Err(Trouble::File(why)) => {
                    self.again.pop_front();
                    skip_answers(dialogue).await?;
                    work.fail(&item.name, &why);
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn is_busy(&self) -> bool {
        !self.again.is_empty() || !self.asked.is_empty()
    }
}

/// What is asked for of a small file.
fn small(dialogue: &Dialogue) -> u32 {
    dialogue.session().max_frame.min(SMALL as u32)
}

impl Fetcher {
    async fn receive_small(
        &mut self,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
    ) -> Result<(), Trouble> {
        let (opened, read, done) =
            (dialogue.recv().await?, dialogue.recv().await?, dialogue.recv().await?);
        *alive = Instant::now();
        let Some(item) = self.asked.pop_front() else { return Ok(()) };
        let judged = (|| {
            let reply =
                GetReply::parse(&accepted(opened)?).map_err(|_| super::unreadable(Kind::GET))?;
            let data = accepted(read)?;
            if reply.offset != 0 || data.len() as u64 != reply.size.min(small(dialogue).into()) {
                return Err(Trouble::File(
                    "the server sent another size than it announced".to_owned(),
                ));
            }
            if reply.size > data.len() as u64 {
                // It has grown since it was listed.
                return Ok(None);
            }
            let told =
                Digest::parse(&accepted(done)?).map_err(|_| super::unreadable(Kind::DONE))?;
            Ok(Some((reply.attributes, data, told)))
        })();
        let written = match judged {
            Ok(Some((attributes, data, told))) => {
                self.write_small(&item, attributes, data, told).await
            }
            Ok(None) => {
                self.again.push_back(Item { size: None, ..item });
                return Ok(());
            }
            Err(trouble) => Err(trouble),
        };
        match written {
            Ok((digest, size)) => {
                work.progress.done(size);
                self.fetched(&item, digest, size, 0, work).await;
                Ok(())
            }
            Err(Trouble::File(why)) => {
                work.fail(&item.name, &why);
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }

    async fn write_small(
        &self,
        item: &Item,
        attributes: Attributes,
        data: Bytes,
        told: Digest,
    ) -> Result<(Digest, u64), Trouble> {
        let Some(place) = item.place.clone() else {
            return Err(Trouble::File("it has no place".to_owned()));
        };
        let keep = self.preserve.then_some(attributes);
        let write = move || {
            let digest = Digest(Sha256::digest(&data).into());
            if digest != told {
                return Err(different());
            }
            let write = || {
                let mut fetched = Fetched::open(&place.root, &place.name)?;
                if fetched.len > 0 {
                    fetched.clear()?;
                }
                fetched.append(&data)?;
                fetched.appear(keep)
            };
            write().map_err(|error: io::Error| Trouble::File(unwritable(&error)))?;
            Ok((digest, data.len() as u64))
        };
        joined(spawn_blocking(write)).await?
    }

    /// Fetches a file block by block, behind what is there of it.
    async fn fetch(
        &self,
        item: &Item,
        place: &Place,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
    ) -> Result<(), Trouble> {
        let unwritable = |error: io::Error| Trouble::File(unwritable(&error));
        let here = place.clone();
        let open = move || Fetched::open(&here.root, &here.name);
        let mut file = joined(spawn_blocking(open)).await?.map_err(unwritable)?;
        ask(&item.name, file.len, file.digest.clone().finalize().into(), dialogue).await?;
        let reply = match opened(dialogue).await {
            Err(trouble @ Trouble::File(_)) => {
                if file.len == 0 {
                    file.discard();
                }
                return Err(trouble);
            }
            reply => reply?,
        };
        if reply.offset != file.len {
            if reply.offset != 0 {
                return Err(super::unreadable(Kind::GET));
            }
            file.clear().map_err(unwritable)?;
        }
        let resumed = reply.offset;
        if item.size.is_none() {
            work.progress.expect(reply.size);
        }
        work.progress.done(resumed);
        let mut stream = Stream::new(&reply, dialogue)?;
        let mut writing = spawn_blocking(move || (file, Ok(())));
        while let Some(data) = stream.next(dialogue).await? {
            *alive = Instant::now();
            work.progress.done(data.len() as u64);
            // What came before was written while this came.
            let (mut file, written) = joined::<(Fetched, io::Result<()>)>(writing).await?;
            written.map_err(unwritable)?;
            writing = spawn_blocking(move || {
                let written = file.append(&data);
                (file, written)
            });
        }
        let (file, written) = joined(writing).await?;
        written.map_err(unwritable)?;
        let told = done(dialogue).await?;
        let digest = Digest(file.digest.clone().finalize().into());
        let size = file.len;
        if digest != told || size != reply.size {
            file.discard();
            return Err(different());
        }
        let keep = self.preserve.then_some(reply.attributes);
        let appear = move || file.appear(keep);
        joined(spawn_blocking(appear)).await?.map_err(unwritable)?;
        self.fetched(item, digest, size, resumed, work).await;
        Ok(())
    }

    /// Prints a file. What is lost is asked for behind what was printed.
    async fn print(
        &self,
        item: &Item,
        dialogue: &mut Dialogue,
        work: &Work<Item>,
        alive: &mut Instant,
    ) -> Result<(), Trouble> {
        ask(&item.name, 0, [0; 32], dialogue).await?;
        let reply = opened(dialogue).await?;
        work.progress.expect(reply.size);
        let mut stream = Stream::new(&reply, dialogue)?;
        let (mut digest, mut printed) = (Sha256::new(), false);
        let copied = async {
            while let Some(data) = stream.next(dialogue).await? {
                *alive = Instant::now();
                digest.update(&data);
                printed = true;
                if !stdio::write_line(&work.output, &data).await {
                    // Whoever reads it has seen enough; it is said if there was another reason.
                    return Ok(());
                }
                work.progress.done(data.len() as u64);
            }
            if Digest(digest.finalize().into()) != done(dialogue).await? {
                return Err(different());
            }
            Ok(())
        };
        let copied = copied.await;
        match copied {
            // It would be printed twice.
            Err(Trouble::Lost(error)) if printed => Err(Trouble::All(error.into())),
            copied => copied,
        }
    }

    async fn fetched(
        &self,
        item: &Item,
        digest: Digest,
        size: u64,
        resumed: u64,
        work: &Work<Item>,
    ) {
        if !self.json {
            return;
        }
        let object = json!({
            "name": String::from_utf8_lossy(&item.name),
            "sha256": digest.to_string(),
            "bytes": size,
            "resumed_at": resumed,
        });
        work.print(format!("{object}\n")).await;
    }
}

fn different() -> Trouble {
    Trouble::File("different: what came has another SHA-256 than the server's file".to_owned())
}

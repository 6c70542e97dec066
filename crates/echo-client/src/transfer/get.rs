//! `echo-client get`.

pub(super) mod asking;
mod find;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use echo_core::client::{Dialogue, Error};
use echo_core::{Attributes, Digest, GetReply, Kind, Read};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::local::{Fetched, unwritable};
use super::patience::Patience;
use super::progress::Meter;
use super::report::{Deed, Done, Report};
use super::work::{self, Transfer, Work};
use super::{SMALL, Trouble, accepted, frame, joined, options, send, with_output};
use crate::args::Getting;
use crate::failure::Failure;
use crate::stdio::{self, Output};
use asking::{Stream, ask, done, opened};
use find::{Finder, Missing, Place};
use tokio::sync::mpsc::UnboundedSender;

/// Fetches what the command line names.
pub(crate) async fn run(args: &Getting) -> Result<(), Failure> {
    with_output(args.transferring.asking.json, |output| run_with(args, output)).await
}

async fn run_with(args: &Getting, output: Output) -> Result<(), Failure> {
    let asking = &args.transferring.asking;
    let options = options(&asking.connecting, &args.target)?;
    let mut wanted = Vec::new();
    for name in args.wanted() {
        let place = match args.to_stdout() {
            true => None,
            false => Some(Place::of(name, args.output.as_deref())?),
        };
        wanted.push((name.to_vec(), place));
    }
    let report = Report::new(asking.json, asking.connecting.quiet, output.clone());
    let report = Arc::new(report);
    let preserve = args.transferring.preserve;
    let connections = args.transferring.connections;
    let frame = frame(connections);
    let fetcher = || Fetcher { preserve, frame, stdout: output.clone(), kept: None };
    let finder = Finder::new(&args.target, options.clone(), Arc::clone(&report), wanted);
    let work = Work::new(&args.target, options, report, finder);
    work.run(connections, fetcher).await
}

/// A file to be fetched.
#[derive(Clone, Debug)]
struct Item {
    name: Vec<u8>,
    /// `None` is stdout.
    place: Option<Place>,
    /// As a list told.
    size: Option<u64>,
    /// Who is to know if this is no file: it may be a folder.
    otherwise: Option<UnboundedSender<Missing>>,
}

impl work::Item for Item {
    fn name(&self) -> &[u8] {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size.unwrap_or_default()
    }
}

struct Fetcher {
    preserve: bool,
    /// Bytes of a frame.
    frame: usize,
    stdout: Output,
    /// What there is of a file whose connection was lost.
    kept: Option<(Vec<u8>, Fetched)>,
}

impl Transfer for Fetcher {
    type Item = Item;
    type Source = Finder;
    type Small = Place;
    const DEED: Deed = Deed::Got;

    async fn begin(
        &mut self,
        item: &Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
    ) -> Result<Option<Place>, Trouble> {
        let small = item.size.filter(|size| *size <= SMALL);
        let (Some(place), Some(size)) = (item.place.clone(), small) else { return Ok(None) };
        meter.open(0, Some(size));
        ask(&item.name, 0, [0; 32], dialogue).await?;
        let len = most(dialogue);
        send(dialogue, Kind::READ, |out| Read { len }.put(out)).await?;
        send(dialogue, Kind::DONE, |_| {}).await?;
        Ok(Some(place))
    }

    async fn end(
        &mut self,
        _: &Item,
        place: &Place,
        dialogue: &mut Dialogue,
        meter: &Meter,
    ) -> Result<Option<Done>, Trouble> {
        let (opened, read, done) =
            (dialogue.recv().await?, dialogue.recv().await?, dialogue.recv().await?);
        let reply =
            GetReply::parse(&accepted(opened)?).map_err(|_| super::unreadable(Kind::GET))?;
        let data = accepted(read)?;
        meter.moved(data.len() as u64);
        if reply.offset != 0 || data.len() as u64 != reply.size.min(most(dialogue).into()) {
            let text = "the server sent another size than it announced";
            return Err(Trouble::File(text.to_owned()));
        }
        if reply.size > data.len() as u64 {
            // It has grown since it was listed.
            return Ok(None);
        }
        let told = Digest::parse(&accepted(done)?).map_err(|_| super::unreadable(Kind::DONE))?;
        self.write_small(place.clone(), reply.attributes, data, told).await.map(Some)
    }

    async fn whole(
        &mut self,
        item: &Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
        patience: &mut Patience,
    ) -> Result<Option<Done>, Trouble> {
        match &item.place {
            Some(place) => self.fetch(item, place, dialogue, meter, patience).await,
            None => self.print(item, dialogue, meter, patience).await.map(Some),
        }
    }
}

/// What is asked for of a small file.
fn most(dialogue: &Dialogue) -> u32 {
    dialogue.session().max_frame.min(SMALL as u32)
}

impl Fetcher {
    async fn write_small(
        &self,
        place: Place,
        attributes: Attributes,
        data: Bytes,
        told: Digest,
    ) -> Result<Done, Trouble> {
        let keep = self.preserve.then_some(attributes);
        let write = move || {
            let digest = Digest(Sha256::digest(&data).into());
            if digest != told {
                return Err(different());
            }
            let write = || {
                let mut fetched = Fetched::open(&place.root, &place.name)?;
                fetched.check()?;
                if fetched.len > 0 {
                    fetched.clear()?;
                }
                fetched.append(&data)?;
                fetched.appear(keep)
            };
            write().map_err(|error: io::Error| Trouble::File(unwritable(&error)))?;
            Ok(Done { digest, size: data.len() as u64 })
        };
        joined(spawn_blocking(write)).await?
    }

    /// Opens what is there of a file, and digests it, unless the connection before has.
    async fn open(
        &mut self,
        item: &Item,
        place: &Place,
        patience: &mut Patience,
    ) -> Result<Fetched, Trouble> {
        if let Some((name, file)) = self.kept.take()
            && name == item.name
        {
            return Ok(file);
        }
        let (here, began) = (place.clone(), Instant::now());
        let open = move || Fetched::open(&here.root, &here.name);
        let file = joined(spawn_blocking(open)).await?;
        // That this takes long is not the server's fault.
        patience.excuse(began);
        file.map_err(|error| Trouble::File(unwritable(&error)))
    }

    /// Opens a file here and there, behind what both have; `None` if it is none there, which is told to whom it
    /// concerns.
    async fn open_both(
        &mut self,
        item: &Item,
        place: &Place,
        dialogue: &mut Dialogue,
        patience: &mut Patience,
    ) -> Result<Option<(Fetched, GetReply)>, Trouble> {
        let file = self.open(item, place, patience).await?;
        let opened = async {
            ask(&item.name, file.len, file.digest.clone().finalize().into(), dialogue).await?;
            opened(file.len, dialogue).await
        };
        match opened.await {
            Ok(Ok(reply)) => begin(file, reply).await.map(Some),
            Err(trouble @ (Trouble::Lost(_) | Trouble::Busy(_))) => {
                self.kept = Some((item.name.clone(), file));
                Err(trouble)
            }
            Err(trouble) => {
                leave(file).await?;
                Err(trouble)
            }
            Ok(Err(why)) => {
                leave(file).await?;
                let Some(otherwise) = &item.otherwise else { return Err(Trouble::File(why)) };
                let (name, place) = (item.name.clone(), place.clone());
                // Who would hear it ends only after this.
                let _ = otherwise.send(Missing { name, place, why });
                Ok(None)
            }
        }
    }

    /// Fetches a file block by block, behind what is there of it.
    async fn fetch(
        &mut self,
        item: &Item,
        place: &Place,
        dialogue: &mut Dialogue,
        meter: &Meter,
        patience: &mut Patience,
    ) -> Result<Option<Done>, Trouble> {
        let Some((file, reply)) = self.open_both(item, place, dialogue, patience).await? else {
            return Ok(None);
        };
        meter.open(reply.offset, Some(reply.size));
        let stream = Stream::new(&reply, self.frame, dialogue)?;
        let (file, came) = copy(file, stream, reply.offset, dialogue, meter, patience).await?;
        if let Err(Trouble::Lost(_)) = came {
            self.kept = Some((item.name.clone(), file));
            return came.map(|()| None);
        }
        came?;
        let told = done(dialogue).await?;
        let digest = Digest(file.digest.clone().finalize().into());
        let size = file.len;
        if digest != told || size != reply.size {
            discard(file).await?;
            return Err(different());
        }
        let keep = self.preserve.then_some(reply.attributes);
        let appear = move || file.appear(keep);
        let appeared = joined(spawn_blocking(appear)).await?;
        appeared.map_err(|error| Trouble::File(unwritable(&error)))?;
        Ok(Some(Done { digest, size }))
    }

    /// Prints a file. What is lost is asked for behind what was printed.
    async fn print(
        &self,
        item: &Item,
        dialogue: &mut Dialogue,
        meter: &Meter,
        patience: &mut Patience,
    ) -> Result<Done, Trouble> {
        ask(&item.name, 0, [0; 32], dialogue).await?;
        let reply = opened(0, dialogue).await?.map_err(Trouble::File)?;
        meter.open(0, Some(reply.size));
        let mut stream = Stream::new(&reply, self.frame, dialogue)?;
        let (mut digest, mut size) = (Sha256::new(), 0);
        let copied = async {
            while let Some(data) = stream.next(dialogue).await? {
                patience.reached(size + data.len() as u64);
                meter.moved(data.len() as u64);
                if !stdio::write_line(&self.stdout, &data).await {
                    // Whoever reads it has seen enough; it is said if there was another reason.
                    return Ok(Digest(digest.finalize().into()));
                }
                digest.update(&data);
                size += data.len() as u64;
            }
            let digest = Digest(digest.finalize().into());
            if digest != done(dialogue).await? { Err(different()) } else { Ok(digest) }
        };
        match copied.await {
            Ok(digest) => Ok(Done { digest, size }),
            // It would be printed twice.
            Err(Trouble::Lost(error)) if size > 0 => Err(Trouble::All(error.into())),
            Err(Trouble::Busy(why)) if size > 0 => Err(Trouble::All(Error::Rejected(why).into())),
            Err(trouble) => Err(trouble),
        }
    }
}

/// Goes on with what is here of a file, or anew, as the server says.
async fn begin(mut file: Fetched, reply: GetReply) -> Result<(Fetched, GetReply), Trouble> {
    if reply.offset != 0 && reply.offset != file.len {
        return Err(super::unreadable(Kind::GET));
    }
    let begin = move || file.begin(reply.offset, reply.size).map(|()| file);
    let begun = joined(spawn_blocking(begin)).await?;
    Ok((begun.map_err(|error| Trouble::File(unwritable(&error)))?, reply))
}

/// Leaves what is here of a file that is not to be had now, if there is anything of it.
async fn leave(file: Fetched) -> Result<(), Trouble> {
    joined(spawn_blocking(move || drop(file))).await
}

/// Copies what comes to its end, or to what hinders it: then what came before is written all the same.
async fn copy(
    file: Fetched,
    mut stream: Stream,
    mut at: u64,
    dialogue: &mut Dialogue,
    meter: &Meter,
    patience: &mut Patience,
) -> Result<(Fetched, Result<(), Trouble>), Trouble> {
    let unwritable = |error: io::Error| Trouble::File(unwritable(&error));
    let mut writing = spawn_blocking(move || (file, Ok(())));
    let came = loop {
        let data = match stream.next(dialogue).await {
            Ok(Some(data)) => data,
            Ok(None) => break Ok(()),
            Err(trouble) => break Err(trouble),
        };
        at += data.len() as u64;
        patience.reached(at);
        meter.moved(data.len() as u64);
        // What came before was written while this came.
        let (mut file, written) = joined::<(Fetched, io::Result<()>)>(writing).await?;
        written.map_err(unwritable)?;
        writing = spawn_blocking(move || {
            let written = file.append(&data);
            (file, written)
        });
    };
    // Also after a loss: the next connection goes on with the file, and has to have it for itself.
    let (file, written) = joined(writing).await?;
    written.map_err(unwritable)?;
    Ok((file, came))
}

async fn discard(mut file: Fetched) -> Result<(), Trouble> {
    joined(spawn_blocking(move || file.discard())).await
}

fn different() -> Trouble {
    Trouble::File("different: what came has another SHA-256 than the server's file".to_owned())
}

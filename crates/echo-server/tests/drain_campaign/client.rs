//! One connection of the campaign: a thread that sends as its behaviour says, and one that checks
//! every byte that comes back.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::channel::{Channel, Trust};
use crate::script::{Item, Script, Speech};
use crate::support::PATIENCE;
use crate::support::traffic::{End, Frame, GOAWAY, be};

/// What a connection does while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// A burst, all its replies, perhaps a pause, and again.
    Bursts,
    /// Sends without a pause.
    Flood,
    /// Sends byte by byte.
    Bytewise,
    /// Sends a burst and FIN.
    HalfClosed,
    /// Says one thing at most.
    Idle,
    /// Sends and reads nothing before the drain; when stuck, never.
    Deaf,
    /// Is inside a frame when the drain comes, and finishes it then; when stuck, never.
    MidFrame,
    /// Is inside a header when the drain comes.
    MidHeader,
}

/// What one connection is to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) behaviour: Behaviour,
    pub(crate) speech: Speech,
    pub(crate) uri: String,
    pub(crate) seed: u64,
    /// Whether it keeps the server from ending before the deadline.
    pub(crate) stuck: bool,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Bytes handed to the kernel.
    pub(crate) sent: u64,
    /// Of them, those whose items have been answered whole.
    pub(crate) confirmed: u64,
    /// Bytes of which the server must answer all that has not been cut by a reset.
    pub(crate) due: u64,
    /// The connection has done all it does before the drain.
    pub(crate) parked: bool,
    writer_done: bool,
    reader_done: bool,
}

/// What a connection received.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Items that were answered whole; of a raw stream, bytes.
    pub(crate) answers: u64,
    /// Whether the stream ended inside a frame.
    pub(crate) cut: bool,
    pub(crate) goaway: Option<(u16, u64)>,
    pub(crate) end: End,
}

/// What all connections of a run share.
#[derive(Default)]
pub(crate) struct Stage {
    /// Answers that came, over all connections.
    pub(crate) answers: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) draining: Watched<bool>,
}

/// A value that threads wait for.
#[derive(Default)]
pub(crate) struct Watched<T>(Mutex<T>, Condvar);

impl<T: Copy> Watched<T> {
    pub(crate) fn get(&self) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.1.notify_all();
    }

    fn wait_until(&self, done: impl Fn(&T) -> bool) {
        let value = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.1.wait_timeout_while(value, PATIENCE, |value| !done(value));
        let timed_out = waited.map(|(_, waited)| waited.timed_out()).unwrap_or(false);
        assert!(!timed_out, "nothing happened within {PATIENCE:?}");
    }
}

/// An open connection and its script.
pub(crate) struct Connection<'a> {
    pub(crate) plan: Plan,
    pub(crate) peer: Channel,
    pub(crate) script: Script<'a>,
    pub(crate) progress: Watched<Progress>,
    stage: &'a Stage,
}

impl<'a> Connection<'a> {
    /// Connects, under TLS where there is somebody to trust.
    pub(crate) fn open(
        plan: Plan,
        trust: Option<&Trust>,
        script: Script<'a>,
        stage: &'a Stage,
    ) -> Self {
        Self::over(Channel::connect(&plan.uri, trust), plan, script, stage)
    }

    pub(crate) fn over(peer: Channel, plan: Plan, script: Script<'a>, stage: &'a Stage) -> Self {
        Self { plan, peer, script, progress: Watched::default(), stage }
    }

    /// Whether it has done what it does before the drain.
    pub(crate) fn is_ready(&self) -> bool {
        let parks = [Behaviour::Idle, Behaviour::MidFrame, Behaviour::MidHeader];
        !parks.contains(&self.plan.behaviour) || self.progress.get().parked
    }

    /// Sends. An error is the server's end of the connection, which the reader judges.
    pub(crate) fn write(&self) {
        let mut random = fastrand::Rng::with_seed(self.plan.seed);
        let _ = match self.plan.behaviour {
            Behaviour::Bursts => self.bursts(&mut random),
            Behaviour::Flood | Behaviour::Deaf => self.flood(),
            Behaviour::Bytewise => self.bytewise(),
            Behaviour::HalfClosed => self.half_closed(&mut random),
            Behaviour::Idle => self.idle(&mut random),
            Behaviour::MidFrame => self.mid_frame(&mut random),
            Behaviour::MidHeader => self.mid_header(&mut random),
        };
        self.progress.update(|progress| progress.writer_done = true);
    }

    /// Reads to the end and checks all of it; `Err` is a defect.
    pub(crate) fn read(&self) -> Result<Outcome, String> {
        match self.plan.behaviour {
            Behaviour::Deaf if self.plan.stuck => {
                self.progress.wait_until(|progress| progress.writer_done);
            }
            Behaviour::Deaf => self.stage.draining.wait_until(|draining| *draining),
            Behaviour::HalfClosed if self.plan.seed.is_multiple_of(2) => {
                self.stage.draining.wait_until(|draining| *draining);
            }
            _ => {}
        }
        let outcome = match self.script.speech {
            Speech::Raw => self.read_raw(),
            Speech::Echo | Speech::Hello => self.read_frames(),
        };
        // As a client should: close when the server has. This ends the writer too.
        self.peer.close();
        self.progress.update(|progress| progress.reader_done = true);
        outcome
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(64 << 10) {
            self.peer.try_send(piece)?;
            self.progress.update(|progress| progress.sent += piece.len() as u64);
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        !self.progress.get().reader_done
    }

    fn park(&self) {
        self.progress.update(|progress| progress.parked = true);
    }

    fn bursts(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        let mut items = 0_u64..;
        while self.is_open() {
            self.put(&self.requests(items.by_ref().take(random.usize(1..=64))))?;
            self.progress.wait_until(|now| now.confirmed == now.sent || now.reader_done);
            if random.u8(..4) == 0 {
                thread::sleep(Duration::from_micros(random.u64(..3000)));
            }
        }
        Ok(())
    }

    fn flood(&self) -> io::Result<()> {
        let mut items = 0_u64..;
        while self.is_open() {
            self.put(&self.requests(items.by_ref().take(128)))?;
        }
        Ok(())
    }

    /// Each byte is a send of its own, but for the rest of a long item.
    fn bytewise(&self) -> io::Result<()> {
        for item in (0_u64..).take_while(|_| self.is_open()) {
            let request = self.requests(item..=item);
            let (single, rest) = request.split_at(request.len().min(300));
            single.iter().try_for_each(|byte| self.put(&[*byte]))?;
            self.put(rest)?;
        }
        Ok(())
    }

    fn half_closed(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        self.put(&self.requests(0..random.u64(1..1000)))?;
        self.peer.half_close()
    }

    fn idle(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        let said = self.put(&self.requests(0..random.u64(..2)));
        self.park();
        said
    }

    fn mid_frame(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        // A header and at least two bytes.
        let whole = random.u64(..20);
        let cut = (whole..).find(|item| self.script.request_len(*item) >= 6).unwrap_or(whole);
        let request = self.requests(cut..=cut);
        let (begun, rest) = request.split_at(random.usize(4..request.len()));
        self.put(&[&self.requests(0..cut)[..], begun].concat())?;
        self.park();
        self.stage.draining.wait_until(|draining| *draining);
        if self.plan.stuck {
            self.progress.wait_until(|progress| progress.reader_done);
            return Ok(());
        }
        thread::sleep(Duration::from_micros(random.u64(..30_000)));
        self.progress.update(|progress| progress.due = progress.sent + rest.len() as u64);
        self.put(rest)?;
        // Too late, unless the drain has not come to this connection yet.
        self.put(&self.requests(cut + 1..cut + 3))
    }

    fn mid_header(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        let whole = random.u64(..20);
        let cut = &self.requests(whole..=whole)[..random.usize(1..4)];
        self.put(&[&self.requests(0..whole)[..], cut].concat())?;
        self.park();
        Ok(())
    }

    fn requests(&self, items: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        items.into_iter().for_each(|item| self.script.request(item, &mut bytes));
        bytes
    }

    fn publish(&self, answers: u64, read: usize, confirmed: u64) {
        self.stage.answers.fetch_add(answers, Relaxed);
        self.stage.bytes.fetch_add(read as u64, Relaxed);
        self.progress.update(|progress| progress.confirmed = confirmed);
    }

    fn read_raw(&self) -> Result<Outcome, String> {
        let (mut buffer, mut want, mut matched) = (vec![0; 64 << 10], Vec::new(), 0);
        let (mut item, mut answers) = (0, 0);
        let end = loop {
            let read = match self.peer.read(&mut buffer) {
                Ok(0) => break End::Fin,
                Ok(read) => read,
                Err(end) => break end,
            };
            want.drain(..matched);
            while want.len() < read {
                self.script.request(item, &mut want);
                item += 1;
            }
            if want[..read] != buffer[..read] {
                let at = want.iter().zip(&buffer).take_while(|(want, got)| want == got).count();
                return Err(format!("the raw stream differs at byte {}", answers + at as u64));
            }
            matched = read;
            answers += read as u64;
            self.publish(0, read, answers);
        };
        Ok(Outcome { answers, cut: false, goaway: None, end })
    }

    fn read_frames(&self) -> Result<Outcome, String> {
        let (mut buffer, mut inbox, mut scratch) = (vec![0; 64 << 10], Vec::new(), Vec::new());
        let mut outcome = Outcome { answers: 0, cut: false, goaway: None, end: End::Fin };
        let mut confirmed = 0;
        loop {
            let read = match self.peer.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(end) => {
                    outcome.end = end;
                    break;
                }
            };
            inbox.extend_from_slice(&buffer[..read]);
            let (mut rest, before) = (&inbox[..], outcome.answers);
            while let Some((kind, payload, after)) = split(rest) {
                rest = after;
                if outcome.goaway.is_some() {
                    return Err(format!("kind {kind:#04x} after GOAWAY"));
                } else if kind == GOAWAY && self.script.speech == Speech::Hello {
                    let goaway = Frame { kind, payload: payload.to_vec() };
                    outcome.goaway = Some(goaway.goaway());
                } else {
                    self.script.check(outcome.answers, kind, payload, &mut scratch)?;
                    confirmed += self.script.request_len(outcome.answers);
                    outcome.answers += 1;
                }
            }
            let used = inbox.len() - rest.len();
            inbox.drain(..used);
            self.publish(outcome.answers - before, read, confirmed);
        }
        self.check_cut(&mut outcome, &inbox)?;
        Ok(outcome)
    }

    /// What is left at the end is the start of the next answer, or nothing.
    fn check_cut(&self, outcome: &mut Outcome, rest: &[u8]) -> Result<(), String> {
        outcome.cut = !rest.is_empty();
        if outcome.cut && outcome.goaway.is_some() {
            return Err(format!("{} bytes after GOAWAY", rest.len()));
        }
        let next = outcome.answers;
        let right = !matches!(self.script.item(next), Item::Echo(_))
            || self.requests(next..=next).starts_with(rest);
        right.then_some(()).ok_or_else(|| format!("the cut reply {next} has wrong bytes"))
    }
}

/// The whole frame at the start of `bytes`, and what follows it.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let (payload, after) = rest.split_at_checked(be(&head[1..]) as usize)?;
    Some((head[0], payload, after))
}

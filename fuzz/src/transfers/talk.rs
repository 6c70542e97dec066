//! A client that does what a script says.

use std::sync::Arc;

use echo_core::{
    Attributes, AuthReply, AuthRequest, Commit, Connector, ErrorFrame, FileName, Get, HEADER_LEN,
    Header, Kind, List, Put, Read, Remove,
};
use echo_scram::{Binding, Client};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Duration, sleep};

use super::model::Model;
use crate::exchange::{CREDENTIALS, change};
use crate::input::Input;

/// Names that get into each other's way.
const NAMES: [&str; 8] = ["a", "b", "c/d", "c/e", "a/x", "c", "f", ".echo-server/lock"];

/// In which every frame has its answer, the slowed ones too.
const ANSWER: Duration = Duration::from_secs(60);

/// Longer scripts tell nothing new.
const STEPS: usize = 200;

pub(super) struct Talk {
    connector: Connector,
    stream: Option<DuplexStream>,
    model: Model,
}

impl Talk {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, stream: None, model: Model::default() }
    }

    pub(super) async fn play(&mut self, input: &mut Input<'_>) {
        for _ in 0..STEPS {
            if input.is_empty() {
                return;
            }
            self.step(input).await;
        }
    }

    /// Goes, and says what is known of the store.
    pub(super) async fn end(mut self) -> Model {
        self.leave().await;
        self.model
    }

    async fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 15 {
            0 => self.put(input).await,
            1 => drop(self.ask(Kind::DATA, input.piece()).await),
            2 => {
                let bytes = vec![input.byte(); usize::from(input.number())];
                self.ask(Kind::DATA, &bytes).await;
            }
            3 => drop(self.ask(Kind::COMMIT, &self.right()).await),
            4 => drop(self.ask(Kind::COMMIT, &change(self.right(), input)).await),
            5 => self.get(input).await,
            6 => {
                let len = u32::from(input.number());
                self.ask(Kind::READ, &written(|out| Read { len }.put(out))).await;
            }
            7 => drop(self.ask(Kind::DONE, &[]).await),
            8 => {
                let list = List { cursor: input.piece(), prefix: input.piece() };
                self.ask(Kind::LIST, &written(|out| list.put(out))).await;
            }
            9 => {
                let name = name(input);
                self.ask(Kind::REMOVE, &written(|out| Remove { name }.put(out))).await;
            }
            10 => self.whole(input).await,
            // Of any kind, of this extension's most likely.
            11 => {
                let kind = Kind(0x80 | input.byte() % 32);
                self.ask(kind, input.piece()).await;
            }
            12 => self.log_in(input).await,
            13 => self.cut(input).await,
            _ => self.leave().await,
        }
    }

    async fn put(&mut self, input: &mut Input<'_>) {
        let how = input.byte();
        let size = match how >> 2 & 3 {
            0 | 1 => None,
            2 => Some(u64::from(input.number())),
            _ => Some(u64::MAX >> 1),
        };
        let keep = (how & 2 != 0).then(|| Attributes { mode: 0o640, mtime_s: 7, mtime_ns: 9 });
        let put = Put { resume: how & 1 != 0, keep, size, name: name(input) };
        self.ask(Kind::PUT, &written(|out| put.put(out))).await;
    }

    async fn get(&mut self, input: &mut Input<'_>) {
        let (name, offset) = (name(input), u64::from(input.number()));
        let begins = self.model.visible(name.as_bytes()).get(..offset as usize);
        let prefix = begins.map_or([1; 32], |it| Sha256::digest(it).into());
        let get = Get { offset, prefix, name };
        self.ask(Kind::GET, &written(|out| get.put(out))).await;
    }

    /// COMMIT of what was given.
    fn right(&self) -> Vec<u8> {
        commit(self.model.given())
    }

    /// A small file at once.
    async fn whole(&mut self, input: &mut Input<'_>) {
        let (name, bytes) = (name(input), input.piece());
        let put = Put { resume: false, keep: None, size: None, name };
        let frames = [
            (Kind::PUT, written(|out| put.put(out))),
            (Kind::DATA, bytes.to_vec()),
            (Kind::COMMIT, commit(bytes)),
        ];
        let wire = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload));
        let wire: Vec<u8> = wire.collect();
        self.send(&wire).await;
        for (kind, payload) in &frames {
            self.answer(*kind, payload).await;
        }
    }

    /// SCRAM, with or without changes on its way.
    async fn log_in(&mut self, input: &mut Input<'_>) {
        let (client, initial) =
            Client::start(Arc::clone(&CREDENTIALS), Binding::Unsupported).unwrap();
        let initial = change(initial, input);
        let start = AuthRequest::Start { mechanism: b"SCRAM-SHA-256", initial: &initial };
        let reply = self.ask(Kind::AUTH, &written(|out| start.put(out))).await;
        let Some(AuthReply::Challenge(challenge)) = reply.as_deref().and_then(reply_of) else {
            return;
        };
        let Ok((proven, proof)) = client.answer(challenge) else { return };
        let proof = change(proof, input);
        let response = written(|out| AuthRequest::Response(&proof).put(out));
        let reply = self.ask(Kind::AUTH, &response).await;
        if let Some(AuthReply::Success(signature)) = reply.as_deref().and_then(reply_of) {
            proven.verify(signature).expect("the server knows the password");
            self.model.logged_in = true;
        }
    }

    /// Part of a frame, and the end.
    async fn cut(&mut self, input: &mut Input<'_>) {
        let (kind, rest, part) = (input.byte(), usize::from(input.byte()), input.piece());
        let kind = if kind % 2 == 0 { Kind::DATA } else { Kind(kind) };
        let len = (part.len() + rest + 1) as u32;
        self.send(&[&Header { kind, len }.to_bytes(), part].concat()).await;
        self.model.lost(kind, part);
        self.leave().await;
    }

    /// Ends the connection, and waits until the server has.
    async fn leave(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            tokio::select! {
                _ = stream.read_to_end(&mut rest) => {}
                () = sleep(ANSWER) => panic!("it does not end"),
            }
        }
        self.model.lost(Kind::DONE, &[]);
    }

    /// Sends a frame and takes its answer. Returns its payload, unless it is an ERROR.
    async fn ask(&mut self, kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
        self.send(&frame(kind, payload)).await;
        self.answer(kind, payload).await
    }

    async fn send(&mut self, wire: &[u8]) {
        if self.stream.is_none() {
            self.stream = Some(self.connector.connect().await.unwrap());
        }
        if let Some(stream) = &mut self.stream {
            // If it has ended, reading will tell.
            let _ = stream.write_all(wire).await;
        }
    }

    async fn answer(&mut self, kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
        let frame = match &mut self.stream {
            None => None,
            Some(stream) => tokio::select! {
                frame = read_frame(stream) => frame,
                () = sleep(ANSWER) => panic!("{kind:?} has no answer"),
            },
        };
        let due = if kind == Kind::READ { Kind::DATA } else { kind };
        match frame {
            Some((header, answer)) if header.kind == Kind::ERROR => {
                ErrorFrame::parse(&answer).expect("an ERROR that can be read");
                self.model.refused(kind, payload);
                None
            }
            Some((header, answer)) if header.kind != Kind::GOAWAY => {
                assert_eq!(header.kind, due, "the answer to another frame");
                self.model.answered(kind, payload, &answer);
                Some(answer)
            }
            _ => {
                self.model.lost(kind, payload);
                self.leave().await;
                None
            }
        }
    }
}

async fn read_frame(stream: &mut DuplexStream) -> Option<(Header, Vec<u8>)> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).await.ok()?;
    let header = Header::parse(head);
    let mut payload = vec![0; header.len as usize];
    stream.read_exact(&mut payload).await.expect("the rest of a frame");
    Some((header, payload))
}

fn reply_of(payload: &[u8]) -> Option<AuthReply<'_>> {
    AuthReply::parse(payload).ok()
}

fn name<'a>(input: &mut Input<'a>) -> FileName<'a> {
    let which = usize::from(input.byte());
    let named = NAMES.get(which).map_or(&b"g"[..], |name| name.as_bytes());
    let own = if which < NAMES.len() { named } else { input.piece() };
    FileName::new(own).or_else(|_| FileName::new(named)).unwrap()
}

fn commit(contents: &[u8]) -> Vec<u8> {
    let commit = Commit { digest: Sha256::digest(contents).into(), size: contents.len() as u64 };
    written(|out| commit.put(out))
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = Header { kind, len: u32::try_from(payload.len()).unwrap() };
    [&header.to_bytes(), payload].concat()
}

fn written(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

//! The daemon with a store of files, and a client that speaks to it as `echo-client put` and `get` do.

#![allow(clippy::disallowed_types, reason = "a bench measures real time")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use echo_core::client::{Dialogue, Options};
use echo_core::tls;
use echo_core::{Commit, Digest, Endpoint, FileName, Get, GetReply, Kind, Put, Read};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// What a DATA frame carries, and how many are under way: as `echo-client` has it.
const BLOCK: usize = 256 << 10;
const WINDOW: usize = 8;

/// The only file.
const NAME: &[u8] = b"file";

/// `echo-server`, whose files lie in a temporary folder, until this is dropped.
#[derive(Debug)]
pub struct Store {
    process: Child,
    target: Endpoint,
    _folder: TempDir,
}

impl Store {
    /// Starts it; builds it first, in the profile that this is built in.
    pub fn start(with_tls: bool) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let files = folder.path().join("files");
        std::fs::create_dir(&files)?;
        let server = build()?;
        let mut command = Command::new(&server);
        let scheme = if with_tls { "tls" } else { "tcp" };
        if with_tls {
            let keys = folder.path().join("keys");
            let made = Command::new(&server)
                .args(["tls", "self-signed", "--name", "localhost", "--out"])
                .arg(&keys)
                .stdout(Stdio::null())
                .status()?;
            ensure!(made.success(), "no certificate was made");
            command.arg("--tls-cert").arg(keys.join("cert.pem"));
            command.arg("--tls-key").arg(keys.join("key.pem"));
        }
        let mut process = command
            .args([
                "--listen",
                &format!("{scheme}://127.0.0.1:0"),
                "--anonymous-put",
                "--log",
                "text",
            ])
            .arg("--files")
            .arg(&files)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start echo-server")?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no stdout")?).read_line(&mut line)?;
        let target = line.trim_end().strip_prefix("listening ");
        let target = target.context("echo-server does not say where it listens")?.parse()?;
        Ok(Self { process, target, _folder: folder })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // It is gone already, or going now.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn build() -> Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--locked", "-p", "echo-server"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    ensure!(command.status()?.success(), "echo-server cannot be built");
    // Of a bench: FOLDER/deps/NAME.
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("no folder")?;
    Ok(folder.join("echo-server"))
}

/// A connection to a [`Store`], and a file.
#[derive(Debug)]
pub struct FileClient {
    runtime: Runtime,
    dialogue: Dialogue,
    file: Bytes,
    digest: [u8; 32],
}

impl FileClient {
    /// Connects, with a file of `size` random bytes.
    pub fn connect(store: &Store, size: usize) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // Who the server is makes no difference to speed.
        let options = Options { tls: Some(tls::Client::new(None, None)?), ..Options::default() };
        let dialogue = runtime.block_on(Dialogue::connect(&store.target, &options))?;
        let mut file = vec![0; size];
        fastrand::Rng::with_seed(7).fill(&mut file);
        let digest = Sha256::digest(&file).into();
        Ok(Self { runtime, dialogue, file: file.into(), digest })
    }

    /// Stores the file `count` times, each time in place of the one before; how long that took.
    pub fn put(&mut self, count: u64) -> Result<Duration> {
        let Self { runtime, dialogue, file, digest } = self;
        let began = Instant::now();
        for _ in 0..count {
            runtime.block_on(put(dialogue, file, *digest))?;
        }
        Ok(began.elapsed())
    }

    /// Fetches what was put `count` times; how long that took.
    pub fn get(&mut self, count: u64) -> Result<Duration> {
        let Self { runtime, dialogue, file, digest } = self;
        let began = Instant::now();
        for _ in 0..count {
            runtime.block_on(get(dialogue, file.len() as u64, *digest))?;
        }
        Ok(began.elapsed())
    }
}

async fn put(dialogue: &mut Dialogue, file: &Bytes, digest: [u8; 32]) -> Result<()> {
    let (size, name) = (file.len() as u64, FileName::new(NAME)?);
    let mut payload = Vec::new();
    Put { resume: false, keep: None, size: Some(size), name }.put(&mut payload);
    dialogue.send(Kind::PUT, &[&payload]).await?;
    for block in file.chunks(BLOCK) {
        dialogue.send(Kind::DATA, &[block]).await?;
        while dialogue.unanswered() >= WINDOW {
            answer(dialogue).await?;
        }
    }
    payload.clear();
    Commit { digest, size }.put(&mut payload);
    dialogue.send(Kind::COMMIT, &[&payload]).await?;
    let mut last = Bytes::new();
    while dialogue.unanswered() > 0 {
        last = answer(dialogue).await?;
    }
    ensure!(Digest::parse(&last)?.0 == digest, "something else was stored");
    Ok(())
}

async fn get(dialogue: &mut Dialogue, size: u64, digest: [u8; 32]) -> Result<()> {
    let mut payload = Vec::new();
    let name = FileName::new(NAME)?;
    Get { offset: 0, prefix: Sha256::digest([]).into(), name }.put(&mut payload);
    dialogue.send(Kind::GET, &[&payload]).await?;
    ensure!(GetReply::parse(&answer(dialogue).await?)?.size == size, "another size");
    let mut received = Sha256::new();
    let mut left = size.div_ceil(BLOCK as u64);
    while left > 0 || dialogue.unanswered() > 0 {
        if left > 0 && dialogue.unanswered() < WINDOW {
            payload.clear();
            Read { len: BLOCK as u32 }.put(&mut payload);
            dialogue.send(Kind::READ, &[&payload]).await?;
            left -= 1;
        } else {
            received.update(answer(dialogue).await?);
        }
    }
    dialogue.send(Kind::DONE, &[]).await?;
    let said = Digest::parse(&answer(dialogue).await?)?.0;
    let received: [u8; 32] = received.finalize().into();
    ensure!(said == digest && received == digest, "something else was fetched");
    Ok(())
}

async fn answer(dialogue: &mut Dialogue) -> Result<Bytes> {
    let (header, payload) = dialogue.recv().await?;
    if header.kind == Kind::ERROR {
        bail!("refused: {}", String::from_utf8_lossy(&payload));
    }
    Ok(payload)
}

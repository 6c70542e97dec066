//! The file store, by its frames: what appears, what does not, and what outlives a crash.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod canaries;
mod changes;
mod counting;
mod descriptors;
mod faults;
mod hostile;
mod kills;
mod lists;
mod metrics;
mod names;
mod quotas;
mod races;
mod resume;
mod uploads;

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use echo_core::client::{Dialogue, Error, Options};
use echo_core::{
    Commit, DataReply, Digest, Endpoint, ErrorCode, ErrorFrame, FileName, Get, GetReply, Kind, Put,
    PutReply, Read, Remove,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use support::{Server, injection};

/// A folder with a store in it, and a socket beside.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("store")).unwrap();
        Self { folder }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.store().join(name)
    }

    fn uri(&self) -> String {
        format!("unix:{}", self.folder.path().join("socket").display())
    }

    fn args(&self) -> Vec<String> {
        let store = self.store().display().to_string();
        vec![format!("--listen={}", self.uri()), format!("--files={store}")]
    }

    /// A server to which anybody may write.
    fn serve(&self) -> Server {
        self.serve_with(&["--anonymous-put"])
    }

    fn serve_with(&self, more: &[&str]) -> Server {
        let args = self.args();
        let args: Vec<_> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Server::start(&args)
    }

    /// The command of a server, with these arguments behind its own, in which a system call fails, or is slow, as strace
    /// is told: each, or each that names a file as the server calls it.
    fn injected(&self, injection: &str, at: Option<&str>, more: &[&str]) -> Command {
        let args = self.args();
        let args: Vec<_> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let options: Vec<_> = at.into_iter().flat_map(|name| ["-P", name]).collect();
        injection::injected(&options, &self.trace(), injection, &args)
    }

    /// Such a server, to which anybody may write.
    fn serve_injected(&self, injection: &str) -> Server {
        Server::start_command(self.injected(injection, None, &["--anonymous-put"]), 1)
    }

    /// What strace writes down.
    fn trace(&self) -> PathBuf {
        self.folder.path().join("trace")
    }

    async fn connect(&self) -> Talk {
        let endpoint = Endpoint::target(&self.uri()).unwrap();
        let options = Options { timeout: support::PATIENCE, ..Options::default() };
        Talk(Dialogue::connect(&endpoint, &options).await.unwrap())
    }

    /// What lies in the store, unfinished uploads not among it.
    fn visible(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.store(), &mut found);
        found.retain(|path| !path.starts_with(self.path(".echo-server")));
        found.sort();
        found
    }

    /// Files of unfinished uploads.
    fn parts(&self) -> usize {
        let mut found = Vec::new();
        walk(&self.path(".echo-server"), &mut found);
        found.len() - 1
    }
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() && !path.is_symlink() {
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

/// A client's end.
struct Talk(Dialogue);

impl Talk {
    async fn send(&mut self, kind: Kind, put: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = Vec::new();
        put(&mut payload);
        self.0.send(kind, &[&payload]).await.unwrap();
    }

    async fn recv(&mut self) -> Result<Bytes, ErrorCode> {
        let (header, payload) = self.0.recv().await.unwrap();
        match header.kind {
            Kind::ERROR => Err(ErrorFrame::parse(&payload).unwrap().code),
            _ => Ok(payload),
        }
    }

    async fn ask(
        &mut self,
        kind: Kind,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Bytes, ErrorCode> {
        self.send(kind, put).await;
        self.recv().await
    }

    async fn put(&mut self, name: &str, resume: bool) -> Result<PutReply, ErrorCode> {
        let name = FileName::new(name.as_bytes()).unwrap();
        let put = Put { resume, keep: None, size: None, name };
        Ok(PutReply::parse(&self.ask(Kind::PUT, |out| put.put(out)).await?).unwrap())
    }

    async fn data(&mut self, bytes: &[u8]) -> Result<u64, ErrorCode> {
        let answer = self.ask(Kind::DATA, |out| out.extend_from_slice(bytes)).await?;
        Ok(DataReply::parse(&answer).unwrap().received)
    }

    async fn commit(&mut self, whole: &[u8]) -> Result<Digest, ErrorCode> {
        let commit = Commit { digest: sha(whole), size: whole.len() as u64 };
        Ok(Digest::parse(&self.ask(Kind::COMMIT, |out| commit.put(out)).await?).unwrap())
    }

    async fn remove(&mut self, name: &str) -> Result<(), ErrorCode> {
        let name = FileName::new(name.as_bytes()).unwrap();
        self.ask(Kind::REMOVE, |out| Remove { name }.put(out)).await.map(drop)
    }

    /// Stores a file in one go.
    async fn store(&mut self, name: &str, bytes: &[u8]) -> Result<(), ErrorCode> {
        self.put(name, false).await?;
        for block in bytes.chunks(1 << 20) {
            self.data(block).await?;
        }
        let stored = self.commit(bytes).await?;
        assert_eq!(stored.0, sha(bytes));
        Ok(())
    }

    async fn get(
        &mut self,
        name: &str,
        offset: u64,
        prefix: [u8; 32],
    ) -> Result<GetReply, ErrorCode> {
        let name = FileName::new(name.as_bytes()).unwrap();
        let get = Get { offset, prefix, name };
        Ok(GetReply::parse(&self.ask(Kind::GET, |out| get.put(out)).await?).unwrap())
    }

    async fn read(&mut self, len: u32) -> Result<Bytes, ErrorCode> {
        self.ask(Kind::READ, |out| Read { len }.put(out)).await
    }

    /// Fetches a file.
    async fn fetch(&mut self, name: &str) -> Result<Vec<u8>, ErrorCode> {
        let reply = self.get(name, 0, [0; 32]).await?;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < reply.size {
            bytes.extend_from_slice(&self.read(1 << 20).await?);
        }
        let digest = Digest::parse(&self.ask(Kind::DONE, |_| {}).await?).unwrap();
        assert_eq!(digest.0, sha(&bytes));
        Ok(bytes)
    }

    /// How the connection ends.
    async fn ending(&mut self) -> Error {
        loop {
            if let Err(error) = self.0.recv().await {
                return error;
            }
        }
    }
}

fn sha(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// So many bytes, each time the same.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(test);
}

/// Waits for what another process or thread does soon.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Asks again while there is no place, which there soon is.
async fn unless_busy(mut ask: impl AsyncFnMut() -> Result<(), ErrorCode>) -> Result<(), ErrorCode> {
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    loop {
        let answer = ask().await;
        if answer != Err(ErrorCode::Busy) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "always busy");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

//! What the integration tests share: a service under test, and frames by hand.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use echo_core::{
    Connector, Drain, Ended, Goaway, Handler, Header, Kind, Limits, Listener, LocalAddr, Reason,
    Report, ServeError, Service, SocketOptions, serve,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// How long a test on real sockets waits for what must happen: far more than any machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A service that runs, and how to stop it.
pub(crate) struct Running {
    pub(crate) service: Service,
    pub(crate) task: JoinHandle<Result<Report, ServeError>>,
}

impl Running {
    pub(crate) fn start<H: Handler>(listener: Listener, service: &Service, handler: H) -> Self {
        let of_task = service.clone();
        let task = tokio::spawn(async move { serve(listener, of_task, Arc::new(handler)).await });
        Self { service: service.clone(), task }
    }

    pub(crate) fn drain(&self, timeout: Duration) {
        self.service.drain().start(timeout);
    }

    /// Waits for the end of `serve`.
    pub(crate) async fn ended(self) -> Report {
        self.task.await.unwrap().unwrap()
    }

    /// Drains, and waits for the end of `serve`.
    pub(crate) async fn stop(self, timeout: Duration) -> Report {
        self.drain(timeout);
        self.ended().await
    }
}

/// A service on a listener in memory.
pub(crate) fn in_memory<H: Handler>(limits: Limits, handler: H) -> (Running, Connector) {
    let (listener, connector) = Listener::memory();
    let service = Service::new(limits, Drain::new());
    (Running::start(listener, &service, handler), connector)
}

/// A service on a free TCP port of the loopback interface.
pub(crate) fn on_tcp<H: Handler>(limits: Limits, handler: H) -> (Running, SocketAddr) {
    let listener =
        Listener::bind_tcp("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
    let LocalAddr::Tcp(addr) = *listener.local_addr() else { unreachable!() };
    let service = Service::new(limits, Drain::new());
    (Running::start(listener, &service, handler), addr)
}

/// `future`, which must not take for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for a minute")
}

pub(crate) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(kind, payload.len());
    frame.extend_from_slice(payload);
    frame
}

pub(crate) fn header(kind: Kind, len: usize) -> Vec<u8> {
    Header { kind, len: u32::try_from(len).unwrap() }.to_bytes().to_vec()
}

pub(crate) fn echo(payload: &[u8]) -> Vec<u8> {
    frame(Kind::ECHO, payload)
}

pub(crate) fn hello() -> Vec<u8> {
    frame(Kind::HELLO, &[])
}

pub(crate) fn goaway(reason: Reason, answered: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    Goaway { reason, answered }.put(&mut payload);
    frame(Kind::GOAWAY, &payload)
}

/// Splits what a server sent into frames; what is left at the end must be nothing.
#[track_caller]
pub(crate) fn frames(mut wire: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = wire.split_first_chunk() {
        let header = Header::parse(*head);
        let (payload, rest) = rest
            .split_at_checked(header.len as usize)
            .unwrap_or_else(|| panic!("ends inside a frame: {wire:02x?}"));
        frames.push((header.kind, payload.to_vec()));
        wire = rest;
    }
    assert!(wire.is_empty(), "ends inside a header: {wire:02x?}");
    frames
}

/// Reads exactly `expected`.
pub(crate) async fn expect(stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).await.expect("ended before all was answered");
    assert!(got == expected, "another answer than expected");
}

/// Reads to the end of the stream.
pub(crate) async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

/// Says HELLO, reads the answer.
pub(crate) async fn say_hello(stream: &mut DuplexStream) {
    stream.write_all(&hello()).await.unwrap();
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[0], Kind::HELLO.0);
}

/// What is left of `all` behind the answer to HELLO.
#[track_caller]
pub(crate) fn after_hello(all: &[u8]) -> &[u8] {
    assert_eq!(all[..4], header(Kind::HELLO, 12));
    &all[16..]
}

/// Lets every task go on until all of them wait. With paused time that costs none.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// How the connections ended: completed, quiet, forced, failed, panicked.
pub(crate) fn buckets(ended: Ended) -> [u64; 5] {
    [ended.completed, ended.quiet, ended.forced, ended.failed, ended.panicked]
}

/// How many cases a random test runs: `ordinary`, or `long` under LONG=1.
pub(crate) fn cases(ordinary: u64, long: u64) -> u64 {
    if std::env::var_os("LONG").is_some() { long } else { ordinary }
}

/// The seed of a random test: SEED, or a new one.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    seed.unwrap_or_else(|| fastrand::u64(..))
}

/// Says how to see a failure again, when the test that holds it panics.
pub(crate) struct Replay<T: Debug>(pub(crate) T);

impl<T: Debug> Drop for Replay<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SEED={:?}", self.0);
        }
    }
}

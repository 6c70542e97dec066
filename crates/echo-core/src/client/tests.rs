mod cuts;
mod exchange;
mod loss;
mod sessions;
mod silence;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::*;
use crate::stream::Stream;
use crate::{Drain, Echo, Limits, Listener, Mode, Report, Service};

const HELLO: &[u8] = b"\x80\0\0\x06\0\x01\0\0\0\0";

/// A script's side: connections come one after the other.
struct Server {
    listener: Listener,
}

/// A server that a script plays, and where it is.
fn scripted() -> (Server, Connector) {
    let (listener, connector) = Listener::memory();
    (Server { listener }, connector)
}

impl Server {
    /// The next connection, bare.
    async fn accept(&mut self) -> DuplexStream {
        let accepted = soon(poll_fn(|cx| self.listener.poll_accept(cx))).await;
        let (Stream::Memory(stream), _) = accepted.unwrap() else { panic!("in memory") };
        stream
    }

    /// The next connection, behind its first exchange.
    async fn greet(&mut self) -> Framed {
        let mut stream = self.accept().await;
        let mut hello = [0; 10];
        stream.read_exact(&mut hello).await.unwrap();
        assert_eq!(hello, HELLO);
        stream.write_all(b"\x80\0\0\x0e\0\x01\0\x10\0\0\0\0\0\x01\0\x02hi").await.unwrap();
        Framed(stream)
    }
}

/// A server's end of a framed connection.
struct Framed(DuplexStream);

impl Framed {
    /// The next frame, header included.
    async fn frame(&mut self) -> Vec<u8> {
        let mut frame = vec![0; 4];
        soon(self.0.read_exact(&mut frame)).await.unwrap();
        let len = u32::from_be_bytes([0, frame[1], frame[2], frame[3]]) as usize;
        frame.resize(4 + len, 0);
        soon(self.0.read_exact(&mut frame[4..])).await.unwrap();
        frame
    }

    /// Answers so many frames as it should.
    async fn echo(&mut self, frames: usize) {
        for _ in 0..frames {
            let frame = self.frame().await;
            self.say(&frame).await;
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn goaway(&mut self, reason: u8, answered: u8) {
        self.say(&[0x81, 0, 0, 10, 0, reason, 0, 0, 0, 0, 0, 0, 0, answered]).await;
    }

    /// Waits for the client's end of the connection.
    async fn closed(mut self) {
        while self.0.read(&mut [0; 4096]).await.unwrap() > 0 {}
    }
}

/// A listener on a real port, whose connections take little at once, and its address.
fn on_a_port() -> (TcpListener, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

/// Our own server, in memory.
fn serve(mode: Mode) -> (Connector, Drain, JoinSet<Report>) {
    let (listener, connector) = Listener::memory();
    let drain = Drain::new();
    let service = Service::new(Limits::default(), drain.clone());
    let mut server = JoinSet::new();
    server.spawn(async move {
        crate::serve(listener, service.clone(), Arc::new(Echo::new(mode))).await.unwrap()
    });
    (connector, drain, server)
}

fn retrying(seconds: u64) -> Options {
    Options { retry: Duration::from_secs(seconds), ..Options::default() }
}

/// What has happened, in one word or two.
fn told(event: Option<Event<'_>>) -> String {
    match event {
        None => "over".to_owned(),
        Some(Event::Connected { resent, .. }) => format!("connected, {resent} again"),
        Some(Event::Reply(reply)) => format!("{} {}", reply.seq, reply.payload.escape_ascii()),
        Some(Event::Part(part)) => format!("part {}", part.escape_ascii()),
        Some(Event::Sent) => "sent".to_owned(),
        Some(Event::Refused(it)) => format!("{} refused: {}, {}", it.seq, it.code.code(), it.text),
        Some(Event::Unexpected(it)) => format!("unexpected {}", it.bytes.escape_ascii()),
        Some(Event::Goaway(goaway)) => format!("goaway {:?}", goaway.reason),
        Some(Event::Lost(why)) => format!("lost: {why}"),
        Some(Event::Retrying { why, .. }) => format!("retrying: {why}"),
    }
}

/// What must not be waited for: paused time runs to the end of a test that hangs.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::select! {
        done = what => done,
        () = sleep(Duration::from_hours(10_000)) => panic!("nothing happens"),
    }
}

/// What happens next; an error in its words.
async fn next(client: &mut Client) -> String {
    match soon(client.next()).await {
        Ok(event) => told(event),
        Err(error) => error.to_string(),
    }
}

//! The other end: rustls, and a script that stands between it and the stream.

use std::io::{Read, Write};
use std::time::Duration;

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep, sleep_until};

use crate::input::Input;

/// No time passes where there is something to do: after so long there is nothing.
const QUIET: Duration = Duration::from_millis(1);

/// In which ours has to end once we have: longer than any deadline of its own.
const END: Duration = Duration::from_secs(60);

/// What the script may wait in all and still be honest: less than any of our deadlines.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Wire<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    tls: Connection,
    /// Ciphertext that is to go out.
    out: Vec<u8>,
    /// Ours has no more for us.
    ended: bool,
    /// Nothing was changed, left out, put in or held back, and the end came in order.
    pub(super) honest: bool,
    /// close_notify went out, or would have.
    pub(super) closed: bool,
    fin: bool,
    pub(super) waited: Duration,
    /// Plaintext that went out, and that came in.
    pub(super) said: Vec<u8>,
    pub(super) heard: Vec<u8>,
    echoed: usize,
    refreshed: u32,
    /// Bytes of ciphertext.
    pub(super) sent: usize,
    pub(super) received: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, tls: Connection) -> Self {
        let (reader, writer) = split(stream);
        Self {
            reader,
            writer,
            tls,
            out: Vec::new(),
            ended: false,
            honest: true,
            closed: false,
            fin: false,
            waited: Duration::ZERO,
            said: Vec::new(),
            heard: Vec::new(),
            echoed: 0,
            refreshed: 0,
            sent: 0,
            received: 0,
        }
    }

    /// Does what the script says, then sends what is left, ends, and reads to the end.
    pub(super) async fn play(&mut self, input: &mut Input<'_>) {
        while !input.is_empty() && !self.fin {
            self.step(input).await;
        }
        self.turn().await;
        self.fin().await;
        let until = Instant::now() + END;
        let mut buf = vec![0; 16 << 10];
        while !self.ended {
            tokio::select! {
                read = self.reader.read(&mut buf) => match read {
                    Ok(0) | Err(_) => self.ended = true,
                    Ok(len) => self.feed(&buf[..len]),
                },
                () = sleep_until(until) => panic!("it does not end within {END:?}"),
            }
        }
        self.honest &= self.waited < PATIENCE;
    }

    async fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 13 {
            0 => self.turn().await,
            1 => self.say(input.piece()),
            2 => self.say(&vec![input.byte(); usize::from(input.number())]),
            // A change of keys, which ours has to answer.
            3 => self.refresh(),
            4 => {
                self.closed = true;
                self.tls.send_close_notify();
            }
            5 => self.some(usize::from(input.byte())).await,
            6 => self.wait(Duration::from_millis(100) * u32::from(input.byte())).await,
            7 => self.echo(),
            8 => self.fin().await,
            9 => self.tamper(|out| out.extend_from_slice(input.piece())),
            10 => self.tamper(|out| out.extend([0x17, 3, 3, 0, 0].repeat(input.byte().into()))),
            11 => {
                let (place, by) = (usize::from(input.number()), input.byte());
                self.tamper(|out| {
                    let place = place % out.len().max(1);
                    if let Some(byte) = out.get_mut(place) {
                        *byte ^= by;
                    }
                });
            }
            _ => {
                let len = usize::from(input.number());
                self.tamper(|out| out.truncate(len % out.len().max(1)));
            }
        }
    }

    fn refresh(&mut self) {
        // rustls takes 32 of them without data in between for an attack.
        self.refreshed += u32::from(self.tls.refresh_traffic_keys().is_ok());
        self.honest &= self.refreshed < 32;
    }

    fn say(&mut self, plaintext: &[u8]) {
        // Behind the end there is nothing. Before the keys are there rustls takes only so much, and after an alert
        // none.
        if !self.closed {
            let taken = self.tls.writer().write(plaintext).unwrap_or(0);
            self.said.extend_from_slice(&plaintext[..taken]);
        }
    }

    /// Says what was heard.
    fn echo(&mut self) {
        let heard = self.heard[self.echoed..].to_vec();
        self.echoed = self.heard.len();
        self.say(&heard);
    }

    fn tamper(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        self.collect();
        change(&mut self.out);
        self.honest = false;
    }

    async fn wait(&mut self, time: Duration) {
        self.waited += time;
        sleep(time).await;
    }

    /// Sends that much and reads nothing.
    async fn some(&mut self, len: usize) {
        self.collect();
        let piece: Vec<u8> = self.out.drain(..len.min(self.out.len())).collect();
        // Full, it would wait for ours, which waits for us.
        tokio::select! {
            biased;
            sent = self.writer.write_all(&piece) => self.honest &= sent.is_ok(),
            () = sleep(QUIET) => self.honest = false,
        }
        self.sent += piece.len();
    }

    async fn fin(&mut self) {
        self.collect();
        self.honest &= self.closed && self.out.is_empty() && !self.tls.is_handshaking();
        self.fin = true;
        let _ = self.writer.shutdown().await;
    }

    /// Sends and reads until nothing happens any more.
    async fn turn(&mut self) {
        let mut buf = vec![0; 16 << 10];
        loop {
            self.collect();
            tokio::select! {
                biased;
                read = self.reader.read(&mut buf), if !self.ended => match read {
                    Ok(0) | Err(_) => self.ended = true,
                    Ok(len) => self.feed(&buf[..len]),
                },
                sent = self.writer.write(&self.out), if !self.fin && !self.out.is_empty() => {
                    let len = sent.unwrap_or(self.out.len());
                    self.sent += len;
                    self.out.drain(..len);
                }
                () = sleep(QUIET) => return,
            }
        }
    }

    fn collect(&mut self) {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.out).unwrap();
        }
    }

    fn feed(&mut self, mut wire: &[u8]) {
        self.received += wire.len();
        while !wire.is_empty() {
            if self.tls.read_tls(&mut wire).is_err() || self.tls.process_new_packets().is_err() {
                self.honest = false;
                return;
            }
            let _ = self.tls.reader().read_to_end(&mut self.heard);
        }
    }
}

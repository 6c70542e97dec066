//! A server of datagrams that a script plays.

use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// Where a script's server is, and every datagram that reached it.
pub(crate) struct Scripted {
    pub(crate) target: String,
    pub(crate) came: Receiver<Vec<u8>>,
}

/// Plays `script`: what it returns for the datagram of that number, from 0 on, is sent back, one datagram
/// each. It ends with the test.
pub(crate) fn scripted(
    mut script: impl FnMut(usize, &[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> Scripted {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = format!("udp://{}", socket.local_addr().unwrap());
    let (tell, came) = channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        for number in 0.. {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            let _ = tell.send(buffer[..len].to_vec());
            for answer in script(number, &buffer[..len]) {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
    Scripted { target, came }
}

/// An RFC 862 server that loses those for which `loses` is true.
pub(crate) fn lossy(loses: impl Fn(usize, &[u8]) -> bool + Send + 'static) -> Scripted {
    scripted(move |number, came| if loses(number, came) { Vec::new() } else { vec![came.to_vec()] })
}

//! A short transfer that is cut at each byte of what the server sends: never taken for the whole.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use echo_core::client::{Client, Error};
use echo_core::tls::Policy;
use echo_core::{Endpoint, Limits};

use crate::support::{Authority, Running};

/// Forwards one connection, and ends it once `len` bytes have come from the server; says how many did.
fn forward(server: SocketAddr, len: usize) -> (SocketAddr, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let forwarding = thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = TcpStream::connect(server).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let upward = thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let (mut passed, mut buf) = (0, [0; 4096]);
        while passed < len {
            let room = buf.len().min(len - passed);
            let Ok(read @ 1..) = (&server).read(&mut buf[..room]) else { break };
            if (&client).write_all(&buf[..read]).is_err() {
                break;
            }
            passed += read;
        }
        let _ = client.shutdown(Shutdown::Write);
        let _ = server.shutdown(Shutdown::Both);
        let _ = upward.join();
        passed
    });
    (addr, forwarding)
}

async fn exchange(
    server: &Running,
    authority: &Authority,
    len: usize,
) -> (Result<(), Error>, usize) {
    let (addr, forwarding) = forward(server.addr, len);
    let target: Endpoint = format!("tls://{addr}?mode=raw").parse().unwrap();
    let exchanged = async {
        let mut client = Client::connect(target, authority.options()).await?;
        client.echo(b"hello").await?;
        client.finish();
        while client.next().await?.is_some() {}
        Ok(())
    };
    let exchanged = exchanged.await;
    (exchanged, forwarding.join().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_cut_at_any_byte_is_known_to_be() {
    let authority = Authority::new();
    let running = Running::start(Policy::Detect(authority.server()), Limits::default());
    let (whole, len) = exchange(&running, &authority, usize::MAX).await;
    whole.unwrap();
    // Signatures differ in length by a byte or two, so the last bytes are those of close_notify.
    let step = if std::env::var_os("LONG").is_some() { 1 } else { 7 };
    for cut in (0..len - 26).step_by(step).chain(len - 26..len - 4) {
        let (cut_short, passed) = exchange(&running, &authority, cut).await;
        assert_eq!(passed, cut);
        let error = cut_short.expect_err("a part is not the whole");
        assert!(matches!(error, Error::ClosedEarly(_)), "{cut} of {len}: {error}");
    }
    running.drain().await;
}

//! Datagrams from networks that tell lies, on hosts with several addresses: each test has networks of
//! its own, and sends nothing anywhere else.

#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod forged;
mod network;
mod paths;
mod sources;
#[path = "../support/mod.rs"]
mod support;

use std::net::{SocketAddr, UdpSocket};

use support::PATIENCE;

/// A client that hears nothing from any other address.
fn client(target: &str) -> UdpSocket {
    let target: SocketAddr = target.parse().unwrap();
    let any = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let client = UdpSocket::bind(any).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(target).unwrap();
    client
}

fn assert_echoes(client: &UdpSocket, message: &[u8]) {
    client.send(message).unwrap();
    let mut reply = vec![0; 65_536];
    let len = client.recv(&mut reply).unwrap();
    assert!(reply[..len] == *message, "{} bytes came back as {len}", message.len());
}

//! Datagrams on real sockets: what comes back, what does not, and why not.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_types,
    reason = "a test fails by panicking, spawns what it awaits, and measures real time"
)]

mod drain;
mod drops;
mod echo;
mod limits;
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod unix;
mod unix_peers;

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use echo_core::{
    DatagramEcho, DatagramOptions, DatagramSocket, Datagrams, Drain, Limits, LocalAddr, Mode,
    Report, ServeError, Service, UnixName, serve_datagrams,
};
use socket2::SockRef;
use support::PATIENCE;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// A service on datagram sockets, on a runtime of its own, so that the test may block.
struct Echoing {
    service: Service,
    serving: JoinSet<Result<Report, ServeError>>,
    local: LocalAddr,
    runtime: Runtime,
}

impl Echoing {
    fn start(
        limits: Limits,
        echo: DatagramEcho,
        bind: impl FnOnce() -> Vec<DatagramSocket>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let service = Service::new(limits, Drain::new());
        let sockets = {
            let _inside = runtime.enter();
            bind()
        };
        let local = sockets[0].local_addr().clone();
        let mut serving = JoinSet::new();
        let echo = Arc::new(echo);
        for socket in sockets {
            let serve = serve_datagrams(socket, service.clone(), Arc::clone(&echo));
            serving.spawn_on(serve, runtime.handle());
        }
        Self { service, serving, local, runtime }
    }

    fn on_udp(addr: &str, limits: Limits, echo: DatagramEcho) -> Self {
        let addr = addr.parse().unwrap();
        Self::start(limits, echo, || {
            DatagramSocket::bind_udp(addr, &DatagramOptions::default()).unwrap()
        })
    }

    fn udp() -> Self {
        Self::on_udp("127.0.0.1:0", Limits::default(), DatagramEcho::new(Mode::Auto))
    }

    fn unix(path: &Path, limits: Limits, echo: DatagramEcho) -> Self {
        let name = UnixName::Path(path.to_owned());
        Self::start(limits, echo, || {
            vec![DatagramSocket::bind_unix(&name, None, &DatagramOptions::default()).unwrap()]
        })
    }

    fn port(&self) -> u16 {
        let LocalAddr::Udp(addr) = &self.local else { panic!("{:?}", self.local) };
        addr.port()
    }

    /// A client of this server that hears nothing from any other address.
    fn client(&self) -> UdpSocket {
        self.client_of("127.0.0.1")
    }

    fn client_of(&self, ip: &str) -> UdpSocket {
        udp_client(SocketAddr::new(ip.parse().unwrap(), self.port()))
    }

    /// Waits until so many datagrams were received, and gives the counters.
    fn after(&self, received: u64) -> Datagrams {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let datagrams = self.service.stats().datagrams;
            if datagrams.received >= received {
                assert_eq!(datagrams.received, received, "{datagrams:?}");
                return datagrams;
            }
            assert!(Instant::now() < deadline, "{datagrams:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Drains, and gives the report and the counters, whose sum is checked.
    fn stop(mut self) -> (Report, Datagrams) {
        self.service.drain().start(PATIENCE);
        let mut report = Report::default();
        while let Some(ended) = self.runtime.block_on(self.serving.join_next()) {
            report = report.merge(ended.unwrap().unwrap());
        }
        let stats = self.service.stats();
        let Datagrams { received, answered, .. } = stats.datagrams;
        assert_eq!(received, answered + stats.datagrams.unanswered(), "{stats:?}");
        (report, stats.datagrams)
    }
}

fn rate(per_second: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(per_second)
}

/// A client that hears nothing from any other address.
fn udp_client(to: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(if to.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    SockRef::from(&client).set_recv_buffer_size(4 << 20).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(to).unwrap();
    client
}

fn unix_client(path: &Path) -> UnixDatagram {
    let client = UnixDatagram::bind(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn probe(len: usize, byte: u8) -> Vec<u8> {
    let mut probe = vec![byte; 4 + len];
    probe[..4].copy_from_slice(&(0x8300_0000 | len as u32).to_be_bytes());
    probe
}

fn exchange(client: &UdpSocket, message: &[u8]) -> Vec<u8> {
    client.send(message).unwrap();
    let mut reply = vec![0; 65_536];
    let len = client.recv(&mut reply).unwrap();
    reply.truncate(len);
    reply
}

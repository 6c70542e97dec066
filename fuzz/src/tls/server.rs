//! Our server.

use std::sync::Arc;

use echo_core::tls::{Identity, Policy, Port, Server};
use echo_core::{Drain, Echo, HandshakeFault, Limits, Listener, Mode, Service, serve};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use super::wire::Wire;
use super::{CERTIFIED, other_client};
use crate::input::{Input, runtime};

/// What a server has to say before anything is echoed: its part of the handshake, and an alert.
const OWN: usize = 4 << 10;

/// A connection of a client's that the script has in its hands.
pub fn tls_server(data: &[u8]) {
    runtime().block_on(async {
        let mut input = Input::new(data);
        let server = Server::new(identity(), None).unwrap();
        let policy = match input.byte() % 2 {
            0 => Policy::Always(server),
            _ => Policy::Detect(server),
        };
        let detects = matches!(policy, Policy::Detect(_));
        let (listener, connector) = Listener::memory();
        let (listener, service) =
            (listener.secured(Port::new(policy)), Service::new(Limits::default(), Drain::new()));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, service.clone(), Arc::new(Echo::new(Mode::Raw))));
        let began = Instant::now();
        let mut wire = Wire::new(connector.connect().await.unwrap(), other_client().into());
        wire.play(&mut input).await;
        service.drain().start(Duration::from_secs(1));
        serving.join_next().await.unwrap().unwrap().unwrap();

        let stats = service.stats();
        assert_eq!((stats.ended.total(), stats.ended.panicked), (1, 0), "{stats:?}");
        let failed: u64 = HandshakeFault::ALL.map(|fault| stats.tls.failed(fault)).iter().sum();
        let shaken = stats.tls.handshakes + failed;
        assert!(shaken <= 1 && (detects || shaken == 1), "{stats:?}");
        assert!(wire.said.starts_with(&wire.heard), "what came back is not what was sent");
        if wire.honest {
            assert_eq!(wire.heard, wire.said, "a reply is lost: {stats:?}");
            assert_eq!((stats.tls.truncated, stats.tls.broken, stats.ended.failed), (0, 0, 0));
        }
        // Whatever is sent, no more is made of it than was sent.
        assert!(wire.received <= OWN + 2 * wire.sent, "{} for {}", wire.received, wire.sent);
        let took = began.elapsed().saturating_sub(wire.waited);
        assert!(took < Duration::from_secs(120), "{took:?} beyond what the script waits");
    });
}

fn identity() -> Identity {
    let certificate = CERTIFIED.certificate.pem();
    Identity::from_pem(certificate.as_bytes(), CERTIFIED.key.serialize_pem().as_bytes()).unwrap()
}

use std::sync::Arc;

use super::*;
use crate::{Drain, Echo, Limits, Listener, Mode, Service};
use tokio::task::JoinSet;

/// A server in memory.
fn serve(mode: Mode) -> (Connector, Drain, JoinSet<crate::Report>) {
    let (listener, connector) = Listener::memory();
    let drain = Drain::new();
    let service = Service::new(Limits::default(), drain.clone());
    let mut server = JoinSet::new();
    server.spawn(async move {
        crate::serve(listener, service.clone(), Arc::new(Echo::new(mode))).await.unwrap()
    });
    (connector, drain, server)
}

#[tokio::test(start_paused = true)]
async fn echoes_and_probes() {
    let (connector, _drain, _server) = serve(Mode::Auto);
    let mut client = Client::connect(connector, Options::default()).await.unwrap();
    assert_eq!(client.session().unwrap().dialect, Dialect::Framed);
    assert_eq!(client.echo(b"hello").await.unwrap().payload, b"hello");
    let reply = client.probe(b"body").await.unwrap();
    assert_eq!((reply.payload, reply.seq), (&b"body"[..], 1));
    assert!(reply.stamps.unwrap().in_server() <= reply.round_trip());
}

#[tokio::test(start_paused = true)]
async fn goes_on_raw_where_hello_is_echoed() {
    let (connector, _drain, _server) = serve(Mode::Raw);
    let mut client = Client::connect(connector, Options::default()).await.unwrap();
    assert!(client.session().unwrap().fell_back);
    assert_eq!(client.echo(b"hello").await.unwrap().payload, b"hello");
    client.finish();
    assert!(client.next().await.unwrap().is_none());
}

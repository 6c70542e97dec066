//! The workspace's own server, as the library runs it.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use echo_core::{Drain, Echo, Endpoint, Limits, Listener, Mode, Report, Service, SocketOptions};

/// A server on a thread of its own.
pub(crate) struct Server {
    pub(crate) target: String,
    drain: Drain,
    thread: JoinHandle<Report>,
}

impl Server {
    pub(crate) fn start(endpoint: &str, mode: Mode) -> Self {
        let (bound, target) = channel();
        let given = endpoint.to_owned();
        let endpoint: Endpoint = given.parse().unwrap();
        let drain = Drain::new();
        let service = Service::new(Limits::default(), drain.clone());
        let thread = thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(async {
                let options = SocketOptions::default();
                let listener = Listener::bind(&endpoint, &options).await.unwrap().remove(0);
                bound.send(Endpoint::with_bound(&given, listener.local_addr())).unwrap();
                echo_core::serve(listener, service.clone(), Arc::new(Echo::new(mode)))
                    .await
                    .unwrap()
            })
        });
        Self { target: target.recv().unwrap(), drain, thread }
    }

    /// Drains it.
    pub(crate) fn stop(self) -> Report {
        self.drain.start(Duration::from_secs(30));
        self.thread.join().unwrap()
    }

    /// Ends it as a crash would: connections are reset.
    pub(crate) fn crash(self) {
        self.drain.cut();
        self.thread.join().unwrap();
    }
}

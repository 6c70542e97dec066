//! Whether loops turn (`Service::ping`): they answer in every state, and only from inside.

use std::future::{pending, ready};
use std::io;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use echo_core::{Connection, Echo, Error, Handler, Limits, Listener, Mode, Service, serve};
use tokio::time::{Instant, timeout_at};

use crate::support::{in_memory, settle};
use crate::{secs, took};

const EMFILE: i32 = 24;

/// Never ends by itself.
struct Stuck;

impl Handler for Stuck {
    async fn run(&self, _: &mut Connection) -> Result<(), Error> {
        pending().await
    }
}

async fn answers_at_once(service: &Service) {
    let start = Instant::now();
    service.ping().await;
    took(start, Duration::ZERO);
}

/// Fault 77: idle, full, out of descriptors, draining.
#[tokio::test(start_paused = true)]
async fn a_loop_answers_whatever_it_waits_for() {
    let limits = Limits { max_connections: NonZeroUsize::MIN, ..Limits::default() };
    let (server, connector) = in_memory(limits, Stuck);
    let service = server.service.clone();
    settle().await;
    answers_at_once(&service).await;

    (0..20).for_each(|_| connector.fail(io::Error::from_raw_os_error(EMFILE)));
    settle().await;
    answers_at_once(&service).await;
    tokio::time::sleep(secs(15)).await; // All pauses.

    let _holder = connector.connect().await.unwrap();
    settle().await;
    let _waits = connector.connect().await.unwrap();
    settle().await;
    assert_eq!(service.stats().active, 1);
    answers_at_once(&service).await;

    server.drain(secs(30));
    settle().await;
    answers_at_once(&service).await;
    server.ended().await;
    answers_at_once(&service).await;
}

/// The watchdog of a service with a loop that is not polled waits until that loop is gone.
#[tokio::test(start_paused = true)]
async fn a_loop_that_hangs_does_not_answer() {
    let (server, _connector) = in_memory(Limits::default(), Echo::new(Mode::Auto));
    let service = server.service.clone();
    {
        let (listener, _idle) = Listener::memory();
        let echo = Arc::new(Echo::new(Mode::Auto));
        let mut hangs = pin!(serve(listener, service.clone(), echo));
        tokio::select! {
            biased;
            _ = &mut hangs => unreachable!("nothing has stopped it"),
            () = ready(()) => {}
        }
        // Twice, as the first question is still there.
        for _ in 0..2 {
            let late = timeout_at(Instant::now() + secs(60), service.ping()).await;
            assert!(late.is_err(), "nobody polls one of them");
        }
    }
    answers_at_once(&service).await;
}

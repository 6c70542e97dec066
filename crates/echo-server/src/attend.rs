//! The heartbeat: as long as every loop answers, the service manager hears that all is well, how it
//! goes, and in a drain that it moves.

use std::convert::Infallible;
use std::time::Duration;

use echo_core::{Service, Snapshot};
use tokio::time::sleep;

use crate::notify::Notify;

/// How often the status is told.
const INTERVAL: Duration = Duration::from_secs(5);

/// Attends to `service` for as long as it is polled. A loop that hangs makes it silent.
pub(crate) async fn attend(service: &Service, notify: &Notify) -> Infallible {
    // Half of what is asked for, as sd_watchdog_enabled(3) wants; the interval leaves two more tries.
    let interval = notify.watchdog().map_or(INTERVAL, |watchdog| INTERVAL.min(watchdog / 2));
    let mut last = service.stats();
    loop {
        sleep(interval).await;
        service.ping().await;
        let now = service.stats();
        notify.alive(&status(&now, notify.is_stopping()));
        // Before the drain itself the delay runs, which is as short as it was asked for.
        if notify.is_stopping() && (now != last || !service.drain().is_started()) {
            notify.progress();
        }
        last = now;
    }
}

/// How it goes, in one line.
pub(crate) fn status(stats: &Snapshot, stopping: bool) -> String {
    let Snapshot { active, accepted, datagrams, .. } = stats;
    let (received, answered) = (datagrams.received, datagrams.answered);
    if stopping {
        return format!("draining: {active} connections are left");
    }
    format!(
        "serving: {active} connections open, {accepted} accepted in all; \
         {answered} of {received} datagrams answered"
    )
}

//! The task of a connection: one that is served, or one for which there is no place.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Handler;
use crate::Error;
use crate::connection::Connection;
use crate::gate::Refusal;
use crate::stats::Ending;

/// What a refused connection has for everything: to ask, to be told, and to close.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// One connection's task.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice, and a task's size is paid by every idle connection"
)]
pub(super) fn run<H: Handler>(
    mut connection: Box<Connection>,
    handler: Arc<H>,
) -> impl Future<Output = Ending> + Send {
    async move {
        let result = match connection.admit() {
            // Boxed: over soon, and larger than what comes after.
            #[cfg(feature = "tls")]
            Ok(()) if connection.may_be_secured() => {
                handler.accepted(&mut connection);
                match Box::pin(connection.secure()).await {
                    Ok(()) => handler.run(&mut connection).await,
                    Err(error) => Err(error),
                }
            }
            Ok(()) => handler.run(&mut connection).await,
            Err(error) => Err(error),
        };
        // Boxed: the rest of a connection's life is short, and needs more room than all before.
        let ending = Box::pin(connection.finish(result)).await;
        connection.ending = Some(ending);
        ending
    }
}

/// The task of a connection for which there is no place.
pub(super) async fn refuse<H: Handler>(
    mut connection: Box<Connection>,
    handler: Arc<H>,
    place: Refusal,
) -> Ending {
    let until = Instant::now() + REFUSAL_TIME;
    let told = timeout_at(until, async {
        let told = handler.turn_away(&mut connection).await;
        connection.finish(told.and(Err(Error::Busy))).await
    });
    // Out of time, it is reset.
    let ending = told.await.unwrap_or(Ending::Failed);
    connection.ending = Some(ending);
    // Its descriptor before its place: who gets the place needs one.
    drop(connection);
    drop(place);
    ending
}

//! Files read away from the daemon's loop: a file system that hangs holds up no signal, no heartbeat, no stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::auth::Users;
use crate::config::Config;
use crate::exit::{CONFIG, Failure};
use crate::tls::{self, Secured};

/// How long a file system may take to give the files: far longer than one that works, and less than who asks
/// waits for.
const READ_TIME: Duration = Duration::from_secs(10);

/// Reads one after another, so that readings that hang do not add up.
#[derive(Debug, Default)]
pub(crate) struct Reader(Arc<Mutex<()>>);

impl Reader {
    /// Runs `read`, which may block.
    ///
    /// # Errors
    /// Its own, or that it takes too long.
    ///
    /// # Cancel safety
    /// Dropped, it goes on until the files are read, and nobody hears of it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = Arc::clone(&self.0);
        let reading = async {
            let turn = turn.lock_owned().await;
            let read = spawn_blocking(move || {
                let _until_it_is_read = turn;
                read()
            });
            read.await.unwrap_or_else(|_| Err(Failure::defect()))
        };
        timeout_at(Instant::now() + READ_TIME, reading).await.unwrap_or_else(|_| {
            let message = format!(
                "the files could not be read within {READ_TIME:?}: their file system hangs"
            );
            Err(Failure::new(CONFIG, message))
        })
    }
}

/// Whom the server lets in, and what it shows of itself: from files that the settings name.
pub(crate) struct Trust {
    pub(crate) secured: Option<Secured>,
    pub(crate) users: Option<Users>,
}

impl Trust {
    /// Reads them. It may block.
    pub(crate) fn read(config: &Config) -> Result<Self, Failure> {
        Ok(Self { secured: tls::secured(config)?, users: config.settings.users()? })
    }
}

//! Settings read anew while the server runs: all of them take effect, or none.

use std::ffi::OsString;

use echo_core::{Endpoint, Limits, Service};

use crate::bind::{self, Bound};
use crate::config::Config;
use crate::exit::Failure;
use crate::logging::Log;
use crate::open_files;
use crate::passed::Passed;
use crate::serving::Serving;

/// Settings of the process, which has them from its start to its end.
const AT_START: [&str; 4] = ["admin", "workers", "log", "control"];

/// A change of which nothing can fail any more.
pub(crate) struct Change {
    config: Config,
    limits: Limits,
    /// What is listened on already, with how it is to speak.
    kept: Vec<Endpoint>,
    added: Vec<Bound>,
}

/// Reads everything anew, and binds what is new to listen on. Nothing has changed until the change is
/// [made](Change::make).
///
/// # Cancel safety
/// Dropped, it leaves nothing behind.
pub(crate) async fn prepare(
    argv: &[OsString],
    running: &Config,
    serving: &Serving<'_>,
    passed: &Passed,
) -> Result<Change, Failure> {
    let mut config = Config::read(argv)?;
    config.or_listen_on(passed.endpoints());
    config.refuse_changes(running, &AT_START)?;
    let limits = config.settings.limits(open_files::raise())?;
    // Those that no peer finds any more are bound anew.
    let mut listening: Vec<_> = serving.endpoints(passed).collect();
    let (mut kept, mut new) = (Vec::new(), Vec::new());
    for (index, (uri, endpoint)) in config.listen.iter().enumerate() {
        match listening.iter().position(|it| it.address == endpoint.address) {
            Some(found) if listening.remove(found).perm == endpoint.perm => {
                kept.push(endpoint.clone());
            }
            Some(_) => {
                return Err(config.blame_listen(index, "perm cannot change while it listens"));
            }
            None => new.push((uri.clone(), endpoint.clone())),
        }
    }
    let added = bind::bind(&new, config.settings.workers(), passed).await?;
    Ok(Change { config, limits, kept, added })
}

impl Change {
    /// Makes the change, and says in words which it was.
    pub(crate) fn make(
        self,
        running: &mut Config,
        serving: &mut Serving<'_>,
        service: &Service,
        log: &Log,
    ) -> String {
        let Self { config, limits, kept, added } = self;
        let settings = &config.settings;
        log.set(&settings.log_level, settings.access_log);
        service.set_limits(&limits);
        let removed = serving.keep(&kept, &settings.greeting, settings.drain_timeout);
        let (all, new) = (config.listen.len(), added.len());
        for Bound { uri, .. } in &added {
            tracing::info!("listening {uri}");
        }
        bind::announce_protection(&added, &limits);
        serving.add(added, &settings.greeting);
        *running = config;
        format!("reloaded: {all} to listen on, {new} of them new, {removed} drained")
    }
}

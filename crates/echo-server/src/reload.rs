//! Settings read anew while the server runs: all of them take effect, or none.

use std::ffi::OsString;

use echo_core::{Endpoint, Limits, Seldom, Service};

use crate::auth::{Auth, Users};
use crate::bind::{self, Bound};
use crate::config::Config;
use crate::exit::Failure;
use crate::logging::Log;
use crate::open_files;
use crate::own;
use crate::passed::Passed;
use crate::reader::{Reader, Trust};
use crate::serving::Serving;
use crate::tls::Secured;

/// Settings of the process, which has them from its start to its end.
const AT_START: [&str; 12] = [
    "admin",
    "workers",
    "log",
    "control",
    "files",
    "anonymous-put",
    "files-bytes",
    "files-count",
    "files-transfers",
    "files-user-bytes",
    "files-user-count",
    "files-user-transfers",
];

/// Reloads that failed, for the log.
#[derive(Default)]
pub(crate) struct Failures {
    last: String,
    seldom: Seldom,
}

impl Failures {
    /// Logs a failure: where somebody `asked` for it always, and after a signal, of which there may be
    /// many, only if it is another one than the last, or a minute has passed.
    pub(crate) fn log(&mut self, failure: &Failure, asked: bool) {
        let failure = failure.to_string();
        if asked || failure != self.last {
            *self = Self { last: failure, seldom: Seldom::default() };
        }
        let last = &self.last;
        if let Some(muted) = self.seldom.speak() {
            tracing::error!(muted, "not reloaded, nothing has changed: {last}");
        }
    }
}

/// A change of which nothing can fail any more.
pub(crate) struct Change {
    config: Config,
    limits: Limits,
    users: Option<Users>,
    /// What is listened on already, with how it is to speak.
    kept: Vec<Endpoint>,
    added: Vec<Bound>,
    secured: Option<Secured>,
}

/// Reads everything anew, and binds what is new to listen on. Nothing has changed until the change is
/// [made](Change::make).
///
/// # Cancel safety
/// Dropped, it leaves nothing behind.
pub(crate) async fn prepare(
    reader: &Reader,
    argv: &[OsString],
    running: &Config,
    serving: &Serving<'_>,
    passed: &Passed,
) -> Result<Change, Failure> {
    let (argv, endpoints) = (argv.to_vec(), passed.endpoints());
    let read = reader.run(move || {
        let mut config = Config::read(&argv)?;
        config.or_listen_on(endpoints);
        Trust::read(&config).map(|trust| (config, trust))
    });
    let (config, Trust { secured, users }) = read.await?;
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
    match bind::bind(&new, config.settings.workers(), passed).await {
        Ok(added) => Ok(Change { config, limits, users, kept, added, secured }),
        Err(failure) => {
            // What is served, and is in the way until its listener is gone.
            let ending =
                listening.iter().map(|&it| (format!("{it}, until a restart,"), it.clone()));
            let own: Vec<_> = ending.chain(own::addresses(&config)).collect();
            Err(own::clash(&own).await.unwrap_or(failure))
        }
    }
}

impl Change {
    /// Makes the change, and says in words which it was.
    pub(crate) fn make(
        self,
        running: &mut Config,
        serving: &mut Serving<'_>,
        service: &Service,
        auth: &Auth,
        log: &Log,
    ) -> String {
        let Self { config, limits, users, kept, added, secured } = self;
        let secured = secured.as_ref();
        let settings = &config.settings;
        log.set(&settings.log_level, settings.access_log);
        service.set_limits(&limits);
        auth.set(users);
        let removed = serving.keep(&kept, &settings.greeting, secured, settings.drain_timeout);
        let (all, new) = (config.listen.len(), added.len());
        for Bound { uri, .. } in &added {
            tracing::info!("listening {uri}");
        }
        serving.add(added, &settings.greeting, secured);
        serving.say_protection(&limits);
        if let Some(warning) = secured.and_then(Secured::warning) {
            tracing::warn!("{warning}");
        }
        *running = config;
        format!("reloaded: {all} to listen on, {new} of them new, {removed} drained")
    }
}

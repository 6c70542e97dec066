//! The server's life, from its first signal handler to its last line.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use echo_core::{Drain, Limits, Service};
use rustix::process::Signal;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::access;
use crate::admin::Admin;
use crate::attend::{attend, status};
use crate::auth::Auth;
use crate::bind;
use crate::config::Config;
use crate::control::{self, Control};
use crate::end::End;
use crate::exit::{Failure, SIGNALLED, UNAVAILABLE};
use crate::extension::Extension;
use crate::files::{self, Files, Quota, Used};
use crate::logging::Log;
use crate::metrics::{Metrics, Stored};
use crate::notify::Notify;
use crate::open_files;
use crate::own;
use crate::passed::{Descriptors, Passed};
use crate::reader::{Reader, Trust};
use crate::readiness::Readiness;
use crate::reload::{self, Failures};
use crate::serving::Serving;
use crate::signals::{Signalled, Signals, Stop};
use crate::tls::Secured;

/// How often the manager hears that files are still being counted.
const COUNTING: Duration = Duration::from_secs(5);
/// How long uploads that the end has cut may take to be parked. A crash then costs no more than any.
const PARKING: Duration = Duration::from_millis(500);
/// How long the last line may take where nobody reads stderr.
const LAST_LINE: Duration = Duration::from_secs(1);
/// The same after a hard stop.
const LAST_LINE_HARD: Duration = Duration::from_millis(100);

/// How long a service manager that does not read holds up the end, so that it hears that sockets are closed.
const LAST_WORD: Duration = Duration::from_millis(500);
/// The same after a hard stop.
const LAST_WORD_HARD: Duration = Duration::from_millis(20);

/// Serves until a signal or a failure ends it, says so on stderr, and gives the exit code.
pub(crate) fn run(argv: &[OsString], config: Config) -> Result<u8, Failure> {
    let descriptors = Descriptors::take()?;
    let settings = &config.settings;
    let log = Log::start(settings.log, &settings.log_level, settings.access_log)?;
    // A defect in here is logged by the panic hook; its line must not be lost with the process.
    let ended = catch_unwind(AssertUnwindSafe(|| start(argv, config, &log, descriptors)))
        .unwrap_or_else(|_| Err(Failure::defect()));
    let (last_line, code) = match &ended {
        Ok(end) => (end.summary(), end.code()),
        Err(failure) => (failure.line(), failure.code),
    };
    let dropped = log.dropped();
    if dropped > 0 {
        tracing::warn!(dropped, "log lines were lost: nobody read them fast enough");
    }
    log.finish(&last_line, if code > SIGNALLED { LAST_LINE_HARD } else { LAST_LINE });
    Ok(code)
}

fn start(
    argv: &[OsString],
    config: Config,
    log: &Log,
    descriptors: Descriptors,
) -> Result<End, Failure> {
    let limits = config.settings.limits(open_files::raise())?;
    let runtime = runtime(config.settings.workers());
    let runtime = runtime.map_err(|error| Failure::cannot_start(&error))?;
    let notify = Notify::start().map_err(|error| Failure::cannot_start(&error))?;
    let own = own::addresses(&config);
    let end = runtime.block_on(async {
        // Before anybody can know that the server is there.
        let mut signals = Signals::new().map_err(|error| Failure::cannot_start(&error))?;
        match live(argv, config, limits, log, descriptors, &notify, &mut signals).await {
            // What is in use is perhaps so by this server, whose names take their time.
            Err(failure) if failure.code == UNAVAILABLE => tokio::select! {
                clash = own::clash(&own) => Err(clash.unwrap_or(failure)),
                _ = signals.stop() => Err(failure),
            },
            end => end,
        }
    });
    // A name that still resolves holds nobody up.
    runtime.shutdown_background();
    let hard = end.as_ref().is_ok_and(|end| end.stopped_hard.is_some());
    notify.finish(if hard { LAST_WORD_HARD } else { LAST_WORD });
    end
}

fn runtime(workers: NonZeroUsize) -> io::Result<Runtime> {
    let mut builder = runtime::Builder::new_multi_thread();
    builder.worker_threads(workers.get());
    // With the default settings (61 and 1024) about 1,000 busy connections are served unfairly: one
    // look at the sockets brings more tasks than a worker's queue of 256 holds, and the rest starves
    // in the global queue: p99 becomes ten times that of a plain epoll loop. Looking less often and
    // taking less at a time keeps it level. Either setting alone falls short.
    builder.event_interval(512).max_io_events_per_tick(64);
    builder.thread_name("worker").enable_all().build()
}

async fn live(
    argv: &[OsString],
    mut config: Config,
    limits: Limits,
    log: &Log,
    descriptors: Descriptors,
    notify: &Notify,
    signals: &mut Signals,
) -> Result<End, Failure> {
    let service = Service::new(limits.clone(), Drain::new());
    service.on_close(access::log);
    let auth = Arc::new(Auth::default());
    let readiness = Readiness::starting();
    // Of many files it takes a while until they are counted.
    let stored = Stored::default();
    // It answers to the very end, which is where it is dropped.
    let _admin = tokio::select! {
        admin = admin(&config, &service, &auth, &stored, &readiness, log) => admin?,
        _ = signals.stop() => return Ok(End::default()),
    };
    let files = tokio::select! {
        files = files(&config, &stored, notify) => files?,
        _ = signals.stop() => return Ok(End::default()),
    };
    let mut control =
        Control::listen(control::path(config.settings.control.as_deref()).as_deref())?;
    let mut passed = Passed::new(descriptors)?;
    passed.forget_lost(notify);
    config.or_listen_on(passed.endpoints());
    let reader = Reader::default();
    let reading = reader.run(move || Trust::read(&config).map(|trust| (config, trust)));
    let (config, Trust { secured, users }) = tokio::select! {
        read = reading => read?,
        _ = signals.stop() => return Ok(End::default()),
    };
    auth.set(users);
    if let Some(warning) = secured.as_ref().and_then(Secured::warning) {
        tracing::warn!("{warning}");
    }
    let binding = async {
        passed.forget_unwanted(&config.listen, notify).await;
        bind::bind(&config.listen, config.settings.workers(), &passed).await
    };
    let bound = tokio::select! {
        bound = binding => bound?,
        _ = signals.stop() => return Ok(End::default()),
    };
    // From here on connections are taken; those that come at once wait for microseconds.
    readiness.ready();
    bind::announce(&bound).map_err(|error| Failure::cannot_start(&error))?;
    let extension = Extension::new(Arc::clone(&auth), files.clone());
    let mut serving = Serving::new(service.clone(), extension, notify);
    serving.add(bound, &config.settings.greeting, secured.as_ref());
    serving.say_protection(&limits);
    passed.forget_unused(&serving.stored(), notify);
    let mut daemon = Daemon {
        argv,
        config,
        service: service.clone(),
        auth,
        readiness,
        serving,
        passed,
        reader,
        log,
        notify,
    };
    let life = async {
        daemon.serve(signals, &mut control).await;
        daemon.drain(signals, &mut control).await
    };
    let end = tokio::select! {
        end = life => end,
        never = attend(&service, notify) => match never {},
    };
    if let Some(files) = &files {
        files.settled(Instant::now() + PARKING).await;
    }
    control.close().await;
    Ok(end)
}

/// The store, where there is to be one: counted away from this task, however many files there are.
///
/// # Cancel safety
/// Dropped, it goes on until all is counted or the process ends, and nobody hears of it.
async fn files(
    config: &Config,
    stored: &Stored,
    notify: &Notify,
) -> Result<Option<Arc<Files>>, Failure> {
    let Some(path) = &config.settings.files else { return Ok(None) };
    // A file over RLIMIT_FSIZE is an error for its client, and not the end of the server. The handler stays.
    let long_files = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
    drop(long_files.map_err(|error| Failure::cannot_start(&error))?);
    let rules = config.settings.rules();
    let quota = Arc::new(Quota::new(rules.total, rules.each));
    let (folder, counted) = (path.clone(), Arc::clone(&quota));
    let mut opening = spawn_blocking(move || Files::open(&folder, rules, counted));
    let mut last = quota.used();
    let opened = loop {
        match timeout_at(Instant::now() + COUNTING, &mut opening).await {
            Ok(opened) => break opened.map_err(|_| Failure::defect())?,
            // A start that moves has all the time it needs; one that hangs has the manager's.
            Err(_) if quota.used() != last => notify.progress(),
            Err(_) => {}
        }
        last = quota.used();
    };
    let files = opened.map_err(|error| files::unusable(path, &error))?;
    let Used { files: count, bytes, .. } = files.used();
    tracing::info!(files = count, bytes, "files are in {}", path.display());
    Ok(Some(Arc::clone(stored.get_or_init(|| Arc::new(files)))))
}

async fn admin(
    config: &Config,
    service: &Service,
    auth: &Arc<Auth>,
    stored: &Stored,
    readiness: &Readiness,
    log: &Log,
) -> Result<Option<Admin>, Failure> {
    let Some(endpoint) = config.settings.admin.clone() else { return Ok(None) };
    let (auth, stored) = (Arc::clone(auth), Arc::clone(stored));
    let metrics = Metrics::new(service.clone(), auth, stored, readiness.clone(), log.clone());
    let metrics = metrics.map_err(|error| Failure::cannot_start(&error))?;
    Admin::start(endpoint, metrics).await.map(Some)
}

/// What there is while it serves.
struct Daemon<'a> {
    argv: &'a [OsString],
    /// What is in force.
    config: Config,
    service: Service,
    auth: Arc<Auth>,
    readiness: Readiness,
    serving: Serving<'a>,
    passed: Passed,
    reader: Reader,
    log: &'a Log,
    notify: &'a Notify,
}

impl Daemon<'_> {
    /// Serves, and reloads its settings when asked, until it is to stop or a listener has failed.
    async fn serve(&mut self, signals: &mut Signals, control: &mut Control) {
        let mut failures = Failures::default();
        loop {
            self.notify.ready(&status(&self.service.stats(), false));
            let mut asked = None;
            tokio::select! {
                signalled = signals.next() => if let Signalled::Stop(stop) = signalled {
                    return self.say_stop(stop);
                },
                reload = control.next() => asked = Some(reload),
                // What is left is drained.
                () = self.serving.failed() => {
                    return self.readiness.ending("a listener failed".to_owned());
                }
            }
            self.notify.reloading();
            self.passed.forget_lost(self.notify);
            let prepared =
                reload::prepare(&self.reader, self.argv, &self.config, &self.serving, &self.passed);
            // A stop need not wait for files that cannot be read and names that do not resolve.
            let reloaded = tokio::select! {
                change = prepared => change,
                stop = signals.stop() => return self.say_stop(stop),
            };
            let reloaded = reloaded.map(|change| {
                let (config, serving) = (&mut self.config, &mut self.serving);
                change.make(config, serving, &self.service, &self.auth, self.log)
            });
            let mut stopped = None;
            match &reloaded {
                Ok(words) => {
                    // Whose path was unlinked, and which the manager holds no longer.
                    self.passed.forget_unused(&self.serving.stored(), self.notify);
                    // Who asks can rely on it that what was removed is refused, and can be had again.
                    tokio::select! {
                        () = self.serving.closed() => {}
                        stop = signals.stop() => stopped = Some(stop),
                    }
                    tracing::info!("{words}");
                    failures = Failures::default();
                }
                Err(failure) => failures.log(failure, asked.is_some()),
            }
            if let Some(asked) = asked {
                // Who asked may have gone.
                let _ = asked.send(reloaded.map_err(|failure| format!("not reloaded: {failure}")));
            }
            if let Some(stop) = stopped {
                return self.say_stop(stop);
            }
        }
    }

    fn say_stop(&self, stop: Stop) {
        self.readiness.ending(stop.to_string());
        let settings = &self.config.settings;
        tracing::info!(
            connections = self.service.stats().active,
            "{stop}: draining for at most {:?}; a second signal stops hard",
            settings.drain_delay + settings.drain_timeout,
        );
    }

    /// Ends everything that is open, gently at first.
    async fn drain(mut self, signals: &mut Signals, control: &mut Control) -> End {
        self.notify.stopping();
        // What others hold lives on with them; our own sockets shall close with their listeners.
        self.passed = Passed::default();
        let settings = &self.config.settings;
        let hard = tokio::select! {
            stop = signals.stop() => Some(stop),
            () = self.serving.drain(settings.drain_delay, settings.drain_timeout) => None,
            never = control.refuse("the server is stopping") => match never {},
        };
        if let Some(stop) = hard {
            tracing::warn!("{stop}: stopping hard");
            self.serving.cut(stop).await;
        }
        self.serving.end()
    }
}

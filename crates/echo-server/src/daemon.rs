//! The server's life, from its first signal handler to its last line.

use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use echo_core::{
    DatagramEcho, Datagrams, Drain, Echo, Ended, Endpoint, Limits, Report, ServeError, Service,
    serve, serve_datagrams,
};
use tokio::runtime::{self, Runtime};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use crate::admin::Admin;
use crate::args::Arguments;
use crate::bind::{self, Bound, Sockets};
use crate::exit::{FORCED, Failure, IO, SIGNALLED, SOFTWARE};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::signals::{Signals, Stop};
use crate::stderr::Stderr;
use crate::{logging, open_files};

/// How long a hard stop waits for tasks to see it.
const HARD_STOP: Duration = Duration::from_millis(150);
/// How long the last line may take where nobody reads stderr.
const LAST_LINE: Duration = Duration::from_secs(1);
/// The same after a hard stop.
const LAST_LINE_HARD: Duration = Duration::from_millis(100);

/// Serves until a signal or a failure ends it, says so on stderr, and gives the exit code.
pub(crate) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let stderr = Stderr::start().map_err(|error| Failure::cannot_start(&error))?;
    logging::start(arguments.log, &stderr);
    // A defect in here is logged by the panic hook; its line must not be lost with the process.
    let ended = catch_unwind(AssertUnwindSafe(|| start(arguments, &stderr)))
        .unwrap_or_else(|_| Err(Failure::defect()));
    let (last_line, code) = match &ended {
        Ok(end) => (end.summary(), end.code()),
        Err(failure) => (failure.line(), failure.code),
    };
    let dropped = stderr.dropped();
    if dropped > 0 {
        tracing::warn!(dropped, "log lines were dropped: stderr was not read fast enough");
    }
    stderr.finish(&last_line, if code > SIGNALLED { LAST_LINE_HARD } else { LAST_LINE });
    Ok(code)
}

fn start(arguments: &Arguments, stderr: &Stderr) -> Result<End, Failure> {
    let endpoints = arguments.endpoints()?;
    let limits = arguments.limits(open_files::raise())?;
    let runtime =
        runtime(workers(arguments.workers)).map_err(|error| Failure::cannot_start(&error))?;
    let service = Service::new(limits.clone(), Drain::new());
    let readiness = Readiness::starting();
    // It answers to the very end, which is where it is dropped.
    let _admin = match &arguments.admin {
        Some(endpoint) => {
            let metrics = Metrics::new(service.clone(), readiness.clone(), stderr.clone())
                .map_err(|error| Failure::cannot_start(&error))?;
            Some(Admin::start(endpoint.clone(), metrics, runtime.handle().clone())?)
        }
        None => None,
    };
    let end = runtime.block_on(live(arguments, &endpoints, limits, service, &readiness));
    // A name that still resolves holds nobody up.
    runtime.shutdown_background();
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

/// Worker threads, `wanted` or one for each core that this process may use.
fn workers(wanted: Option<u16>) -> NonZeroUsize {
    let wanted = wanted.and_then(|wanted| NonZeroUsize::new(wanted.into()));
    wanted.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

async fn live(
    arguments: &Arguments,
    endpoints: &[(String, Endpoint)],
    limits: Limits,
    service: Service,
    readiness: &Readiness,
) -> Result<End, Failure> {
    // Before anybody can know that the server is there.
    let mut signals = Signals::new().map_err(|error| Failure::cannot_start(&error))?;
    let bound = tokio::select! {
        bound = bind::bind(endpoints, workers(arguments.workers)) => bound?,
        _ = signals.stop() => return Ok(End::default()),
    };
    // From here on connections are taken; those that come at once wait for microseconds.
    readiness.ready();
    bind::announce(&bound).map_err(|error| Failure::cannot_start(&error))?;
    bind::announce_protection(&bound, &limits);
    let greeting = arguments.greeting.as_deref().unwrap_or_default();
    let mut serving = Serving::start(bound, &service, greeting);

    tokio::select! {
        signal = signals.stop() => {
            readiness.ending(signal.to_string());
            tracing::info!(
                connections = service.stats().active,
                "{signal}: draining for at most {:?}; a second signal stops hard",
                arguments.drain_delay + arguments.drain_timeout,
            );
        }
        // What is left is drained.
        () = serving.one_ended() => readiness.ending("a listener failed".to_owned()),
    }
    let hard = tokio::select! {
        stop = signals.stop() => Some(stop),
        () = serving.drain(arguments.drain_delay, arguments.drain_timeout) => None,
    };
    if let Some(stop) = hard {
        tracing::warn!("{stop}: stopping hard");
        serving.cut(stop).await;
    }
    Ok(serving.end())
}

/// The listeners at work, each in a task of its own.
struct Serving {
    service: Service,
    tasks: JoinSet<Result<Report, ServeError>>,
    end: End,
}

impl Serving {
    fn start(bound: Vec<Bound>, service: &Service, greeting: &str) -> Self {
        let mut tasks = JoinSet::new();
        let mut datagrams = Vec::new();
        for Bound { mode, rate, sockets, .. } in bound {
            match sockets {
                Sockets::Listeners(listeners) => {
                    // SIGPIPE is ignored: std has seen to it before main.
                    let echo = Echo::new(mode).greeting(greeting).splice(true);
                    let echo = Arc::new(echo);
                    for listener in listeners {
                        tasks.spawn(serve(listener, service.clone(), Arc::clone(&echo)));
                    }
                }
                Sockets::Datagrams(sockets) => {
                    let echo = Arc::new(DatagramEcho::new(mode).rate(rate));
                    for socket in sockets {
                        datagrams.push(serve_datagrams(socket, service.clone(), Arc::clone(&echo)));
                    }
                }
            }
        }
        // Now that the service knows all its ports, none of which it talks to.
        datagrams.into_iter().for_each(|serving| drop(tasks.spawn(serving)));
        Self { service: service.clone(), tasks, end: End::default() }
    }

    /// Waits until a listener has ended. Cancel safe.
    async fn one_ended(&mut self) {
        if let Some(ended) = self.tasks.join_next().await {
            self.end.add(ended);
        }
    }

    /// Drains all listeners after `delay` and waits for their ends. Cancel safe.
    async fn drain(&mut self, delay: Duration, timeout: Duration) {
        if self.end.failure.is_none() && !delay.is_zero() {
            sleep(delay).await;
        }
        self.service.drain().start(timeout);
        while !self.tasks.is_empty() {
            self.one_ended().await;
        }
    }

    /// Ends everything now.
    async fn cut(&mut self, stop: Stop) {
        self.end.stopped_hard = Some(stop);
        self.service.drain().cut();
        let deadline = Instant::now() + HARD_STOP;
        let all = self.drain(Duration::ZERO, Duration::ZERO);
        if timeout_at(deadline, all).await.is_err() {
            let left = self.service.stats().active as u64;
            tracing::error!("{left} connections did not see the hard stop in time");
            self.end.report.drained.forced += left;
        }
    }

    /// How it ended, with the books checked.
    fn end(self) -> End {
        let stats = self.service.stats();
        if stats.accepted != stats.ended.total() + stats.active as u64 {
            tracing::error!(?stats, "the ends of connections do not add up, which is a defect");
        }
        let Datagrams { received, answered, .. } = stats.datagrams;
        if received != answered + stats.datagrams.unanswered() {
            tracing::error!(?stats, "the ends of datagrams do not add up, which is a defect");
        }
        if received > 0 {
            tracing::info!("datagrams: {}", counted(&stats.datagrams));
        }
        self.end
    }
}

/// The counters that are not 0, as `name=count`.
fn counted(datagrams: &Datagrams) -> String {
    let counters = [
        ("received", datagrams.received),
        ("answered", datagrams.answered),
        ("truncated", datagrams.truncated),
        ("refused_port", datagrams.refused_port),
        ("refused_address", datagrams.refused_address),
        ("over_rate", datagrams.over_rate),
        ("probe_replies", datagrams.probe_replies),
        ("unnamed", datagrams.unnamed),
        ("blocked", datagrams.blocked),
        ("failed", datagrams.failed),
        ("receive_errors", datagrams.receive_errors),
        ("kernel_drops", datagrams.kernel_drops),
    ];
    let counted = counters.iter().filter(|(_, count)| *count > 0);
    counted.map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
}

/// What is said and returned at the end.
#[derive(Default)]
struct End {
    report: Report,
    failure: Option<u8>,
    stopped_hard: Option<Stop>,
}

impl End {
    fn add(&mut self, ended: Result<Result<Report, ServeError>, JoinError>) {
        match ended {
            Ok(Ok(report)) => self.report = self.report.merge(report),
            Ok(Err(error)) => {
                // The library has said so at once.
                self.report = self.report.merge(error.report);
                self.failure.get_or_insert(IO);
            }
            Err(error) => {
                tracing::error!("a listener's task ended; everything is drained: {error}");
                self.failure = Some(SOFTWARE);
            }
        }
    }

    fn code(&self) -> u8 {
        match (self.stopped_hard, self.failure) {
            (Some(stop), _) => SIGNALLED + stop.number(),
            (None, Some(failure)) => failure,
            (None, None) if self.report.drained.forced > 0 => FORCED,
            (None, None) => 0,
        }
    }

    /// The last line on stderr, which other programs read.
    fn summary(&self) -> String {
        let Report { drained, took, reset_in_queue, datagrams, .. } = self.report;
        let Ended { completed, quiet, forced, failed, panicked, .. } = drained;
        let mut line = format!(
            "drained in {:.3}s: connections={} completed={completed} quiet={quiet} \
             forced={forced} failed={failed} panicked={panicked}",
            took.as_secs_f64(),
            drained.total(),
        );
        if reset_in_queue > 0 {
            line += &format!(" reset_in_queue={reset_in_queue}");
        }
        if datagrams > 0 {
            line += &format!(" datagrams={datagrams}");
        }
        line + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_the_worst() {
        let mut end = End::default();
        assert_eq!(end.code(), 0);
        end.report.drained.forced = 1;
        assert_eq!(end.code(), FORCED);
        end.failure = Some(IO);
        assert_eq!(end.code(), IO);
        end.stopped_hard = Some(Stop::Terminate);
        assert_eq!(end.code(), 143);
        end.stopped_hard = Some(Stop::Interrupt);
        assert_eq!(end.code(), 130);
    }

    #[test]
    fn the_summary_is_one_line_of_fixed_form() {
        let mut end = End::default();
        end.report.took = Duration::from_micros(123_400);
        end.report.drained.completed = 61;
        end.report.drained.quiet = 2;
        end.report.drained.forced = 1;
        let line = "drained in 0.123s: connections=64 completed=61 quiet=2 forced=1 failed=0 \
                    panicked=0";
        assert_eq!(end.summary(), format!("{line}\n"));
        end.report.reset_in_queue = 5;
        assert_eq!(end.summary(), format!("{line} reset_in_queue=5\n"));
        end.report.datagrams = 7;
        assert_eq!(end.summary(), format!("{line} reset_in_queue=5 datagrams=7\n"));
    }
}

//! How the server ended: what it says last, and its exit code.

use echo_core::{Ended, Report, ServeError};
use tokio::task::JoinError;

use crate::exit::{FORCED, IO, SIGNALLED, SOFTWARE};
use crate::signals::Stop;

/// What is said and returned at the end.
#[derive(Default)]
pub(crate) struct End {
    pub(crate) report: Report,
    pub(crate) failure: Option<u8>,
    pub(crate) stopped_hard: Option<Stop>,
}

impl End {
    pub(crate) fn add(&mut self, ended: Result<Result<Report, ServeError>, JoinError>) {
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

    pub(crate) fn code(&self) -> u8 {
        match (self.stopped_hard, self.failure) {
            (Some(stop), _) => SIGNALLED + stop.number(),
            (None, Some(failure)) => failure,
            (None, None) if self.report.drained.forced > 0 => FORCED,
            (None, None) => 0,
        }
    }

    /// The last line on stderr, which other programs read.
    pub(crate) fn summary(&self) -> String {
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
    use std::time::Duration;

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

//! What became of the messages, and how long their replies took.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::show::time;

/// Counts and round trips, in constant memory.
pub(crate) struct Tally {
    sent: u64,
    answered: u64,
    /// Of datagrams.
    pub(crate) late: u64,
    pub(crate) doubled: u64,
    overtaken: u64,
    /// Empty until the first reply.
    round_trips: Option<RoundTrips>,
}

/// In nanoseconds. The histogram has them to three digits, rounded up or down; what can be exact is.
struct RoundTrips {
    histogram: Histogram<u64>,
    min: u64,
    max: u64,
    sum: u128,
}

impl Tally {
    pub(crate) const fn new() -> Self {
        Self { sent: 0, answered: 0, late: 0, doubled: 0, overtaken: 0, round_trips: None }
    }

    pub(crate) fn sent(&mut self) {
        self.sent += 1;
    }

    pub(crate) fn answered(&mut self, round_trip: Duration, overtaken: bool) {
        self.answered += 1;
        self.overtaken += u64::from(overtaken);
        let nanos = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX);
        if self.round_trips.is_none() {
            self.round_trips = RoundTrips::new();
        }
        if let Some(round_trips) = &mut self.round_trips {
            round_trips.record(nanos);
        }
    }

    /// Two lines; the second one only when there are round trips. Up to `due` messages still wait
    /// for their replies.
    pub(crate) fn lines(&self, due: u64) -> Vec<String> {
        let Self { sent, answered, .. } = self;
        let due = due.min(sent.saturating_sub(*answered));
        let lost = sent.saturating_sub(answered + due);
        let mut counts = format!("{sent} sent, {answered} answered");
        if due > 0 {
            counts += &format!(", {due} waiting");
        }
        counts += &format!(", {lost} lost");
        if lost > 0 {
            counts += &format!(" ({:.3} %)", 100.0 * lost as f64 / *sent as f64);
        }
        let odd = [(self.late, "late"), (self.doubled, "doubled"), (self.overtaken, "overtaken")];
        for (count, how) in odd.into_iter().filter(|(count, _)| *count > 0) {
            counts += &format!(", {count} {how}");
        }
        let mut lines = vec![counts];
        lines.extend(self.round_trips.as_ref().map(RoundTrips::line));
        lines
    }
}

impl RoundTrips {
    fn new() -> Option<Self> {
        // Three digits are always possible.
        let histogram = Histogram::new(3).ok()?;
        Some(Self { histogram, min: u64::MAX, max: 0, sum: 0 })
    }

    fn record(&mut self, nanos: u64) {
        // It grows as needed.
        let _ = self.histogram.record(nanos);
        (self.min, self.max) = (self.min.min(nanos), self.max.max(nanos));
        self.sum += u128::from(nanos);
    }

    fn line(&self) -> String {
        let Self { histogram, min, max, sum } = self;
        let nanos = |nanos| time(Duration::from_nanos(nanos));
        let at = |quantile| nanos(histogram.value_at_quantile(quantile).clamp(*min, *max));
        let mean = sum / u128::from(histogram.len().max(1));
        format!(
            "min {}  mean {}  p50 {}  p90 {}  p99 {}  max {}",
            nanos(*min),
            nanos(mean as u64),
            at(0.5),
            at(0.9),
            at(0.99),
            nanos(*max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_percentiles() {
        let mut tally = Tally::new();
        assert_eq!(tally.lines(0), ["0 sent, 0 answered, 0 lost"]);
        for micros in 1..=1000 {
            tally.sent();
            tally.answered(Duration::from_micros(micros), false);
        }
        for _ in 0..3 {
            tally.sent();
        }
        let lines = tally.lines(1);
        assert_eq!(lines[0], "1003 sent, 1000 answered, 1 waiting, 2 lost (0.199 %)");
        // Some that wait were sent before.
        assert_eq!(tally.lines(5)[0], "1003 sent, 1000 answered, 3 waiting, 0 lost");
        let trips = "min 1.00 µs  mean 500 µs  p50 500 µs  p90 900 µs  p99 990 µs  max 1.00 ms";
        assert_eq!(lines[1], trips);
    }

    /// A histogram knows its values to three digits, and rounds them down or up.
    #[test]
    fn one_round_trip_is_all_of_them() {
        let mut tally = Tally::new();
        tally.sent();
        tally.answered(Duration::from_nanos(237_450), false);
        let trips = "min 237 µs  mean 237 µs  p50 237 µs  p90 237 µs  p99 237 µs  max 237 µs";
        assert_eq!(tally.lines(0)[1], trips);
    }

    #[test]
    fn any_round_trip_is_taken() {
        let mut tally = Tally::new();
        for time in [Duration::ZERO, Duration::from_hours(24 * 365), Duration::MAX] {
            tally.sent();
            tally.answered(time, true);
        }
        assert_eq!(tally.lines(0)[0], "3 sent, 3 answered, 0 lost, 3 overtaken");
        (tally.late, tally.doubled) = (1, 2);
        assert!(tally.lines(0)[0].ends_with("0 lost, 1 late, 2 doubled, 3 overtaken"));
    }
}

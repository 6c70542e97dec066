//! Log lines about trouble that may last: one a minute, whatever happens.

use std::time::Duration;

use tokio::time::Instant;

/// How often trouble that lasts is logged.
const INTERVAL: Duration = Duration::from_secs(60);

/// Lets one event a minute be logged, and counts the others.
#[derive(Debug, Default)]
pub struct Seldom {
    spoke: Option<Instant>,
    muted: u64,
}

impl Seldom {
    /// How many events were kept quiet since the last line, if it is time for one.
    pub fn speak(&mut self) -> Option<u64> {
        if self.spoke.is_some_and(|at| at.elapsed() < INTERVAL) {
            self.muted += 1;
            return None;
        }
        self.spoke = Some(Instant::now());
        Some(std::mem::take(&mut self.muted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_counts_the_others() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.speak(), Some(0));
        for _ in 0..1000 {
            assert_eq!(seldom.speak(), None);
        }
        tokio::time::advance(INTERVAL - Duration::from_millis(1)).await;
        assert_eq!(seldom.speak(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(seldom.speak(), Some(1001));
        assert_eq!(seldom.speak(), None);
    }
}

//! How long something that was lost is tried again, and how often.

use std::time::{Duration, Instant};

/// How long it is unless it is said.
const LIMIT: Duration = Duration::from_secs(60);

/// The first wait; each further one is twice as long, up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// The last try begins when the time is over, and has so long to show that it is better than those before.
const GRACE: Duration = Duration::from_secs(2);

/// The time that runs from the first loss on, until there is news.
#[derive(Debug)]
pub(super) struct RetryWindow {
    limit: Duration,
    since: Option<Instant>,
    wait: Duration,
}

impl RetryWindow {
    pub(super) fn new(limit: Option<Duration>) -> RetryWindow {
        RetryWindow {
            limit: limit.unwrap_or(LIMIT),
            since: None,
            wait: SHORTEST,
        }
    }

    /// Something new came: the next loss is a first one.
    pub(super) fn news(&mut self) {
        self.since = None;
        self.wait = SHORTEST;
    }

    /// It was lost, and is tried again after this time; not at all if the time is over.
    pub(super) fn lost(&mut self, now: Instant) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        let left = self
            .limit
            .saturating_sub(now.saturating_duration_since(since));
        if left.is_zero() {
            return None;
        }
        let wait = self.wait.min(left);
        self.wait = (self.wait * 2).min(LONGEST);
        Some(wait)
    }

    /// Whether a try that has brought nothing yet is not waited for any longer.
    pub(super) fn over(&self, now: Instant) -> bool {
        self.since
            .is_some_and(|since| now.saturating_duration_since(since) > self.limit + GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_only_news_begin_the_time_again() {
        let mut patience = RetryWindow::new(Some(Duration::from_secs(20)));
        let mut now = Instant::now();
        let mut waits = Vec::new();
        while let Some(wait) = patience.lost(now) {
            waits.push(wait.as_millis());
            assert!(!patience.over(now));
            now += wait;
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000, 3800]);
        assert!(!patience.over(now) && patience.over(now + Duration::from_secs(3)));
        assert_eq!(patience.lost(now), None);
        patience.news();
        assert!(!patience.over(now + Duration::from_secs(3)));
        assert_eq!(patience.lost(now), Some(SHORTEST));
        let mut none = RetryWindow::new(Some(Duration::ZERO));
        assert_eq!(none.lost(now), None);
    }
}

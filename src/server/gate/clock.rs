//! How long a client may take over its body. Only the time counts that is spent waiting for the client.

use std::time::Duration;

use crate::server::gate::refused::Refused;

/// Without a byte.
const IDLE: Duration = Duration::from_secs(60);
/// The span over which the rate is taken.
const SPAN: Duration = Duration::from_secs(60);
/// In a span: 4 KiB a second, which the slowest modem line does.
const SPAN_BYTES: u64 = 60 * (4 << 10);

/// The clock of one body.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    idle: Duration,
    span: Duration,
    bytes: u64,
    /// What is left of all waiting together, where there is little patience.
    budget: Option<Duration>,
}

impl Clock {
    /// How long the next wait may be.
    pub(crate) fn left(&self) -> Duration {
        let left = IDLE
            .saturating_sub(self.idle)
            .min(SPAN.saturating_sub(self.span));
        self.budget.map_or(left, |budget| left.min(budget))
    }

    /// From here on the client is waited for no longer than this in all.
    pub(crate) fn hurry(&mut self, budget: Duration) {
        self.budget = Some(budget);
    }

    /// Bytes came.
    pub(crate) fn came(&mut self, bytes: usize) {
        self.idle = Duration::ZERO;
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// The client was waited for.
    pub(crate) fn waited(&mut self, time: Duration) -> Result<(), Refused> {
        self.idle += time;
        self.span += time;
        if let Some(budget) = &mut self.budget {
            *budget = budget.saturating_sub(time);
            if budget.is_zero() {
                return Err(slow("it came too slowly"));
            }
        }
        if self.idle >= IDLE {
            return Err(slow("nothing came for 60 seconds"));
        }
        if self.span >= SPAN {
            if self.bytes < SPAN_BYTES {
                return Err(slow("less than 4 KiB a second came over 60 seconds"));
            }
            (self.span, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(())
    }
}

fn slow(why: &str) -> Refused {
    Refused::new(408, format!("the body of the request: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of waiting, and the bytes that came at its end.
    fn ends_after(steps: impl IntoIterator<Item = (u64, usize)>) -> Option<u64> {
        let (mut clock, mut total) = (Clock::default(), 0);
        for (seconds, bytes) in steps {
            let mut rest = Duration::from_secs(seconds);
            while !rest.is_zero() {
                let time = rest.min(clock.left());
                (rest, total) = (rest - time, total + time.as_secs());
                if clock.waited(time).is_err() {
                    return Some(total);
                }
            }
            if bytes > 0 {
                clock.came(bytes);
            }
        }
        None
    }

    #[test]
    fn only_a_slow_client_is_ended() {
        assert_eq!(ends_after([(1000, 0)]), Some(60));
        // A byte a second.
        assert_eq!(ends_after([(1, 1); 1000]), Some(60));
        // Just under the rate, and just at it.
        assert_eq!(ends_after([(1, 4095); 1000]), Some(60));
        assert_eq!(
            ends_after([(1, 4096); 1000].into_iter().map(|(s, b)| (s, b + 70))),
            None
        );
        // Fast at first, then nothing: the silence counts, and not the average.
        assert_eq!(ends_after([(1, 1 << 30), (30, 0), (70, 0)]), Some(61));
        assert_eq!(ends_after([(30, 1 << 30), (59, 0)]), None);
        // No waiting, no end.
        assert_eq!(ends_after([(0, 1); 1000]), None);
    }
}

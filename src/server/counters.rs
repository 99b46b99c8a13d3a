//! How requests were answered, in numbers that only grow.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::error::Code;

/// How requests were answered since the server's start, by the server and by the gate in its place.
#[derive(Debug)]
pub struct AnswerCounters {
    /// By the first digit of the status.
    classes: [AtomicU64; 5],
    refused: [AtomicU64; Code::ALL.len()],
}

impl Default for AnswerCounters {
    fn default() -> AnswerCounters {
        AnswerCounters {
            classes: Default::default(),
            refused: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl AnswerCounters {
    /// Counts an answer.
    pub(super) fn answer(&self, status: u16) {
        let class = usize::from(status / 100).checked_sub(1);
        if let Some(count) = class.and_then(|class| self.classes.get(class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts why a request was refused. Its answer is counted beside it.
    pub(super) fn refusal(&self, code: Code) {
        self.refused[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many answers there were of each class, such as `2xx`.
    pub(super) fn classes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self
            .classes
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(counts)
    }

    /// How many requests were refused for each of the reasons.
    pub(super) fn refused(&self) -> impl Iterator<Item = (Code, u64)> {
        let counts = self
            .refused
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        Code::ALL.iter().copied().zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_their_first_digit() {
        let counters = AnswerCounters::default();
        for status in [99, 100, 200, 206, 304, 404, 429, 507, 600] {
            counters.answer(status);
        }
        let counts: Vec<u64> = counters.classes().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 1, 2, 1]);
        counters.refusal(Code::Busy);
        let refused = counters.refused().filter(|(_, count)| *count > 0);
        assert_eq!(refused.collect::<Vec<_>>(), [(Code::Busy, 1)]);
    }
}

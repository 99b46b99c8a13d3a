//! Which events of a deployment were seen already. Harper numbers none, so they are counted.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::formats::sse::SseRecord;

/// As many as Harper keeps of a deployment.
const KEPT: usize = 200;

/// The events that were seen, and what of them may come again.
#[derive(Debug, Default)]
pub(crate) struct SeenEvents {
    count: u64,
    /// How many had been seen when they began to come again.
    before: u64,
    /// A number made of each of the newest.
    newest: VecDeque<u64>,
    /// So many come again before new ones do.
    skip: u64,
    /// Behind a gap nobody can count: what of the newest may still come again, and how often.
    again: HashMap<u64, usize>,
}

impl SeenEvents {
    /// They are sent from the first one on.
    pub(crate) fn begin_again(&mut self) {
        self.before = self.count;
        self.skip = self.count;
        self.again.clear();
    }

    /// Whether an event was not seen before.
    pub(crate) fn is_new(&mut self, record: &SseRecord) -> bool {
        if record.event == "truncated" && self.before > 0 {
            // How many are missing is told wrongly. What follows are the newest ones.
            self.skip = 0;
            for number in &self.newest {
                *self.again.entry(*number).or_default() += 1;
            }
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let mut hasher = DefaultHasher::new();
        (&record.event, &record.data).hash(&mut hasher);
        let number = hasher.finish();
        if let Some(count) = self.again.get_mut(&number).filter(|count| **count > 0) {
            *count -= 1;
            return false;
        }
        self.count += 1;
        if self.newest.len() == KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back(number);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(seen: &mut SeenEvents, lines: &[&str]) -> Vec<String> {
        let record = |line: &&&str| SseRecord {
            id: None,
            event: match **line {
                "..." => "truncated".into(),
                _ => "install".into(),
            },
            data: (**line).to_string(),
        };
        let lines = lines
            .iter()
            .filter(|line| seen.is_new(&record(line)))
            .map(|line| (*line).to_string());
        lines.collect()
    }

    #[test]
    fn what_was_seen_is_not_new() {
        let mut seen = SeenEvents::default();
        assert_eq!(new(&mut seen, &["a", "b", "b"]), ["a", "b", "b"]);
        seen.begin_again();
        assert_eq!(new(&mut seen, &["a", "b", "b", "b", "c"]), ["b", "c"]);
        seen.begin_again();
        // A log that lost its middle: what it has of the newest is told by its looks.
        assert_eq!(new(&mut seen, &["a", "...", "b", "c", "d"]), ["d"]);
        seen.begin_again();
        assert_eq!(new(&mut seen, &["a", "b", "b", "b", "c", "d"]), [""; 0]);
        // Whoever has seen nothing is told of the gap.
        let mut fresh = SeenEvents::default();
        fresh.begin_again();
        assert_eq!(new(&mut fresh, &["a", "...", "b"]), ["a", "...", "b"]);
    }
}

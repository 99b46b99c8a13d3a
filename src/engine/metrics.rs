//! What the deployments of this server add up to: counters that only grow and begin with zero at each start, and how many
//! deployments wait at the moment. No number says which component it is of.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::error::Code;
use crate::api::event::{Phase, PhaseEvent, PhaseStatus, Status};
use crate::api::record::{DeploymentKind, Record};

/// The upper bounds of the classes of how long a phase took, in milliseconds: from an activation, which is a rename, to a
/// release's own timeout.
pub const PHASE_BOUNDS_MS: [u64; 9] = [
    10, 100, 500, 1_000, 5_000, 15_000, 60_000, 300_000, 1_800_000,
];

/// How long a phase took, all deployments together.
#[derive(Debug, Default)]
pub struct PhaseTimes {
    /// How many took at most so long, each class without those before it.
    classes: [AtomicU64; PHASE_BOUNDS_MS.len()],
    count: AtomicU64,
    sum_ms: AtomicU64,
}

impl PhaseTimes {
    fn add(&self, ms: u64) {
        // One beyond all bounds is in the count alone.
        if let Some(class) = PHASE_BOUNDS_MS.iter().position(|bound| ms <= *bound) {
            add(&self.classes[class], 1);
        }
        add(&self.sum_ms, ms);
        add(&self.count, 1);
    }

    /// How many took at most as long as each of the bounds.
    pub fn at_most(&self) -> [u64; PHASE_BOUNDS_MS.len()] {
        let mut sum = 0;
        array::from_fn(|class| {
            sum += self.classes[class].load(Ordering::Relaxed);
            sum
        })
    }

    /// How many there were, and never fewer than in the classes, even while one is added.
    pub fn count(&self) -> u64 {
        let classes = self.at_most().last().copied().unwrap_or(0);
        self.count.load(Ordering::Relaxed).max(classes)
    }

    /// All of them together.
    pub fn sum_ms(&self) -> u64 {
        self.sum_ms.load(Ordering::Relaxed)
    }
}

/// What the deployments add up to.
#[derive(Debug)]
pub struct DeploymentMetrics {
    ended: [[AtomicU64; Status::ENDS.len()]; DeploymentKind::ALL.len()],
    failed: [AtomicU64; Code::ALL.len()],
    phases: [PhaseTimes; Phase::ALL.len()],
    received_bytes: AtomicU64,
    reused_bytes: AtomicU64,
    journal_bytes: AtomicU64,
    queued: AtomicU64,
}

impl Default for DeploymentMetrics {
    fn default() -> DeploymentMetrics {
        DeploymentMetrics {
            ended: Default::default(),
            failed: array::from_fn(|_| AtomicU64::new(0)),
            phases: Default::default(),
            received_bytes: AtomicU64::new(0),
            reused_bytes: AtomicU64::new(0),
            journal_bytes: AtomicU64::new(0),
            queued: AtomicU64::new(0),
        }
    }
}

/// A deployment that waits for a place, until this is dropped.
pub(super) struct QueuedDeployment<'a>(&'a AtomicU64);

impl Drop for QueuedDeployment<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl DeploymentMetrics {
    /// Counts a deployment that has ended.
    pub(super) fn end(&self, record: &Record) {
        let kind = &self.ended[record.kind as usize];
        let mut ends = Status::ENDS.iter().zip(kind);
        if let Some((_, count)) = ends.find(|(status, _)| **status == record.status) {
            add(count, 1);
        }
        let code = record
            .error
            .as_ref()
            .and_then(|error| Code::parse(&error.code));
        if let Some(code) = code {
            add(&self.failed[code as usize], 1);
        }
    }

    /// Counts what a phase said at its end.
    pub(super) fn phase(&self, event: &PhaseEvent) {
        let (Some(phase), Some(ms)) = (Phase::parse(&event.phase), event.elapsed_ms) else {
            return;
        };
        self.phases[phase as usize].add(ms);
        if phase == Phase::Extract && event.status == PhaseStatus::Done {
            let number = |name| event.facts.get(name).and_then(|number| number.as_u64());
            add(&self.received_bytes, number("payload_size").unwrap_or(0));
            add(&self.reused_bytes, number("reused_bytes").unwrap_or(0));
        }
    }

    /// Counts what was written into a journal.
    pub(super) fn journal(&self, bytes: u64) {
        add(&self.journal_bytes, bytes);
    }

    /// Counts a deployment as one that waits.
    pub(super) fn wait(&self) -> QueuedDeployment<'_> {
        add(&self.queued, 1);
        QueuedDeployment(&self.queued)
    }

    /// How many deployments of a kind ended in each of the ways.
    pub fn ended(&self, kind: DeploymentKind) -> impl Iterator<Item = (Status, u64)> {
        let counts = self.ended[kind as usize].iter().map(load);
        Status::ENDS.into_iter().zip(counts)
    }

    /// How many deployments failed for each of the reasons.
    pub fn failed(&self) -> impl Iterator<Item = (Code, u64)> {
        Code::ALL.iter().copied().zip(self.failed.iter().map(load))
    }

    /// How long each of the phases took.
    pub fn phases(&self) -> impl Iterator<Item = (Phase, &PhaseTimes)> {
        Phase::ALL.into_iter().zip(&self.phases)
    }

    /// The bytes of the payloads that came and were unpacked.
    pub fn received_bytes(&self) -> u64 {
        load(&self.received_bytes)
    }

    /// The bytes that no payload had to bring.
    pub fn reused_bytes(&self) -> u64 {
        load(&self.reused_bytes)
    }

    /// The bytes that were written into journals.
    pub fn journal_bytes(&self) -> u64 {
        load(&self.journal_bytes)
    }

    /// How many deployments wait for a place.
    pub fn queued(&self) -> u64 {
        load(&self.queued)
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_phase_kind_and_code_has_its_own_place() {
        for (place, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, place);
        }
        for (place, kind) in DeploymentKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        for (place, code) in Code::ALL.iter().enumerate() {
            assert_eq!(*code as usize, place);
        }
    }

    #[test]
    fn times_are_in_the_class_of_their_bound_and_in_all_above_it() {
        let times = PhaseTimes::default();
        for ms in [0, 10, 11, 1_000, 1_800_000, 1_800_001] {
            times.add(ms);
        }
        assert_eq!(times.at_most(), [2, 3, 3, 4, 4, 4, 4, 4, 5]);
        assert_eq!((times.count(), times.sum_ms()), (6, 3_601_022));
    }

    #[test]
    fn only_an_extract_that_went_well_has_received_something() {
        let metrics = DeploymentMetrics::default();
        let facts = json!({"payload_size": 70, "reused_bytes": 5});
        for (phase, status, elapsed_ms) in [
            (Phase::Extract, PhaseStatus::Done, Some(1)),
            (Phase::Extract, PhaseStatus::Error, Some(1)),
            (Phase::Extract, PhaseStatus::Start, None),
            (Phase::Load, PhaseStatus::Done, Some(1)),
        ] {
            metrics.phase(&PhaseEvent {
                phase: phase.word().into(),
                status,
                at: None,
                elapsed_ms,
                message: None,
                facts: facts.as_object().unwrap().clone(),
            });
        }
        assert_eq!((metrics.received_bytes(), metrics.reused_bytes()), (70, 5));
        let counts: Vec<u64> = metrics.phases().map(|(_, times)| times.count()).collect();
        assert_eq!(counts, [0, 2, 0, 0, 1, 0, 0, 0, 0]);
        let waits = (metrics.wait(), metrics.wait());
        assert_eq!(metrics.queued(), 2);
        drop(waits);
        assert_eq!(metrics.queued(), 0);
    }
}

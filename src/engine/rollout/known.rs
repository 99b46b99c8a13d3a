//! What a server hears of all rollouts: enough to know which of them nobody leads, without asking. In a fleet of a thousand every
//! wave of a rollout is news to a thousand servers.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::fleet::{Desired, FleetDocument, FleetKeys, HostName, Rollout};
use crate::api::name::Project;
use crate::client::kv::{KvChange, KvRange};
use crate::engine::rollout::plan::is_active;

/// What was heard, by component.
#[derive(Default)]
pub(super) struct KnownRollouts {
    rollouts: BTreeMap<Project, Rollout>,
    /// The generation that is wanted, and who published it.
    wanted: BTreeMap<Project, (u64, HostName)>,
    led: BTreeSet<Project>,
}

/// A rollout without a leader.
pub(super) struct Leaderless {
    pub(super) project: Project,
    /// Who published it.
    pub(super) origin: HostName,
}

impl KnownRollouts {
    /// What is to be listed, and watched from then on.
    pub(super) fn ranges(keys: &FleetKeys) -> [KvRange; 3] {
        [keys.rollouts(), keys.all_desired(), keys.lead_prefix()].map(KvRange::prefix)
    }

    /// Takes a change in.
    pub(super) fn heard(&mut self, keys: &FleetKeys, change: &KvChange) {
        let (key, value) = match change {
            KvChange::Put(entry) => (&entry.key, Some(&entry.value)),
            KvChange::Deleted { key, .. } => (key, None),
        };
        if let Some(project) = FleetKeys::name_below::<Project>(&keys.lead_prefix(), key) {
            match value {
                Some(_) => self.led.insert(project),
                None => self.led.remove(&project),
            };
        } else if let Some(project) = FleetKeys::name_below::<Project>(&keys.rollouts(), key) {
            // What is of a newer gangplank is led by one.
            match value.and_then(|value| Rollout::read(value).ok()) {
                Some(rollout) => self.rollouts.insert(project, rollout),
                None => self.rollouts.remove(&project),
            };
        } else if let Some(project) = FleetKeys::name_below::<Project>(&keys.all_desired(), key) {
            match value.and_then(|value| Desired::read(value).ok()) {
                Some(desired) => self
                    .wanted
                    .insert(project, (desired.generation, desired.origin)),
                None => self.wanted.remove(&project),
            };
        }
    }

    /// Whether a rollout goes on, and nobody is known to lead it.
    pub(super) fn is_leaderless(&self, project: &Project) -> bool {
        let wanted = self.wanted.get(project).map(|(generation, _)| *generation);
        let rollout = self.rollouts.get(project);
        let goes_on = |one: &Rollout| is_active(one) && Some(one.generation) == wanted;
        rollout.is_some_and(goes_on) && !self.led.contains(project)
    }

    /// All of which that is so.
    pub(super) fn leaderless(&self) -> Vec<Leaderless> {
        let wanted = self.wanted.iter();
        wanted
            .filter(|(project, _)| self.is_leaderless(project))
            .map(|(project, (_, origin))| Leaderless {
                project: project.clone(),
                origin: origin.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::kv::KvEntry;

    #[test]
    fn a_rollout_is_leaderless_while_it_goes_on_and_nobody_leads() {
        let keys = FleetKeys::default();
        let project: Project = "app".parse().unwrap();
        let put = |key: String, value: &str| {
            KvChange::Put(KvEntry {
                key,
                value: value.as_bytes().to_vec(),
                created: 1,
                modified: 1,
                lease: None,
            })
        };
        let desired = |generation: u64| {
            let id = crate::api::name::DeploymentId::after(None, generation, [0; 10]);
            let text = format!(
                r#"{{"v":1,"generation":{generation},"deployment_id":"{id}","sha256":"ab","size":1,"origin":"one"}}"#
            );
            put(keys.desired(&project), &text)
        };
        let rollout = |generation: u64, state: &str| {
            let text = format!(r#"{{"v":1,"generation":{generation},"open":1,"state":"{state}"}}"#);
            put(keys.rollout(&project), &text)
        };
        let leads = || put(keys.lead(&project), r#"{"v":1,"host":"two"}"#);
        let gone = |key: String| KvChange::Deleted { key, revision: 2 };
        let mut known = KnownRollouts::default();
        for (change, is_leaderless) in [
            (rollout(1, "wave"), false),
            (desired(1), true),
            (leads(), false),
            (rollout(1, "soak"), false),
            (gone(keys.lead(&project)), true),
            (rollout(1, "done"), false),
            (rollout(2, "canary"), false),
            (desired(2), true),
            (put(keys.rollout(&project), r#"{"v":2}"#), false),
            (rollout(2, "wave"), true),
            (gone(keys.desired(&project)), false),
        ] {
            known.heard(&keys, &change);
            assert_eq!(known.is_leaderless(&project), is_leaderless, "{change:?}");
            let all = known.leaderless();
            assert_eq!(all.len(), usize::from(is_leaderless));
            assert!(all.iter().all(|one| one.origin.as_str() == "one"));
        }
    }
}

//! What a host does about a component, as a function of what is wanted, how far that may go, and what was done here before.

use std::collections::BTreeMap;

use crate::api::fleet::{Desired, HostName, HostState, Rollout, RolloutState, Unreadable};
use crate::api::name::DeploymentId;
use crate::engine::member::memory::Applied;

/// All that the decision depends on.
pub(super) struct MemberFacts<'a> {
    pub(super) host: &'a HostName,
    pub(super) labels: &'a BTreeMap<String, String>,
    /// What is wanted, if anything is.
    pub(super) desired: Option<&'a Result<Desired, Unreadable>>,
    /// Why what is wanted is not believed.
    pub(super) distrust: Option<String>,
    /// How far it may go.
    pub(super) rollout: Option<&'a Result<Rollout, Unreadable>>,
    /// What was done here.
    pub(super) applied: Option<&'a Applied>,
    /// What is live here.
    pub(super) live: Option<DeploymentId>,
}

/// What a host does.
#[derive(Debug, PartialEq)]
pub(super) enum HostVerdict {
    /// The component is none of this host's.
    Nothing,
    /// It stands so, for this reason.
    Says(HostState, Option<String>),
    /// What was done last is what is wanted; it may be tried again if it failed.
    Done,
    /// It is to be made so, or to be gone on with.
    Go,
}

/// What to do.
pub(super) fn decide(facts: &MemberFacts<'_>) -> HostVerdict {
    let held = |why: String| HostVerdict::Says(HostState::Held, Some(why));
    let desired = match (facts.desired, facts.applied) {
        (Some(Ok(desired)), _) => desired,
        (Some(Err(unreadable)), _) => return held(unreadable.to_string()),
        (None, Some(applied)) => {
            let generation = applied.generation;
            return held(format!(
                "desired is gone, and was at generation {generation} (emptied etcd?)"
            ));
        }
        (None, None) => return HostVerdict::Nothing,
    };
    if !desired.is_for(facts.labels) {
        return HostVerdict::Nothing;
    }
    if let Some(why) = &facts.distrust {
        return held(why.clone());
    }
    let wanted = desired.generation;
    if let Some(applied) = facts.applied {
        let known = applied.generation;
        if wanted < known {
            return held(format!(
                "desired went back from {known} to {wanted} (restored backup?)"
            ));
        }
        if wanted == known && applied.deployment_id != desired.deployment_id {
            return held(format!(
                "generation {wanted} is another deployment than it was (restored backup?)"
            ));
        }
        if wanted == known && applied.is_begun() {
            return HostVerdict::Go;
        }
        if !applied.is_begun() && facts.live != applied.live {
            let why =
                "another release was made live on this host; `gangplank fleet unpin` gives it back";
            return HostVerdict::Says(HostState::Pinned, Some(why.to_owned()));
        }
        if wanted == known {
            return HostVerdict::Done;
        }
    }
    waits_or_goes(facts, desired)
}

fn waits_or_goes(facts: &MemberFacts<'_>, desired: &Desired) -> HostVerdict {
    let waiting = |why: Option<&str>| HostVerdict::Says(HostState::Waiting, why.map(str::to_owned));
    match facts.rollout {
        None => waiting(Some("there is no rollout yet")),
        Some(Err(unreadable)) => HostVerdict::Says(HostState::Held, Some(unreadable.to_string())),
        Some(Ok(rollout)) if rollout.generation != desired.generation => {
            waiting(Some("its rollout has not come yet"))
        }
        Some(Ok(rollout)) => match rollout.opens(desired.deployment_id, facts.host) {
            _ if rollout.state == RolloutState::Stopped => waiting(Some("the rollout was stopped")),
            Some(true) => HostVerdict::Go,
            Some(false) => waiting(None),
            None => waiting(Some("the rollout does not say who may go")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fleet::{EVERYBODY, FleetDocument};

    fn id(n: u64) -> DeploymentId {
        DeploymentId::after(None, n, [0; 10])
    }

    fn desired(generation: u64) -> Desired {
        let text = format!(
            r#"{{"v":1,"generation":{generation},"deployment_id":"{}","sha256":"ab","size":1,"origin":"one"}}"#,
            id(generation)
        );
        Desired::read(text.as_bytes()).unwrap()
    }

    fn rollout(generation: u64, below: Option<&str>, state: RolloutState) -> Rollout {
        let mut text =
            serde_json::json!({"v": 1, "generation": generation, "open": 1, "state": state});
        if let Some(below) = below {
            text["below"] = below.into();
        }
        Rollout::read(text.to_string().as_bytes()).unwrap()
    }

    fn applied(generation: u64, state: HostState) -> Applied {
        Applied {
            generation,
            deployment_id: id(generation),
            state,
            attempt: 1,
            live: Some(id(100)),
            live_of_fleet: None,
            previous_live: None,
            phase: None,
            code: None,
            message: None,
        }
    }

    /// What is decided, as a word and what is said.
    fn decided(
        wanted: Option<Result<Desired, Unreadable>>,
        rollout: Option<Rollout>,
        applied: Option<Applied>,
        live: u64,
    ) -> (String, String) {
        let host = "one".parse().unwrap();
        let rollout = rollout.map(Ok);
        let verdict = decide(&MemberFacts {
            host: &host,
            labels: &BTreeMap::new(),
            desired: wanted.as_ref(),
            distrust: None,
            rollout: rollout.as_ref(),
            applied: applied.as_ref(),
            live: Some(id(live)),
        });
        match verdict {
            HostVerdict::Nothing => ("nothing".into(), String::new()),
            HostVerdict::Says(state, why) => (state.word().into(), why.unwrap_or_default()),
            HostVerdict::Done => ("done".into(), String::new()),
            HostVerdict::Go => ("go".into(), String::new()),
        }
    }

    #[test]
    fn a_host_goes_forward_when_it_is_its_turn() {
        let wave = |generation, below| Some(rollout(generation, below, RolloutState::Wave));
        let wants = |generation| Some(Ok(desired(generation)));
        let did = |generation| Some(applied(generation, HostState::Live));
        let table = [
            (None, None, None, 100, "nothing", ""),
            (wants(1), None, None, 100, "waiting", "no rollout"),
            (wants(1), wave(1, Some("")), None, 100, "waiting", ""),
            (wants(1), wave(1, None), None, 100, "waiting", "who may go"),
            (wants(1), wave(1, Some(EVERYBODY)), None, 100, "go", ""),
            (
                wants(2),
                wave(1, Some(EVERYBODY)),
                did(1),
                100,
                "waiting",
                "not come yet",
            ),
            (wants(2), wave(2, Some(EVERYBODY)), did(1), 100, "go", ""),
            (
                wants(2),
                Some(rollout(2, Some(EVERYBODY), RolloutState::Stopped)),
                did(1),
                100,
                "waiting",
                "stopped",
            ),
            (wants(2), wave(2, Some(EVERYBODY)), did(2), 100, "done", ""),
            (
                wants(2),
                wave(2, Some(EVERYBODY)),
                Some(applied(2, HostState::Failed)),
                100,
                "done",
                "",
            ),
            // What was begun is gone on with, whoever may go by now.
            (
                wants(2),
                wave(2, Some("")),
                Some(applied(2, HostState::Building)),
                7,
                "go",
                "",
            ),
            (
                wants(3),
                wave(3, Some(EVERYBODY)),
                Some(applied(2, HostState::Building)),
                7,
                "go",
                "",
            ),
        ];
        for (wanted, rollout, applied, live, word, why) in table {
            let found = decided(wanted, rollout, applied, live);
            assert_eq!(found.0, word, "{found:?}");
            assert!(found.1.contains(why), "{found:?}");
        }
    }

    #[test]
    fn a_host_holds_what_it_cannot_trust() {
        let open = |generation| Some(rollout(generation, Some(EVERYBODY), RolloutState::Wave));
        let did = |generation| Some(applied(generation, HostState::Live));
        let mut other = desired(12);
        other.deployment_id = id(77);
        let table = [
            (
                Some(Ok(desired(9))),
                open(9),
                did(12),
                100,
                "held",
                "went back from 12 to 9",
            ),
            (
                Some(Ok(other)),
                open(12),
                did(12),
                100,
                "held",
                "another deployment",
            ),
            (None, None, did(12), 100, "held", "emptied"),
            (
                Some(Err(Unreadable::Newer(2))),
                open(13),
                did(12),
                100,
                "held",
                "newer gangplank needed",
            ),
            (
                Some(Ok(desired(13))),
                open(13),
                did(12),
                101,
                "pinned",
                "unpin",
            ),
            (
                Some(Ok(desired(12))),
                open(12),
                did(12),
                101,
                "pinned",
                "unpin",
            ),
        ];
        for (wanted, rollout, applied, live, word, why) in table {
            let found = decided(wanted, rollout, applied, live);
            assert_eq!(found.0, word, "{found:?}");
            assert!(found.1.contains(why), "{found:?}");
        }
    }
}

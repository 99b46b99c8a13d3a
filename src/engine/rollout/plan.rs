//! How a rollout goes in waves.

use std::collections::BTreeMap;

use crate::api::fleet::{Desired, EVERYBODY, Rollout, RolloutOrder, RolloutState};
use crate::api::operation::{FleetOptions, WaveSize};

/// Who goes first where nothing is said: one host is enough to see whether it runs at all.
const CANARY: u64 = 1;
/// How many hosts a wave has where nothing is said: four waves are few enough to wait for, and each leaves most hosts alone.
const WAVE: WaveSize = WaveSize::Percent(25);
/// How long a wave is looked at where nothing is said: longer than it takes a process to die of its start.
const SOAK_S: u64 = 10;
/// How long a host may take where nothing is said.
const HOST_TIMEOUT_S: u64 = 600;

/// The document with which a rollout to so many hosts begins.
pub(super) fn begin(options: &FleetOptions, generation: u64, order: &RolloutOrder) -> Rollout {
    let hosts = order.hosts().count() as u64;
    let wave = match options.wave.unwrap_or(WAVE) {
        WaveSize::Hosts(hosts) => hosts,
        WaveSize::Percent(percent) => (hosts * percent).div_ceil(100),
    };
    let canary = options.canary.unwrap_or(CANARY).min(hosts);
    let (open, state) = match canary {
        // Without a canary the first wave begins.
        0 => (wave.max(1).min(hosts), RolloutState::Wave),
        canary => (canary, RolloutState::Canary),
    };
    Rollout::new(
        generation,
        canary,
        wave.max(1),
        options.max_failures.unwrap_or(0),
        options.soak_s.unwrap_or(SOAK_S),
        open,
        Some(below(order, open)),
        state,
        None,
        options.host_timeout_s.unwrap_or(HOST_TIMEOUT_S),
        options.rollback_on_failure,
    )
}

/// The document of a rollback: it goes everywhere at once, since what it brings back ran there before.
pub(super) fn everywhere(generation: u64, order: &RolloutOrder) -> Rollout {
    let hosts = order.hosts().count() as u64;
    Rollout::new(
        generation,
        0,
        hosts.max(1),
        hosts,
        0,
        hosts,
        Some(EVERYBODY.to_owned()),
        RolloutState::Wave,
        None,
        HOST_TIMEOUT_S,
        false,
    )
}

/// The bound that lets so many go; all of them, and whoever joins later, once everybody may.
pub(super) fn below(order: &RolloutOrder, open: u64) -> String {
    order.below(usize::try_from(open).unwrap_or(usize::MAX))
}

/// Whether a rollout goes on.
pub(super) fn is_active(rollout: &Rollout) -> bool {
    matches!(
        rollout.state,
        RolloutState::Canary | RolloutState::Soak | RolloutState::Wave
    )
}

/// The labels that choose the hosts, in words; empty if all are meant.
pub(super) fn chosen_by(labels: &BTreeMap<String, String>) -> String {
    let words: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(" with {}", words.join(", ")),
    }
}

/// What of a wanted state is about to be undone, for a rollback.
pub(super) fn previous_of(desired: &Desired) -> crate::api::fleet::PreviousDesired {
    crate::api::fleet::PreviousDesired {
        generation: desired.generation,
        deployment_id: desired.deployment_id,
        sha256: desired.sha256.clone(),
        size: desired.size,
        options: desired.options.clone(),
        origin: Some(desired.origin.clone()),
        origin_url: desired.origin_url.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::name::DeploymentId;

    #[test]
    fn a_rollout_begins_with_its_canaries() {
        let id = DeploymentId::after(None, 1, [0; 10]);
        let hosts = |n: u32| (0..n).map(|n| format!("h{n}").parse().unwrap());
        let order = |n| RolloutOrder::new(id, hosts(n));
        let options = |canary, wave| FleetOptions {
            canary,
            wave,
            ..FleetOptions::default()
        };
        // Of so many hosts: the canaries and the wave, and how many are open at first and in one wave.
        let table = [
            (8, None, None, (1, RolloutState::Canary, 2)),
            (1, None, None, (1, RolloutState::Canary, 1)),
            (3, Some(5), None, (3, RolloutState::Canary, 1)),
            (
                10,
                Some(2),
                Some(WaveSize::Percent(10)),
                (2, RolloutState::Canary, 1),
            ),
            (
                10,
                Some(2),
                Some(WaveSize::Hosts(4)),
                (2, RolloutState::Canary, 4),
            ),
            (
                10,
                Some(0),
                Some(WaveSize::Hosts(4)),
                (4, RolloutState::Wave, 4),
            ),
            (
                10,
                Some(0),
                Some(WaveSize::Percent(100)),
                (10, RolloutState::Wave, 10),
            ),
        ];
        for (hosts, canary, wave, (open, state, size)) in table {
            let order = order(hosts);
            let rollout = begin(&options(canary, wave), 3, &order);
            assert_eq!(
                (rollout.open, rollout.state, rollout.wave),
                (open, state, size)
            );
            let may = |host: &&crate::api::fleet::HostName| rollout.opens(id, host) == Some(true);
            assert_eq!(order.hosts().filter(may).count() as u64, open);
        }
    }
}

//! What a leader does next, as a value: how the hosts stand goes in, and what is to be written comes out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::api::fleet::{Desired, EVERYBODY, HostName, Rollout, RolloutOrder, RolloutState};
use crate::engine::rollout::plan::{below, is_active};
use crate::engine::rollout::view::{FleetHost, HostStanding};

/// What a leader has seen. The next one begins anew, which makes a rollout slower and never bolder.
#[derive(Debug, Default)]
pub(super) struct LeaderMemory {
    /// Since when a host that is there may go and has not ended.
    since: BTreeMap<HostName, Instant>,
    /// Since when the last wave is looked at.
    soaking: Option<Instant>,
}

/// What is next.
#[derive(Debug, PartialEq)]
pub(super) enum LeaderStep {
    /// This is written.
    Write(Box<Rollout>),
    /// Nothing is to be done, until something changes or this time comes.
    Wait(Option<Instant>),
    /// The rollout has ended.
    End,
}

/// A time of a rollout. Whoever wrote it, it can be added to the clock: what is longer than a hundred years never ends.
fn seconds(count: u64) -> Duration {
    Duration::from_secs(count.min(100 * 365 * 24 * 60 * 60))
}

/// The hosts that may go, by how they stand.
#[derive(Default)]
struct OpenHosts {
    open: u64,
    live: u64,
    pending: u64,
    failures: Vec<String>,
    /// When the next of those that have not ended takes too long.
    deadline: Option<Instant>,
}

/// What a leader does next. The hosts are in their order.
pub(super) fn step(
    (rollout, desired): (&Rollout, &Desired),
    hosts: &[FleetHost],
    now: Instant,
    memory: &mut LeaderMemory,
) -> LeaderStep {
    if !is_active(rollout) || rollout.generation != desired.generation {
        return LeaderStep::End;
    }
    let tally = tally((rollout, desired), hosts, now, memory);
    let write = |change: &dyn Fn(&mut Rollout)| {
        let mut next = rollout.clone();
        change(&mut next);
        LeaderStep::Write(Box::new(next))
    };
    if tally.failures.len() as u64 > rollout.max_failures {
        let failed = match tally.failures.len() {
            1 => "1 host failed".to_owned(),
            n => format!("{n} hosts failed"),
        };
        let reason = format!("{failed}: {}", tally.failures.join("; "));
        return write(&|next| {
            next.state = RolloutState::Stopped;
            // It is one document of a few KiB, and the statuses of the hosts have the rest.
            next.reason = Some(reason.chars().take(2000).collect());
        });
    }
    if tally.pending > 0 {
        memory.soaking = None;
        return LeaderStep::Wait(tally.deadline);
    }
    let all = hosts.len() as u64;
    if tally.open >= all {
        return write(&|next| {
            next.state = RolloutState::Done;
            next.open = all;
            next.below = Some(EVERYBODY.to_owned());
        });
    }
    let order = RolloutOrder::new(
        desired.deployment_id,
        hosts.iter().map(|host| host.name.clone()),
    );
    let open = |count: u64, state| {
        write(&|next| {
            next.open = count.min(all);
            next.below = Some(below(&order, next.open));
            next.state = state;
        })
    };
    let ended = tally.live + tally.failures.len() as u64;
    if rollout.state == RolloutState::Canary && ended < rollout.canary {
        // A canary that is not there shows nothing: the next one goes.
        return open(tally.open + 1, RolloutState::Canary);
    }
    let soak = seconds(rollout.soak_s);
    if soak > Duration::ZERO && rollout.state != RolloutState::Soak {
        memory.soaking = Some(now);
        return write(&|next| next.state = RolloutState::Soak);
    }
    let since = *memory.soaking.get_or_insert(now);
    let until = since + soak;
    if now < until {
        return LeaderStep::Wait(Some(until));
    }
    memory.soaking = None;
    let next = tally.open.saturating_add(rollout.wave.max(1));
    open(next, RolloutState::Wave)
}

fn tally(
    (rollout, desired): (&Rollout, &Desired),
    hosts: &[FleetHost],
    now: Instant,
    memory: &mut LeaderMemory,
) -> OpenHosts {
    let limit = seconds(rollout.host_timeout_s);
    let mut tally = OpenHosts::default();
    for (rank, host) in hosts.iter().enumerate() {
        let may_go = rollout.opens(desired.deployment_id, &host.name);
        if !may_go.unwrap_or((rank as u64) < rollout.open) {
            continue;
        }
        tally.open += 1;
        let standing = host.standing(rollout.generation);
        if standing != HostStanding::Pending {
            memory.since.remove(&host.name);
        }
        match standing {
            HostStanding::Live => tally.live += 1,
            HostStanding::Failed => {
                let why = host.reason().unwrap_or("it does not say why");
                tally.failures.push(format!("{}: {why}", host.name));
            }
            HostStanding::Absent | HostStanding::LeftAlone => {}
            HostStanding::Pending => {
                let until = *memory.since.entry(host.name.clone()).or_insert(now) + limit;
                if limit > Duration::ZERO && now >= until {
                    let why = format!("{}: timed out after {} s", host.name, limit.as_secs());
                    tally.failures.push(why);
                    continue;
                }
                tally.pending += 1;
                if limit > Duration::ZERO {
                    tally.deadline = Some(tally.deadline.map_or(until, |one| one.min(until)));
                }
            }
        }
    }
    tally
}

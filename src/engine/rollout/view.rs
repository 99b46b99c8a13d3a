//! How a component stands on all hosts of the fleet, read at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossbeam_channel::{after, select_biased};
use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::fleet::{
    Desired, FleetDocument, FleetKeys, HostEntry, HostName, HostState, HostStatus, Lead, Rollout,
    RolloutState, order_of,
};
use crate::api::name::{DeploymentId, Project};
use crate::client::kv::{KvEntry, KvError, KvRange, KvTrouble, KvWatch};
use crate::engine::rollout::FleetSeat;
use crate::engine::rollout::seat::unavailable;
use crate::system::stop::Stop;

/// News come in bursts, one for each host; what comes within this time is read together. It grows with the hosts, since so does
/// what is read: a thousand hosts tell some hundred things a second, and are read twice.
const GATHER: Duration = Duration::from_millis(100);
const GATHER_MORE_A_HOST: Duration = Duration::from_micros(400);
const GATHER_MAX: Duration = Duration::from_secs(2);

/// A host that says it has heard of a higher generation is not believed: what is published has to be above it, and one host
/// must not use the numbers up. It is also the highest that JSON carries everywhere.
const REPORTED_MAX: u64 = 1 << 53;

/// How a component stands in the fleet.
#[derive(Debug, Clone)]
pub struct FleetView {
    /// The component.
    pub project: Project,
    /// What is wanted of it, and the revision that said so.
    pub(super) desired: Option<(Desired, i64)>,
    /// The same as it stands there, which is what is signed.
    pub(super) desired_value: Vec<u8>,
    /// How far that may go, and the revision that said so.
    pub(super) rollout: Option<(Rollout, i64)>,
    /// Who leads, and the revision that made it so.
    pub(super) lead: Option<(Lead, i64)>,
    /// The hosts that are meant, in the order in which they go.
    pub(super) hosts: Vec<FleetHost>,
    /// The hosts that were taken out of the fleet, and say so.
    removed: Vec<FleetHost>,
    /// The highest generation that any host says it is about.
    pub(super) newest_reported: u64,
    revision: i64,
}

/// A host of the fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetHost {
    /// Its name.
    pub name: HostName,
    /// Where it is reached.
    pub(super) url: String,
    /// Whether it is there.
    pub(super) is_alive: bool,
    /// What it says of the component.
    pub(super) status: Option<HostStatus>,
}

/// How a host stands to a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostStanding {
    Live,
    Failed,
    /// It is there and has not ended.
    Pending,
    /// It is not there, and has not ended.
    Absent,
    /// The fleet leaves it alone.
    LeftAlone,
}

impl FleetHost {
    /// How it stands to a generation.
    pub(super) fn standing(&self, generation: u64) -> HostStanding {
        let not_ended = match self.is_alive {
            true => HostStanding::Pending,
            false => HostStanding::Absent,
        };
        let Some(status) = &self.status else {
            return not_ended;
        };
        match status.state {
            HostState::Pinned | HostState::Removed => HostStanding::LeftAlone,
            // What it held before may not hold for what is newer.
            HostState::Held if status.generation >= generation => HostStanding::Failed,
            _ if status.generation != generation => not_ended,
            HostState::Live => HostStanding::Live,
            HostState::Failed | HostState::RolledBack => HostStanding::Failed,
            _ => not_ended,
        }
    }

    /// Its state in a word, as a table shows it.
    pub(super) fn word(&self, generation: u64) -> &'static str {
        match (self.standing(generation), &self.status) {
            (HostStanding::Absent, _) => "absent",
            (HostStanding::Pending, Some(status)) if status.generation != generation => {
                HostState::Waiting.word()
            }
            (_, Some(status)) => status.state.word(),
            (_, None) => HostState::Waiting.word(),
        }
    }

    /// Why it is so, where it says that.
    pub(super) fn reason(&self) -> Option<&str> {
        self.status.as_ref()?.message.as_deref()
    }
}

impl FleetView {
    /// Reads it.
    ///
    /// # Errors
    /// `fleet_unavailable` when the store does not answer, or what is there is of a newer gangplank.
    pub fn read(seat: &FleetSeat, project: &Project) -> Result<FleetView, Refusal> {
        let what = format!("reading how {project} stands in the fleet");
        FleetView::look(seat, project).map_err(|error| unavailable(&what, &error))
    }

    pub(super) fn look(seat: &FleetSeat, project: &Project) -> Result<FleetView, KvError> {
        let FleetSeat { store, keys, .. } = seat;
        // The first list has the lowest revision: what changes while the others are read is told by the watch.
        let desired = store.list(&KvRange::key(keys.desired(project)))?;
        let revision = desired.revision;
        let rollout = store.list(&KvRange::key(keys.rollout(project)))?;
        let lead = store.list(&KvRange::key(keys.lead(project)))?;
        let desired_value = desired.entries.first().map(|one| one.value.clone());
        let desired: Option<(Desired, i64)> =
            document(desired.entries.first(), |one| one.modified)?;
        let rollout = document(rollout.entries.first(), |one| one.modified)?;
        let lead = document(lead.entries.first(), |one| one.created)?;
        let mut statuses = BTreeMap::new();
        let mut newest_reported = 0;
        for entry in store.list(&KvRange::prefix(keys.statuses()))?.entries {
            let Some((host, of)) = keys.of_status(&entry.key) else {
                continue;
            };
            // What a newer host says of itself is not needed to go on with the others.
            if let (true, Ok(status)) = (of == *project, HostStatus::read(&entry.value)) {
                if status.generation <= REPORTED_MAX {
                    newest_reported = newest_reported.max(status.generation);
                }
                statuses.insert(host, status);
            }
        }
        let alive = store.list(&KvRange::prefix(keys.alive_hosts()))?;
        let alive: BTreeSet<HostName> = names(&keys.alive_hosts(), &alive.entries);
        let mut hosts = Vec::new();
        let mut expected = BTreeSet::new();
        for entry in store.list(&KvRange::prefix(keys.hosts()))?.entries {
            let (Some(name), Ok(host)) = (
                FleetKeys::name_below::<HostName>(&keys.hosts(), &entry.key),
                HostEntry::read(&entry.value),
            ) else {
                continue;
            };
            expected.insert(name.clone());
            let is_meant = |(desired, _): &(Desired, i64)| desired.is_for(&host.labels);
            if desired.as_ref().is_none_or(is_meant) {
                hosts.push(FleetHost {
                    is_alive: alive.contains(&name),
                    status: statuses.remove(&name),
                    url: host.url,
                    name,
                });
            }
        }
        if let Some((desired, _)) = &desired {
            hosts.sort_by_cached_key(|host| order_of(desired.deployment_id, &host.name));
        }
        statuses
            .retain(|name, status| status.state == HostState::Removed && !expected.contains(name));
        let removed = statuses.into_iter().map(|(name, status)| FleetHost {
            is_alive: false,
            status: Some(status),
            url: String::new(),
            name,
        });
        Ok(FleetView {
            removed: removed.collect(),
            project: project.clone(),
            desired,
            desired_value: desired_value.unwrap_or_default(),
            rollout,
            lead,
            hosts,
            newest_reported,
            revision,
        })
    }

    /// The generation that is wanted; 0 for none.
    pub(super) fn generation(&self) -> u64 {
        self.desired
            .as_ref()
            .map_or(0, |(desired, _)| desired.generation)
    }

    /// The deployment that is wanted.
    pub fn deployment(&self) -> Option<DeploymentId> {
        self.desired
            .as_ref()
            .map(|(desired, _)| desired.deployment_id)
    }

    /// Whether what is wanted is still on its way to some hosts.
    pub(super) fn is_rolling(&self) -> bool {
        let (live, hosts) = self.count();
        live < hosts && self.is_led()
    }

    /// Whether the rollout of what is wanted has not been ended by a leader.
    pub(super) fn is_led(&self) -> bool {
        let rollout = self.rollout.as_ref();
        rollout.is_some_and(|(rollout, _)| {
            rollout.generation == self.generation() && super::plan::is_active(rollout)
        })
    }

    /// How many hosts are live, and how many are meant.
    pub fn count(&self) -> (usize, usize) {
        let live = |host: &&FleetHost| host.standing(self.generation()) == HostStanding::Live;
        (self.hosts.iter().filter(live).count(), self.hosts.len())
    }

    /// A row for each host; those that were removed come last.
    pub fn rows(&self) -> Vec<Value> {
        let generation = self.generation();
        let row = |host: &FleetHost| {
            let status = host.status.as_ref();
            json!({
                "host": host.name,
                "state": host.word(generation),
                "alive": host.is_alive,
                "generation": status.map(|status| status.generation),
                "phase": status.and_then(|status| status.phase.as_deref()),
                "code": status.and_then(|status| status.code.as_deref()),
                "message": host.reason(),
                "url": host.url,
            })
        };
        self.hosts.iter().chain(&self.removed).map(row).collect()
    }

    /// All of it, for who asks.
    pub fn report(&self) -> Value {
        let (live, hosts) = self.count();
        let desired = self.desired.as_ref().map(|(desired, _)| desired);
        let rollout = self.rollout.as_ref().map(|(rollout, _)| rollout);
        json!({
            "project": self.project,
            "generation": self.generation(),
            "deployment_id": self.deployment(),
            "rollback_of": desired.and_then(|desired| desired.rollback_of),
            "origin": desired.map(|desired| &desired.origin),
            "user": desired.and_then(|desired| desired.user.as_deref()),
            "message": desired.and_then(|desired| desired.message.as_deref()),
            "published_at": desired.map(|desired| desired.published_at),
            "rollout": rollout.map(|rollout| rollout.state),
            "reason": rollout.and_then(|rollout| rollout.reason.as_deref()),
            "leader": self.lead.as_ref().map(|(lead, _)| &lead.host),
            "live": live,
            "expected": hosts,
            "hosts": self.rows(),
        })
    }

    /// How the rollout of a deployment has ended: nothing while it goes on. Well only if every host that is meant is live.
    pub fn end(&self, deployment: DeploymentId) -> Option<Result<String, Refusal>> {
        let project = &self.project;
        let refusal = |code, why| Some(Err(Refusal::new(code, why)));
        if self.deployment() != Some(deployment) {
            let why = format!(
                "rolling out {project}: generation {} took its place",
                self.generation()
            );
            return refusal(Code::Conflict, why);
        }
        let (live, hosts) = self.count();
        let rollout = self.rollout.as_ref().map(|(rollout, _)| rollout);
        let rollout = rollout.filter(|rollout| rollout.generation == self.generation());
        if live == hosts {
            return Some(Ok(format!("{project} is live on all {hosts} hosts")));
        }
        let state = rollout.map(|rollout| rollout.state);
        let ended = match state {
            Some(RolloutState::Done | RolloutState::Stopped | RolloutState::Superseded) => true,
            Some(RolloutState::Canary | RolloutState::Soak | RolloutState::Wave) => false,
            None => true,
        };
        if !ended {
            return None;
        }
        let others: Vec<String> = self
            .hosts
            .iter()
            .filter(|host| host.standing(self.generation()) != HostStanding::Live)
            .map(|host| {
                let reason = host
                    .reason()
                    .map_or(String::new(), |why| format!(": {why}"));
                format!("{} is {}{reason}", host.name, host.word(self.generation()))
            })
            .collect();
        let stopped = match state {
            Some(RolloutState::Stopped) => "it was stopped; ",
            _ => "",
        };
        let why = format!(
            "rolling out {project}: {stopped}{live} of {hosts} hosts are live; {}",
            others.join("; ")
        );
        refusal(Code::ReplicateFailed, why)
    }
}

/// The hosts of the fleet that have all of these labels.
pub(super) fn hosts_with(
    seat: &FleetSeat,
    labels: &BTreeMap<String, String>,
) -> Result<Vec<HostName>, KvError> {
    let prefix = seat.keys.hosts();
    let listed = seat.store.list(&KvRange::prefix(&*prefix))?.entries;
    let with = listed.iter().filter_map(|entry| {
        let host = HostEntry::read(&entry.value).ok()?;
        let has = labels
            .iter()
            .all(|(key, value)| host.labels.get(key) == Some(value));
        has.then(|| FleetKeys::name_below(&prefix, &entry.key))?
    });
    Ok(with.collect())
}

/// Reads a document, and one of its entry's revisions.
pub(super) fn document<T: FleetDocument>(
    entry: Option<&KvEntry>,
    revision: fn(&KvEntry) -> i64,
) -> Result<Option<(T, i64)>, KvError> {
    let Some(entry) = entry else {
        return Ok(None);
    };
    let read = T::read(&entry.value);
    let read = read.map_err(|why| {
        let message = format!("reading {} of etcd: {why}", entry.key);
        KvError::new(KvTrouble::Refused, message)
    });
    Ok(Some((read?, revision(entry))))
}

fn names(prefix: &str, entries: &[KvEntry]) -> BTreeSet<HostName> {
    let names = entries.iter();
    names
        .filter_map(|entry| FleetKeys::name_below(prefix, &entry.key))
        .collect()
}

/// What wakes whoever follows a component.
pub struct FleetNews {
    watch: KvWatch,
    gather: Duration,
}

/// Why a wait has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something may have changed.
    News,
    /// The time is over.
    Time,
    /// The watch has ended; another one is to be begun.
    Cut,
    /// The stop was pulled.
    Stopped,
}

impl FleetNews {
    /// Watches what a view was made of, from then on.
    ///
    /// # Errors
    /// `fleet_unavailable`
    pub fn begin(seat: &FleetSeat, view: &FleetView) -> Result<FleetNews, Refusal> {
        let (keys, project) = (&seat.keys, &view.project);
        let ranges = [
            KvRange::key(keys.desired(project)),
            KvRange::key(keys.rollout(project)),
            KvRange::key(keys.lead(project)),
            KvRange::prefix(keys.statuses()),
            KvRange::prefix(keys.alive_hosts()),
            KvRange::prefix(keys.hosts()),
        ];
        let watch = seat.store.watch(&ranges, view.revision);
        let what = format!("watching {project} in the fleet");
        let watch = watch.map_err(|error| unavailable(&what, &error))?;
        let hosts = u32::try_from(view.hosts.len()).unwrap_or(u32::MAX);
        let gather = GATHER.saturating_add(GATHER_MORE_A_HOST.saturating_mul(hosts));
        Ok(FleetNews {
            watch,
            gather: gather.min(GATHER_MAX),
        })
    }

    /// Waits for news, at most so long.
    pub fn wait(&self, most: Duration, stop: &Stop) -> Woken {
        use crate::client::kv::KvNews;
        let over = after(most);
        loop {
            let news = select_biased! {
                recv(stop.channel()) -> _ => return Woken::Stopped,
                recv(self.watch.news) -> news => news,
                recv(over) -> _ => return Woken::Time,
            };
            match news {
                Ok(Ok(KvNews::Changes(_))) => break,
                Ok(Ok(KvNews::Watching | KvNews::Progress(_))) => {}
                Ok(Err(_)) | Err(_) => return Woken::Cut,
            }
        }
        let gathered = after(self.gather.min(most));
        loop {
            select_biased! {
                recv(stop.channel()) -> _ => return Woken::Stopped,
                recv(gathered) -> _ => return Woken::News,
                recv(self.watch.news) -> news => if !matches!(news, Ok(Ok(_))) {
                    return Woken::Cut;
                },
            }
        }
    }
}

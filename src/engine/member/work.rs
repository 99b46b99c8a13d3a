//! A component that is being changed: one at a time for each, on a thread of its own.

use std::time::Instant;

use crate::api::fleet::{Desired, FleetDocument, FleetKeys, Have, HostName, HostState};
use crate::api::name::Project;
use crate::client::kv::KvRange;
use crate::engine::holders::{PayloadHolder, PayloadHolders};
use crate::engine::member::memory::Applied;
use crate::engine::member::{FleetFailure, FleetMember, FleetOrder, MemberSeat};
use crate::system::stop::{self, Stopper};
use crate::system::{jitter, log, threads};

/// The stack of a thread that fetches and unpacks.
const STACK_BYTES: usize = 1 << 20;
/// The label that says in which place a host stands.
pub(super) const SITE: &str = "site";
/// How many holders are looked at: of so many some will have a place.
const HOLDERS_MAX: u64 = 64;
/// What is tried again, and how often: what passes by itself, and what somebody has to make room for.
const NETWORK: [&str; 4] = ["fetch_failed", "upload_broken", "interrupted", "busy"];
const SPACE: [&str; 1] = ["no_space"];
const SPACE_TRIES: u64 = 3;
/// Nobody has its payload: somebody may be off who has, and what nobody has after that is not coming back.
const GONE: [&str; 1] = ["payload_gone"];
const GONE_TRIES: u64 = 2;

/// A component that is being changed, or waits for that.
#[derive(Default)]
pub(super) struct ComponentWork {
    /// The generation that is being made so.
    pub(super) running: Option<u64>,
    /// Ends that early when it is dropped.
    pub(super) stopper: Option<Stopper>,
    /// What it is doing.
    pub(super) state: Option<HostState>,
    /// The generation that it waits for, and not before when it begins.
    pub(super) not_before: Option<(u64, Instant)>,
}

/// What a thread that changes a component tells.
pub(super) enum WorkNews {
    Does(Project, HostState),
    HasPayload(String),
    Ended(Project, u64, Result<(), FleetFailure>),
    /// Whether the fleet is to leave it alone; said by somebody at this host.
    Pin(Project, bool),
}

impl FleetMember {
    /// Begins to make it so: what is begun is on disk before.
    pub(super) fn begin(&mut self, project: &Project, desired: &Desired) -> Result<(), String> {
        let before = self.memory.projects.get(project);
        let again = before.filter(|one| one.generation == desired.generation);
        let attempt = again.map_or(1, |one| one.attempt);
        let live = self.local.live(project);
        let is_here = before.is_some_and(|one| {
            one.live_of_fleet == Some(desired.deployment_id) && live.is_some() && one.live == live
        });
        let applied = Applied {
            generation: desired.generation,
            deployment_id: desired.deployment_id,
            state: HostState::Building,
            attempt,
            live,
            live_of_fleet: before.and_then(|one| one.live_of_fleet),
            previous_live: before.and_then(|one| one.live_of_fleet),
            phase: None,
            code: None,
            message: None,
        };
        let mut memory = self.memory.clone();
        memory.projects.insert(project.clone(), applied);
        self.local
            .save(&memory)
            .map_err(|error| error.to_string())?;
        self.memory = memory;
        let (stopper, stop) = stop::pair().map_err(|error| error.to_string())?;
        let sha256 = desired.sha256.clone();
        let (seat, tell) = (self.seat.clone(), self.news.0.clone());
        let (wanted, told, here) = (desired.clone(), self.news.0.clone(), sha256.clone());
        let order = FleetOrder {
            project: project.clone(),
            desired: desired.clone(),
            attempt,
            is_here,
            holders: Box::new(move || seat.holders(&wanted)),
            has_payload: Box::new(move || {
                let _ = told.send(WorkNews::HasPayload(here.clone()));
            }),
        };
        let (local, generation) = (std::sync::Arc::clone(&self.local), desired.generation);
        let work = move || {
            let project = order.project.clone();
            let mut does = |state| {
                let _ = tell.send(WorkNews::Does(order.project.clone(), state));
            };
            let result = local.make(&order, &mut does, &stop);
            let _ = tell.send(WorkNews::Ended(project, generation, result));
        };
        threads::spawn(format!("fleet-{project}"), STACK_BYTES, work)
            .map_err(|error| format!("making a thread for it: {error}"))?;
        let one = self.works.entry(project.clone()).or_default();
        one.running = Some(generation);
        one.stopper = Some(stopper);
        one.not_before = None;
        Ok(())
    }

    /// Takes what a thread tells. True if what stands in the store may have to change.
    pub(super) fn take(&mut self, news: WorkNews) -> Option<String> {
        match news {
            WorkNews::Does(project, state) => {
                self.works.entry(project).or_default().state = Some(state);
                None
            }
            WorkNews::HasPayload(sha256) => Some(sha256),
            WorkNews::Ended(project, generation, result) => {
                self.ended(&project, generation, result);
                None
            }
            WorkNews::Pin(project, is_pinned) => {
                self.pin(&project, is_pinned);
                None
            }
        }
    }

    /// What is live here counts as somebody's own choice, or no longer: then what is wanted is made so again.
    fn pin(&mut self, project: &Project, is_pinned: bool) {
        let live = self.local.live(project);
        let Some(applied) = self.memory.projects.get_mut(project) else {
            return;
        };
        match is_pinned {
            true => applied.live = None,
            false => {
                applied.live = live;
                applied.live_of_fleet = None;
                // What is wanted is newer than that, and nothing older is taken.
                applied.generation = applied.generation.saturating_sub(1);
            }
        }
        if let Err(error) = self.local.save(&self.memory) {
            log::error(&format!("fleet: {error}"));
        }
    }

    fn ended(&mut self, project: &Project, generation: u64, result: Result<(), FleetFailure>) {
        let work = self.works.entry(project.clone()).or_default();
        work.running = None;
        work.stopper = None;
        work.state = None;
        let live = self.local.live(project);
        let Some(applied) = self.memory.projects.get_mut(project) else {
            return;
        };
        if applied.generation != generation {
            return;
        }
        match result {
            Ok(()) => {
                applied.state = HostState::Live;
                applied.live_of_fleet = Some(applied.deployment_id);
                log::info(&format!("fleet: {project} is at generation {generation}"));
            }
            // The server ends, or something newer is wanted: it goes on from there.
            Err(failure) if ["stopping", "cancelled"].contains(&failure.refusal_code.as_str()) => {
                return;
            }
            Err(failure) => {
                log::warn(&format!(
                    "fleet: {project}, generation {generation}: {}",
                    failure.message
                ));
                applied.state = match failure.rolled_back {
                    true => HostState::RolledBack,
                    false => HostState::Failed,
                };
                applied.phase = failure.phase;
                applied.code = Some(failure.refusal_code);
                applied.message = Some(failure.message);
            }
        }
        applied.live = live;
        if let Some(delay) = retry(applied, &self.seat.times.retries) {
            work.not_before = Some((generation, Instant::now() + jitter::around(delay)));
        }
        if let Err(error) = self.local.save(&self.memory) {
            // What is on disk says that it has begun: the next start looks again.
            log::error(&format!("fleet: {error}"));
        }
    }

    /// Makes what failed begin again, if its time has come.
    pub(super) fn again(&mut self, project: &Project) -> bool {
        let Some(work) = self.works.get(project) else {
            return false;
        };
        let Some(applied) = self.memory.projects.get_mut(project) else {
            return false;
        };
        let due = work.not_before;
        let due = due.is_some_and(|(of, at)| of == applied.generation && at <= Instant::now());
        let fails = applied.state == HostState::Failed
            && retry(applied, &self.seat.times.retries).is_some();
        if !due || !fails || work.running.is_some() {
            return false;
        }
        applied.attempt += 1;
        applied.state = HostState::Building;
        true
    }

    /// Plans to try again what failed in an earlier run of the server.
    pub(super) fn plan_again(&mut self, project: &Project) {
        let Some(applied) = self.memory.projects.get(project) else {
            return;
        };
        let work = self.works.entry(project.clone()).or_default();
        if applied.state != HostState::Failed || work.not_before.is_some() {
            return;
        }
        if let Some(delay) = retry(applied, &self.seat.times.retries) {
            work.not_before = Some((applied.generation, Instant::now() + jitter::around(delay)));
        }
    }
}

/// When a failure is tried again, if it is one that passes.
fn retry(applied: &Applied, delays: &[std::time::Duration]) -> Option<std::time::Duration> {
    if applied.state != HostState::Failed {
        return None;
    }
    let code = applied.code.as_deref().unwrap_or_default();
    let tries = match code {
        _ if NETWORK.contains(&code) => delays.len() as u64,
        _ if SPACE.contains(&code) => SPACE_TRIES,
        _ if GONE.contains(&code) => GONE_TRIES,
        _ => 0,
    };
    let at = usize::try_from(applied.attempt.saturating_sub(1)).ok()?;
    (applied.attempt <= tries)
        .then(|| delays.get(at).copied())
        .flatten()
}

impl MemberSeat {
    /// Who says that it has a payload; some of them if they are many.
    fn holders(&self, desired: &Desired) -> PayloadHolders {
        let prefix = self.keys.holders(&desired.sha256);
        let mut random = [0; 1];
        // Another beginning each time, so that not all ask the same ones.
        let _ = getrandom::fill(&mut random);
        let from = format!("{prefix}{}", char::from(b'0' + random[0] % 75));
        let some = KvRange::prefix(prefix.clone()).at_most(HOLDERS_MAX);
        let mut entries = Vec::new();
        for range in [some.clone().starting(from), some] {
            // Without the store the origin is asked.
            if let Ok(listing) = self.store.list(&range) {
                entries.extend(listing.entries);
            }
            if !entries.is_empty() {
                break;
            }
        }
        let others = entries.iter().filter_map(|entry| {
            let name = FleetKeys::name_below::<HostName>(&prefix, &entry.key)?;
            let have = Have::read(&entry.value).ok()?;
            let site = self.labels.get(SITE);
            (name != self.host).then(|| PayloadHolder {
                name: name.to_string(),
                url: have.url,
                is_near: site.is_some() && have.site.as_ref() == site,
            })
        });
        let origin = desired.origin_url.as_ref().map(|url| PayloadHolder {
            name: desired.origin.to_string(),
            url: url.clone(),
            is_near: false,
        });
        PayloadHolders {
            others: others.collect(),
            origin: origin.filter(|origin| origin.name != self.host.as_str()),
        }
    }
}

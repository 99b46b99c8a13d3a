//! The time from one list of what is wanted to the next interruption.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select_biased};

use crate::api::fleet::{
    Desired, FleetDocument, FleetKeys, HostState, HostStatus, Rollout, Unreadable,
};
use crate::api::name::Project;
use crate::client::kv::{KvChange, KvEntry, KvError, KvNews, KvRange, KvTrouble, KvWatch, LeaseId};
use crate::engine::member::FleetMember;
use crate::engine::member::decide::{HostVerdict, MemberFacts, decide};
use crate::system::jitter;
use crate::system::log;
use crate::system::stop::Stop;

/// A host that is one of the first so many goes at once; then a second is spread over a hundred of them.
const CANARY_MAX: u64 = 3;
const PER_SECOND: u64 = 100;

/// What the store holds, as far as this host has heard.
#[derive(Default)]
struct Mirror {
    desired: BTreeMap<Project, Result<Desired, Unreadable>>,
    /// Why what is wanted is not believed.
    distrust: BTreeMap<Project, String>,
    rollouts: BTreeMap<Project, Result<Rollout, Unreadable>>,
    statuses: BTreeMap<Project, HostStatus>,
    is_expected: bool,
}

/// How many components a host changes at once, each on a thread: one that was off for long finds all of them changed.
const WORKING_MAX: usize = 16;

/// The longest message of a status, in characters: the record of the deployment has all of it, and a document of the fleet must
/// stay small.
const MESSAGE_LEN_MAX: usize = 2000;

/// One time of being connected.
pub(super) struct MemberSession<'a> {
    member: &'a mut FleetMember,
    stop: &'a Stop,
    mirror: Mirror,
    lease: Option<LeaseId>,
    was_well: bool,
}

impl<'a> MemberSession<'a> {
    pub(super) fn new(member: &'a mut FleetMember, stop: &'a Stop) -> MemberSession<'a> {
        MemberSession {
            member,
            stop,
            mirror: Mirror::default(),
            lease: None,
            was_well: false,
        }
    }

    /// Whether it came so far that it watched.
    pub(super) fn was_well(&self) -> bool {
        self.was_well
    }

    /// Joins, lists and watches, until something ends that: the stop, the time to look at everything again, or trouble.
    pub(super) fn run(&mut self) -> Result<(), KvError> {
        self.lease = self.member.join()?;
        // They went with the lease of the session before, or will.
        self.member.holdings.lease_ended();
        let all_at = Instant::now() + jitter::around(self.member.seat.times.list);
        while self.follow(all_at)? {
            // etcd that is silent by default ends each watch after a minute. Its lease goes on, and who it is has not changed.
            self.mirror = Mirror::default();
            self.renew()?;
        }
        Ok(())
    }

    /// Lists and watches. True if it is only to be listed and watched again.
    fn follow(&mut self, all_at: Instant) -> Result<bool, KvError> {
        let watch = self.list()?;
        let renew = self.member.seat.times.renew;
        let mut renew_at = Instant::now() + jitter::around(renew);
        self.look()?;
        let works = self.member.news.1.clone();
        loop {
            let next = self
                .next_time()
                .map_or(all_at.min(renew_at), |at| at.min(all_at).min(renew_at));
            let over = after(next.saturating_duration_since(Instant::now()));
            select_biased! {
                recv(self.stop.channel()) -> _ => return Ok(false),
                recv(watch.news) -> news => match news {
                    Ok(Ok(KvNews::Watching)) => self.was_well = true,
                    Ok(Ok(KvNews::Progress(_))) => continue,
                    Ok(Ok(KvNews::Changes(changes))) => changes.into_iter().for_each(|one| self.heard(one)),
                    // It may be another fleet by now.
                    Ok(Err(error)) if error.trouble == KvTrouble::Behind => return Ok(false),
                    Ok(Err(error)) if error.ends_watches() => return Ok(self.lease.is_some()),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Ok(false),
                },
                recv(works) -> news => if let Ok(news) = news {
                    if let Some(sha256) = self.member.take(news) {
                        self.member.holdings.came(&sha256);
                        self.announce(&sha256)?;
                    }
                },
                recv(over) -> _ => {
                    if Instant::now() >= all_at {
                        return Ok(false);
                    }
                    if Instant::now() >= renew_at {
                        self.renew()?;
                        renew_at = Instant::now() + jitter::around(renew);
                    }
                }
            }
            if self.lease.is_none() && self.mirror.is_expected {
                // Somebody took it in again.
                return Ok(false);
            }
            self.look()?;
        }
    }

    /// Reads all that concerns this host, and watches from there on.
    fn list(&mut self) -> Result<KvWatch, KvError> {
        let seat = &self.member.seat;
        let statuses = seat.keys.statuses_of(&seat.host);
        let prefixes = [seat.keys.all_desired(), seat.keys.rollouts()].map(KvRange::prefix);
        let ranges = [
            prefixes[0].clone(),
            prefixes[1].clone(),
            KvRange::key(seat.keys.host(&seat.host)),
        ];
        let store = std::sync::Arc::clone(&seat.store);
        let mut from = i64::MAX;
        for range in &ranges {
            let listing = store.list(range)?;
            from = from.min(listing.revision);
            for entry in listing.entries {
                self.heard(KvChange::Put(entry));
            }
        }
        for entry in store.list(&KvRange::prefix(statuses.clone()))?.entries {
            let project = FleetKeys::name_below::<Project>(&statuses, &entry.key);
            if let (Some(project), Ok(status)) = (project, HostStatus::read(&entry.value)) {
                self.mirror.statuses.insert(project, status);
            }
        }
        store.watch(&ranges, from)
    }

    /// Takes a change into the mirror.
    fn heard(&mut self, change: KvChange) {
        let seat = &self.member.seat;
        let (key, entry): (&str, Option<&KvEntry>) = match &change {
            KvChange::Put(entry) => (&entry.key, Some(entry)),
            KvChange::Deleted { key, .. } => (key, None),
        };
        if key == seat.keys.host(&seat.host) {
            self.mirror.is_expected = entry.is_some();
            return;
        }
        if let Some(project) = FleetKeys::name_below::<Project>(&seat.keys.all_desired(), key) {
            self.mirror.distrust.remove(&project);
            let Some(entry) = entry else {
                self.member.holdings.wants(&project, None);
                self.mirror.desired.remove(&project);
                return;
            };
            let trust = seat.trust.as_ref();
            if let Some(Err(why)) = trust.map(|trust| trust(&project, &entry.value)) {
                self.mirror.distrust.insert(project.clone(), why);
            }
            let desired = Desired::read(&entry.value);
            let sha256 = desired.as_ref().ok().map(|one| &*one.sha256);
            self.member.holdings.wants(&project, sha256);
            self.mirror.desired.insert(project, desired);
        } else if let Some(project) = FleetKeys::name_below::<Project>(&seat.keys.rollouts(), key) {
            match entry {
                Some(entry) => self
                    .mirror
                    .rollouts
                    .insert(project, Rollout::read(&entry.value)),
                None => self.mirror.rollouts.remove(&project),
            };
        }
    }

    /// When something is to be looked at though nothing has changed.
    fn next_time(&self) -> Option<Instant> {
        let works = self.member.works.values();
        works
            .filter(|work| work.running.is_none())
            .filter_map(|work| work.not_before)
            .map(|(_, at)| at)
            .min()
    }

    /// Says again that this host is there; and if its lease has ended, everything that went with it.
    fn renew(&mut self) -> Result<(), KvError> {
        let Some(lease) = &self.lease else {
            return Ok(());
        };
        let seat = &self.member.seat;
        match seat.store.alive(Some(lease), seat.times.lease) {
            Ok(_) => Ok(()),
            Err(error) if error.trouble == KvTrouble::Gone => {
                log::info("fleet: the lease had ended; taking another one");
                self.lease = Some(self.member.be_alive()?);
                let announced = self.member.holdings.lease_ended();
                announced
                    .iter()
                    .try_for_each(|sha256| self.announce(sha256))
            }
            Err(error) => Err(error),
        }
    }

    /// Tells the others that this host has a payload.
    fn announce(&mut self, sha256: &str) -> Result<(), KvError> {
        match &self.lease {
            Some(lease) => self.member.holdings.announce(sha256, lease),
            None => Ok(()),
        }
    }

    /// Compares what is wanted with what was done, for each component.
    fn look(&mut self) -> Result<(), KvError> {
        if self.lease.is_none() || !self.mirror.is_expected {
            // Somebody took this host out: it goes on as it is, and changes nothing any longer.
            if self.lease.take().is_some() {
                log::warn("fleet: this host was taken out of the fleet; what runs here goes on");
            }
            return self.tell_removed();
        }
        let mut projects: BTreeSet<Project> = self.mirror.desired.keys().cloned().collect();
        projects.extend(self.member.memory.projects.keys().cloned());
        for project in projects {
            self.look_at(&project)?;
        }
        Ok(())
    }

    fn look_at(&mut self, project: &Project) -> Result<(), KvError> {
        self.member.plan_again(project);
        self.member.again(project);
        let facts = MemberFacts {
            host: &self.member.seat.host,
            labels: &self.member.seat.labels,
            desired: self.mirror.desired.get(project),
            distrust: self.mirror.distrust.get(project).cloned(),
            rollout: self.mirror.rollouts.get(project),
            applied: self.member.memory.projects.get(project),
            live: self.member.local.live(project),
        };
        let verdict = decide(&facts);
        let wanted = facts.desired.and_then(|one| one.as_ref().ok()).cloned();
        let mut running = None;
        if let Some(work) = self.member.works.get_mut(project) {
            running = work.running;
            let newer = |of| wanted.as_ref().is_some_and(|wanted| wanted.generation > of);
            if running.is_some_and(newer) {
                // What is newer takes its place, but for what is past `activate`, which goes to its end.
                work.stopper = None;
            }
        }
        match verdict {
            HostVerdict::Nothing => Ok(()),
            HostVerdict::Go => match wanted {
                Some(wanted) => self.go(project, &wanted, running),
                None => Ok(()),
            },
            HostVerdict::Done => {
                let is_new = |one: &Desired| !self.member.holdings.is_announced(&one.sha256);
                let has = |one: &Desired| self.member.local.has_payload(&one.sha256);
                if let Some(wanted) = wanted.filter(|one| is_new(one) && has(one)) {
                    self.announce(&wanted.sha256)?;
                }
                self.tell_applied(project)
            }
            HostVerdict::Says(state, why) => self.tell(project, wanted.as_ref(), state, why),
        }
    }

    fn go(
        &mut self,
        project: &Project,
        desired: &Desired,
        running: Option<u64>,
    ) -> Result<(), KvError> {
        if running.is_some() {
            return match running == Some(desired.generation) {
                true => self.tell_applied(project),
                // The one before has not ended yet.
                false => Ok(()),
            };
        }
        let works = self.member.works.values();
        if works.filter(|work| work.running.is_some()).count() >= WORKING_MAX {
            // It is looked at again when one of them ends.
            return Ok(());
        }
        let generation = desired.generation;
        let spread = self.spread(project);
        let is_resumed = self
            .member
            .memory
            .projects
            .get(project)
            .is_some_and(|one| one.generation == generation);
        let work = self.member.works.entry(project.clone()).or_default();
        let begins = match work.not_before.filter(|(of, _)| *of == generation) {
            Some((_, at)) => at,
            None if is_resumed => Instant::now(),
            None => Instant::now() + jitter::up_to(spread),
        };
        if begins > Instant::now() {
            work.not_before = Some((generation, begins));
            return Ok(());
        }
        if self.member.local.has_payload(&desired.sha256) {
            self.announce(&desired.sha256)?;
        }
        match self.member.begin(project, desired) {
            Ok(()) => self.tell_applied(project),
            // What is not on disk is not begun.
            Err(why) => {
                let later = Instant::now() + jitter::around(self.member.seat.times.retries[0]);
                self.member
                    .works
                    .entry(project.clone())
                    .or_default()
                    .not_before = Some((generation, later));
                self.tell(project, Some(desired), HostState::Failed, Some(why))
            }
        }
    }

    /// Over which time the hosts that may go now begin.
    fn spread(&self, project: &Project) -> Duration {
        let rollout = self
            .mirror
            .rollouts
            .get(project)
            .and_then(|one| one.as_ref().ok());
        // Those of the waves before have begun.
        let open = rollout.map_or(0, |rollout| match rollout.wave {
            0 => rollout.open,
            wave => rollout.open.min(wave),
        });
        match open {
            0..=CANARY_MAX => Duration::ZERO,
            open => {
                let spread = Duration::from_millis(open.saturating_mul(1000) / PER_SECOND);
                spread.min(self.member.seat.times.spread)
            }
        }
    }

    /// Tells how what was done last stands.
    fn tell_applied(&mut self, project: &Project) -> Result<(), KvError> {
        let Some(one) = self.member.memory.projects.get(project) else {
            return Ok(());
        };
        let does = self.member.works.get(project).and_then(|work| work.state);
        let state = does.filter(|_| one.is_begun()).unwrap_or(one.state);
        let status = HostStatus::new(
            one.generation,
            Some(one.deployment_id),
            state,
            one.phase.clone(),
            one.code.clone(),
            one.message.clone(),
            one.attempt,
            one.previous_live,
        );
        self.put(project, status)
    }

    fn tell(
        &mut self,
        project: &Project,
        wanted: Option<&Desired>,
        state: HostState,
        why: Option<String>,
    ) -> Result<(), KvError> {
        let one = self.member.memory.projects.get(project);
        let highest = one.map_or(0, |one| one.generation);
        let generation = match (state, wanted) {
            // It is about what is wanted, or what it did, if that is newer.
            (HostState::Held, _) => highest.max(wanted.map_or(0, |wanted| wanted.generation)),
            (HostState::Pinned, _) | (_, None) => highest.max(
                wanted
                    .filter(|_| one.is_none())
                    .map_or(0, |wanted| wanted.generation),
            ),
            (_, Some(wanted)) => wanted.generation,
        };
        let deployment = match state {
            HostState::Held | HostState::Pinned => one.map(|one| one.deployment_id),
            _ => wanted.map(|wanted| wanted.deployment_id),
        };
        let live = one.and_then(|one| one.live_of_fleet);
        let status = HostStatus::new(generation, deployment, state, None, None, why, 0, live);
        self.put(project, status)
    }

    /// Tells of each component that this host was taken out, where something stands of it: it may have written while whoever
    /// took it out did.
    fn tell_removed(&mut self) -> Result<(), KvError> {
        let there = std::mem::take(&mut self.mirror.statuses);
        for (project, status) in there {
            let removed = status.of_removed();
            self.mirror.statuses.insert(project.clone(), status);
            self.put(&project, removed)?;
        }
        Ok(())
    }

    /// Writes a status, if it is another one than what stands there.
    fn put(&mut self, project: &Project, mut status: HostStatus) -> Result<(), KvError> {
        if let Some(why) = status.message.take() {
            status.message = Some(why.chars().take(MESSAGE_LEN_MAX).collect());
        }
        if self.mirror.statuses.get(project) == Some(&status) {
            return Ok(());
        }
        let seat = &self.member.seat;
        let value = status
            .write()
            .map_err(|why| KvError::new(KvTrouble::Refused, why))?;
        match seat
            .store
            .put(&seat.keys.status(&seat.host, project), &value, None)
        {
            Ok(_) => {
                self.mirror.statuses.insert(project.clone(), status);
                Ok(())
            }
            // It stays on disk and is told when there is room, or the right to.
            Err(error) if matches!(error.trouble, KvTrouble::NoSpace | KvTrouble::Denied) => {
                log::warn(&format!("fleet: {error}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

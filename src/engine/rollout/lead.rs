//! Leading rollouts: one host at a time leads one, for as long as its lease holds. What it decides it writes only while it
//! leads, in one transaction with the proof of that, so that two leaders cannot both open waves.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, select_biased};

use crate::api::error::{Code, Refusal};
use crate::api::fleet::{FleetDocument, Lead, Rollout, RolloutState};
use crate::api::name::Project;
use crate::client::kv::{
    CasOutcome, KvChange, KvCondition, KvError, KvNews, KvTransaction, KvTrouble, KvWrite, LeaseId,
};
use crate::engine::rollout::FleetSeat;
use crate::engine::rollout::known::{KnownRollouts, Leaderless};
use crate::engine::rollout::publish::FleetPublisher;
use crate::engine::rollout::step::{LeaderMemory, LeaderStep, step};
use crate::engine::rollout::view::{FleetNews, FleetView, Woken};
use crate::system::log;
use crate::system::stop::Stop;
use crate::system::threads;

/// How often it is looked whether a rollout lacks a leader, if nothing is heard of one: news may be lost.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// After trouble with the store; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How many rollouts a host leads at once, each on a thread; more than anybody has, and other hosts lead what is beyond.
const LEADING_MAX: usize = 64;
/// The stack of a thread that leads.
const STACK_BYTES: usize = 512 << 10;

/// How long a leader is missed.
#[derive(Debug, Clone, Copy)]
pub struct LeaderTimes {
    /// How long nobody leads after a leader has died.
    ttl: Duration,
}

impl LeaderTimes {
    /// With leases that last so long without their leader.
    pub fn lasting(ttl: Duration) -> LeaderTimes {
        // etcd grants no shorter one.
        let ttl = ttl.max(Duration::from_secs(2));
        LeaderTimes { ttl }
    }

    /// How often a leader says that it is there: twice more before its lease ends.
    fn renew(self) -> Duration {
        self.ttl / 3
    }

    /// The host that published leads at once; the others wait so long, and up to as much again, so that a thousand do not
    /// try together.
    fn others_wait(self) -> Duration {
        self.ttl / 15
    }
}

/// Leads the rollouts that nobody leads.
pub struct FleetLeader {
    publisher: Arc<FleetPublisher>,
    /// The components whose rollouts this host leads, or tries to.
    leading: Mutex<BTreeSet<Project>>,
    known: Mutex<KnownRollouts>,
    /// Wakes who looks for more when this host leads one rollout less.
    ended: (Sender<()>, Receiver<()>),
    times: LeaderTimes,
    stop: Stop,
}

impl FleetLeader {
    /// A leader that publishes by this publisher where it has to take something back.
    pub fn new(publisher: Arc<FleetPublisher>, times: LeaderTimes, stop: Stop) -> FleetLeader {
        FleetLeader {
            publisher,
            leading: Mutex::default(),
            known: Mutex::default(),
            ended: bounded(1),
            times,
            stop,
        }
    }

    fn seat(&self) -> &FleetSeat {
        &self.publisher.seat
    }

    /// Leads what nobody leads, a thread for each rollout, until the stop.
    pub fn run(self: &Arc<Self>) {
        let mut pause = PAUSE;
        while !self.stop.stopped() {
            match self.look() {
                Ok(()) => pause = PAUSE,
                Err(error) => {
                    log::info(&format!("looking for rollouts without a leader: {error}"));
                    if !self.wait(pause.mul_f64(random_part())) {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Lists once, and leads what nobody leads until something ends that.
    fn look(self: &Arc<Self>) -> Result<(), KvError> {
        let FleetSeat { store, keys, .. } = self.seat();
        let ranges = KnownRollouts::ranges(keys);
        let (mut known, mut from) = (KnownRollouts::default(), i64::MAX);
        for range in &ranges {
            let listing = store.list(range)?;
            from = from.min(listing.revision);
            let entries = listing.entries.into_iter();
            entries.for_each(|entry| known.heard(keys, &KvChange::Put(entry)));
        }
        *self.known() = known;
        let watch = store.watch(&ranges, from)?;
        let over = after(LOOK_EVERY.mul_f64(0.8 + 0.4 * random_part()));
        loop {
            let leaderless = self.known().leaderless();
            leaderless.into_iter().for_each(|one| self.begin(one));
            select_biased! {
                recv(self.stop.channel()) -> _ => return Ok(()),
                recv(watch.news) -> news => match news {
                    Ok(Ok(KvNews::Changes(changes))) => {
                        let mut known = self.known();
                        changes.iter().for_each(|one| known.heard(keys, one));
                    }
                    Ok(Ok(_)) => {}
                    // It is listed again, which is all there is to do.
                    Ok(Err(error)) if error.ends_watches() => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Ok(()),
                },
                // A rollout may have come while this host was about to end with the one before.
                recv(self.ended.1) -> _ => {}
                recv(over) -> _ => return Ok(()),
            }
        }
    }

    fn begin(self: &Arc<Self>, one: Leaderless) {
        let Leaderless { project, origin } = one;
        {
            let mut leading = self.leading();
            if leading.len() >= LEADING_MAX || !leading.insert(project.clone()) {
                return;
            }
        }
        let is_own = origin == self.seat().host;
        let (leader, of) = (Arc::clone(self), project.clone());
        let lead = move || {
            let delay = match is_own {
                true => Duration::ZERO,
                false => leader.times.others_wait().mul_f64(1.0 + random_part()),
            };
            // Most of those who waited hear of the one who did not.
            if leader.wait(delay) && leader.known().is_leaderless(&of) {
                let led = leader.lead(&of).unwrap_or_else(|error| {
                    log::info(&format!("leading the rollout of {of}: {error}"));
                    false
                });
                // Until then a lease keeps the others from it, be it of this host or of whoever was quicker.
                let _ = led || leader.wait(leader.times.ttl);
            }
            leader.leading().remove(&of);
            // One message is enough for several that have ended.
            let _ = leader.ended.0.try_send(());
        };
        if let Err(error) = threads::spawn(format!("lead-{project}"), STACK_BYTES, lead) {
            log::error(&format!("making a thread that leads {project}: {error}"));
            self.leading().remove(&project);
        }
    }

    /// Leads a rollout to its end, or as long as it may. False if somebody else was quicker.
    ///
    /// # Errors
    /// When the store does not answer: the lease ends then, and somebody else leads.
    fn lead(&self, project: &Project) -> Result<bool, Refusal> {
        let Some(term) = self.take(project).map_err(|error| failed(&error))? else {
            return Ok(false);
        };
        log::info(&format!("leading the rollout of {project}"));
        let led = self.led(project, &term);
        let given_back = KvTransaction {
            conditions: vec![term.condition()],
            writes: vec![KvWrite::Delete(term.key.clone())],
        };
        // If that fails, it ends with its lease.
        let _ = self.seat().store.cas(&given_back);
        led.map(|()| true)
    }

    pub(super) fn take(&self, project: &Project) -> Result<Option<LeaderTerm>, KvError> {
        let FleetSeat {
            store, keys, host, ..
        } = self.seat();
        let lease = store.alive(None, self.times.ttl)?;
        let key = keys.lead(project);
        let lead = Lead::new(host.clone()).write();
        let value = lead.map_err(|why| KvError::new(KvTrouble::Refused, why))?;
        let transaction = KvTransaction::create(&key, value, &lease);
        Ok(match store.cas(&transaction)? {
            CasOutcome::Won(created) => Some(LeaderTerm {
                key,
                created,
                lease,
            }),
            CasOutcome::Lost(_) => None,
        })
    }

    pub(super) fn led(&self, project: &Project, term: &LeaderTerm) -> Result<(), Refusal> {
        let seat = self.seat();
        let mut memory = LeaderMemory::default();
        let mut renewed = Instant::now();
        let (mut news, mut known_lost) = (None, false);
        loop {
            let view = FleetView::read(seat, project)?;
            let term_of = view.lead.as_ref().map(|(_, created)| *created);
            if term_of != Some(term.created) {
                return Ok(());
            }
            let (Some((rollout, modified)), Some((desired, _))) = (&view.rollout, &view.desired)
            else {
                return Ok(());
            };
            let now = Instant::now();
            let deadline = match step((rollout, desired), &view.hosts, now, &mut memory) {
                LeaderStep::End => return Ok(()),
                LeaderStep::Write(next) => {
                    self.write(project, term, (&next, *modified))?;
                    self.take_back(project, &next);
                    continue;
                }
                LeaderStep::Wait(deadline) => deadline,
            };
            let due = renewed + self.times.renew();
            let until = deadline.map_or(due, |deadline| deadline.min(due));
            if news.is_none() || known_lost {
                news = Some(FleetNews::begin(seat, &view)?);
                known_lost = false;
            }
            let most = until.saturating_duration_since(Instant::now());
            match news.as_ref().map(|news| news.wait(most, &self.stop)) {
                Some(Woken::Stopped) | None => return Ok(()),
                Some(Woken::Cut) => known_lost = true,
                Some(Woken::News | Woken::Time) => {}
            }
            if Instant::now() >= due {
                let again = seat.store.alive(Some(&term.lease), self.times.ttl);
                again.map_err(|error| failed(&error))?;
                renewed = Instant::now();
            }
        }
    }

    /// Writes what is next, if this host leads and nobody else wrote. Otherwise the next look tells.
    pub(super) fn write(
        &self,
        project: &Project,
        term: &LeaderTerm,
        (next, modified): (&Rollout, i64),
    ) -> Result<(), Refusal> {
        let key = self.seat().keys.rollout(project);
        let value = next.write();
        let value = value.map_err(|why| Refusal::new(Code::Internal, why))?;
        let transaction = KvTransaction {
            conditions: vec![
                term.condition(),
                KvCondition::Modified(key.clone(), modified),
            ],
            writes: vec![KvWrite::Put {
                key,
                value,
                lease: None,
            }],
        };
        let outcome = self.seat().store.cas(&transaction);
        outcome.map_err(|error| failed(&error))?;
        let (generation, open, state) = (next.generation, next.open, next.state);
        log::info(&format!(
            "the rollout of {project}, generation {generation}: {state:?}, {open} hosts may go"
        ));
        Ok(())
    }

    /// Makes what was wanted before wanted again, if a rollout that stops is to be taken back.
    fn take_back(&self, project: &Project, rollout: &Rollout) {
        if rollout.state != RolloutState::Stopped || !rollout.rollback_on_failure {
            return;
        }
        let message = format!(
            "generation {} failed: {}",
            rollout.generation,
            rollout.reason.as_deref().unwrap_or_default()
        );
        let message = message.chars().take(200).collect();
        if let Err(refusal) = self.publisher.roll_back(project, Some(message), None) {
            log::error(&refusal.to_string());
        }
    }

    /// Lets time pass; false if the server stops.
    fn wait(&self, time: Duration) -> bool {
        select_biased! {
            recv(self.stop.channel()) -> _ => false,
            recv(after(time)) -> _ => true,
        }
    }

    fn known(&self) -> MutexGuard<'_, KnownRollouts> {
        // Each change is taken in whole, or not at all.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leading(&self) -> MutexGuard<'_, BTreeSet<Project>> {
        // Each change is one insertion or removal.
        self.leading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time for which this host leads a rollout.
pub(super) struct LeaderTerm {
    key: String,
    /// The revision that began it.
    created: i64,
    lease: LeaseId,
}

impl LeaderTerm {
    fn condition(&self) -> KvCondition {
        KvCondition::Created(self.key.clone(), self.created)
    }
}

fn failed(error: &KvError) -> Refusal {
    Refusal::new(Code::FleetUnavailable, error.message.clone())
}

/// A random number from 0 up to 1.
fn random_part() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness all hosts wait as long, and nothing else is wrong.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

//! The right to publish a component: one at a time has it, from before its upload until it is published.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{after, select_biased};

use crate::api::error::{Code, Doing, Refusal};
use crate::api::fleet::{Claim, FleetDocument};
use crate::api::name::{DeploymentId, Project};
use crate::client::kv::{
    CasOutcome, KvCondition, KvError, KvRange, KvTransaction, KvTrouble, KvWrite, LeaseId,
};
use crate::engine::rollout::FleetSeat;
use crate::engine::rollout::seat::unavailable;
use crate::engine::rollout::view::document;
use crate::system::log;
use crate::system::stop::{self, Stop, Stopper};
use crate::system::threads;

/// How long a claim outlives whoever made it.
const TTL: Duration = Duration::from_secs(60);
/// How often it is renewed: twice more before it ends.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// How long a claim of this very host is waited for: that of an upload which another one has just replaced.
const OWN_MAX: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The stack of the thread that renews.
const STACK_BYTES: usize = 256 << 10;

/// A claim. Dropping the last copy of it gives it back.
#[derive(Clone)]
pub(super) struct HeldClaim(Arc<ClaimState>);

struct ClaimState {
    seat: FleetSeat,
    key: String,
    /// The revision that made it: another claim of the same key has another one.
    created: i64,
    lost: Arc<AtomicBool>,
    _renewing: Stopper,
}

impl HeldClaim {
    /// Claims a component for a deployment.
    ///
    /// # Errors
    /// `busy` with who has it, or `fleet_unavailable`.
    pub(super) fn take(
        seat: &FleetSeat,
        project: &Project,
        deployment_id: DeploymentId,
        user: Option<String>,
    ) -> Result<HeldClaim, Refusal> {
        let what = format!("deploying {project} to the fleet");
        let refuse = |error: KvError| unavailable(&what, &error);
        let claim = Claim::new(seat.host.clone(), deployment_id, user);
        let value = claim.write();
        let value = value.map_err(|why| Refusal::new(Code::Internal, format!("{what}: {why}")))?;
        let key = seat.keys.claim(project);
        let lease = seat.store.alive(None, TTL).map_err(refuse)?;
        let transaction = KvTransaction::create(&key, value, &lease);
        let until = Instant::now() + OWN_MAX;
        let created = loop {
            let there = match seat.store.cas(&transaction) {
                Ok(CasOutcome::Won(revision)) => break revision,
                Ok(CasOutcome::Lost(there)) => there,
                Err(error) if error.trouble == KvTrouble::Unknown => {
                    seat.store
                        .list(&KvRange::key(&*key))
                        .map_err(refuse)?
                        .entries
                }
                Err(error) => return Err(refuse(error)),
            };
            // Gone meanwhile, or not written: again.
            let Some((other, created)) =
                document::<Claim>(there.first(), |one| one.created).map_err(refuse)?
            else {
                continue;
            };
            if other.host == claim.host && other.deployment_id == claim.deployment_id {
                break created;
            }
            if other.host != claim.host || Instant::now() >= until {
                return Err(taken(project, &other));
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        let (renewing, stop) = stop::pair()?;
        let lost = Arc::default();
        let renew = Renewal {
            seat: seat.clone(),
            lease,
            lost: Arc::clone(&lost),
            stop,
        };
        threads::spawn(format!("claim-{project}"), STACK_BYTES, move || renew.run())
            .doing(|| format!("{what}: making a thread that renews its claim"))?;
        Ok(HeldClaim(Arc::new(ClaimState {
            seat: seat.clone(),
            key,
            created,
            lost,
            _renewing: renewing,
        })))
    }

    /// What has to be true for whoever publishes.
    pub(super) fn condition(&self) -> KvCondition {
        self.0.condition()
    }

    /// Whether it is known to have ended.
    pub(super) fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire)
    }
}

impl ClaimState {
    fn condition(&self) -> KvCondition {
        KvCondition::Created(self.key.clone(), self.created)
    }
}

impl Drop for ClaimState {
    fn drop(&mut self) {
        let transaction = KvTransaction {
            conditions: vec![self.condition()],
            writes: vec![KvWrite::Delete(self.key.clone())],
        };
        if let Err(error) = self.seat.store.cas(&transaction) {
            // It ends with its lease.
            log::warn(&format!("giving back {}: {error}", self.key));
        }
    }
}

fn taken(project: &Project, claim: &Claim) -> Refusal {
    let user = claim.user.as_deref();
    let user = user.map_or_else(String::new, |user| format!(" for {user}"));
    let (host, id) = (&claim.host, claim.deployment_id);
    let why =
        format!("{project} is being deployed to the fleet from {host}{user}: deployment {id}");
    Refusal::new(Code::Busy, why).about(id)
}

struct Renewal {
    seat: FleetSeat,
    lease: LeaseId,
    lost: Arc<AtomicBool>,
    stop: Stop,
}

impl Renewal {
    fn run(self) {
        loop {
            select_biased! {
                recv(self.stop.channel()) -> _ => return,
                recv(after(RENEW_EVERY)) -> _ => {}
            }
            if let Err(error) = self.seat.store.alive(Some(&self.lease), TTL) {
                log::warn(&format!("renewing a claim: {error}"));
                if error.trouble == KvTrouble::Gone {
                    self.lost.store(true, Ordering::Release);
                    return;
                }
            }
        }
    }
}

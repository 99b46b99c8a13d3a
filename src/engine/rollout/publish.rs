//! What is wanted from now on: published as one transaction, so that of two who try one wins.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{after, select_biased};

use crate::api::error::{Code, Refusal};
use crate::api::fleet::{
    Desired, FleetDocument, HostName, PreviousDesired, Rollout, RolloutOrder, signed_part,
};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{FleetOptions, Options, Restart};
use crate::api::source::SourceRevision;
use crate::client::kv::{CasOutcome, KvCondition, KvTransaction, KvTrouble, KvWrite};
use crate::engine::rollout::FleetSeat;
use crate::engine::rollout::claim::HeldClaim;
use crate::engine::rollout::plan;
use crate::engine::rollout::seat::unavailable;
use crate::engine::rollout::view::FleetView;
use crate::formats::signature::SigningKey;
use crate::system::stop::Stop;
use crate::system::time::now_ms;

/// How often an outcome that is not known is looked at, before that is told: with what etcd takes to find another leader
/// (7 s each) about a minute.
const SETTLE_TRIES: u32 = 8;
/// Between two looks at first; it doubles.
const SETTLE_PAUSE: Duration = Duration::from_millis(250);
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is to be wanted.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    pub(super) deployment_id: DeploymentId,
    pub(super) sha256: String,
    pub(super) size: u64,
    pub(super) options: Options,
    pub(super) restart: Restart,
    /// Who has the payload first, and where it is reached.
    pub(super) origin: (HostName, Option<String>),
    pub(super) user: Option<String>,
    pub(super) message: Option<String>,
    pub(super) source: Option<SourceRevision>,
    pub(super) rollback_of: Option<DeploymentId>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) before: BeforeThat,
}

/// What a rollback goes back to, once this is wanted.
#[derive(Debug, Clone)]
pub(super) enum BeforeThat {
    /// What is wanted now.
    Current,
    /// This; nothing after a rollback, since a second one must not bring back what the first one undid.
    Given(Option<PreviousDesired>),
}

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The new generation.
    pub generation: u64,
    /// The hosts that are meant.
    pub hosts: u64,
    /// What is wanted now.
    pub deployment_id: DeploymentId,
}

/// Publishes what is wanted of components.
pub struct FleetPublisher {
    pub(super) seat: FleetSeat,
    key: Option<Arc<SigningKey>>,
    stop: Stop,
}

impl fmt::Debug for FleetPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetPublisher({})", self.seat.host)
    }
}

impl FleetPublisher {
    /// Publishes from this seat, with a signature if there is a key, until the stop.
    pub fn new(seat: FleetSeat, key: Option<SigningKey>, stop: Stop) -> FleetPublisher {
        FleetPublisher {
            seat,
            key: key.map(Arc::new),
            stop,
        }
    }

    /// The fleet that it publishes to.
    pub fn seat(&self) -> &FleetSeat {
        &self.seat
    }

    /// Claims a component, before anything is uploaded.
    ///
    /// # Errors
    /// `busy` if somebody else has it, or its rollout goes on and is not to be replaced; `fleet_unavailable`.
    pub(super) fn claim(
        &self,
        project: &Project,
        deployment: DeploymentId,
        (user, options): (Option<String>, &FleetOptions),
    ) -> Result<HeldClaim, Refusal> {
        let view = FleetView::read(&self.seat, project)?;
        if view.is_rolling() && !options.replace {
            let (live, hosts) = view.count();
            let why = format!(
                "{project} is being rolled out: generation {} is live on {live} of {hosts} hosts; --replace takes its place",
                view.generation()
            );
            let refusal = Refusal::new(Code::Busy, why);
            return Err(match view.deployment() {
                Some(id) => refusal.about(id),
                None => refusal,
            });
        }
        HeldClaim::take(&self.seat, project, deployment, user)
    }

    /// Publishes. What a store says that may have been done or not is looked at until that is known.
    ///
    /// # Errors
    /// `conflict` if somebody else was quicker, `fleet_unavailable`; the message says if it may have been done all the same.
    pub(super) fn publish(
        &self,
        project: &Project,
        claim: &HeldClaim,
        (publication, options): (&Publication, Option<&FleetOptions>),
    ) -> Result<Published, Refusal> {
        let what = format!("publishing {project} to the fleet");
        let (mut tries, mut pause, mut is_unknown, mut tried) = (0, SETTLE_PAUSE, false, None);
        loop {
            tries += 1;
            let trouble = match self.attempt(project, claim, (publication, options), &mut tried) {
                Ok(published) => return Ok(published),
                Err(Trouble::Final(refusal)) => return Err(refusal),
                Err(Trouble::Store(error)) => error,
            };
            is_unknown |= trouble.trouble == KvTrouble::Unknown;
            let refusal = unavailable(&what, &trouble);
            if !is_unknown {
                return Err(refusal);
            }
            if tries >= SETTLE_TRIES {
                let why = format!(
                    "{}; whether it was published is not known: `gangplank fleet {project}` shows it once etcd is back",
                    refusal.message
                );
                return Err(Refusal::new(Code::FleetUnavailable, why));
            }
            select_biased! {
                recv(self.stop.channel()) -> _ => return Err(refusal),
                recv(after(pause)) -> _ => {}
            }
            pause = (pause * 2).min(SETTLE_PAUSE_MAX);
        }
    }

    /// One look and one transaction. `tried` is the generation that an earlier try may have published.
    fn attempt(
        &self,
        project: &Project,
        claim: &HeldClaim,
        (publication, options): (&Publication, Option<&FleetOptions>),
        tried: &mut Option<u64>,
    ) -> Result<Published, Trouble> {
        let view = FleetView::look(&self.seat, project).map_err(Trouble::Store)?;
        if let Some((desired, _)) = &view.desired {
            let is_ours = desired.deployment_id == publication.deployment_id
                && desired.rollback_of == publication.rollback_of
                && Some(desired.generation) == *tried;
            if is_ours {
                return Ok(Published {
                    generation: desired.generation,
                    hosts: view.hosts.len() as u64,
                    deployment_id: desired.deployment_id,
                });
            }
        }
        let conflict = |why: String| {
            let why = format!("publishing {project} to the fleet: {why}");
            Trouble::Final(Refusal::new(Code::Conflict, why))
        };
        if claim.is_lost() {
            return Err(conflict(
                "its claim has ended, since etcd was away for long".into(),
            ));
        }
        let (desired, rollout, hosts) = self.documents(&view, publication, options)?;
        let generation = desired.generation;
        let write = |key: String, value: Vec<u8>| KvWrite::Put {
            key,
            value,
            lease: None,
        };
        let keys = &self.seat.keys;
        let desired_key = keys.desired(project);
        let before = match &view.desired {
            Some((_, modified)) => KvCondition::Modified(desired_key.clone(), *modified),
            None => KvCondition::Absent(desired_key.clone()),
        };
        let transaction = KvTransaction {
            conditions: vec![claim.condition(), before],
            writes: vec![
                write(desired_key, self.signed(project, desired)?),
                write(keys.rollout(project), written(&rollout)?),
            ],
        };
        *tried = Some(generation);
        match self.seat.store.cas(&transaction) {
            Ok(CasOutcome::Won(_)) => Ok(Published {
                generation,
                hosts,
                deployment_id: publication.deployment_id,
            }),
            Ok(CasOutcome::Lost(_)) => Err(conflict("somebody else published it meanwhile".into())),
            Err(error) => Err(Trouble::Store(error)),
        }
    }

    fn documents(
        &self,
        view: &FleetView,
        publication: &Publication,
        options: Option<&FleetOptions>,
    ) -> Result<(Desired, Rollout, u64), Trouble> {
        let project = &view.project;
        let order = self.order(publication)?;
        let hosts = order.hosts().count() as u64;
        if hosts == 0 {
            let by = plan::chosen_by(&publication.labels);
            let why = format!("publishing {project}: there is no host in the fleet{by}");
            return Err(Trouble::Final(Refusal::new(Code::NotFound, why)));
        }
        // Above all that any host has heard of: an older backup of etcd does not make it go back.
        let generation = view.generation().max(view.newest_reported) + 1;
        let rollout = match options {
            Some(options) => plan::begin(options, generation, &order),
            None => plan::everywhere(generation, &order),
        };
        let current = view.desired.as_ref();
        let previous = match &publication.before {
            BeforeThat::Current => current.map(|(desired, _)| plan::previous_of(desired)),
            BeforeThat::Given(previous) => previous.clone(),
        };
        let Publication {
            deployment_id,
            sha256,
            size,
            options: built,
            restart,
            origin: (origin, origin_url),
            user,
            message,
            source,
            rollback_of,
            labels,
            before: _,
        } = publication.clone();
        let desired = Desired::new(
            generation,
            deployment_id,
            sha256,
            size,
            built,
            restart,
            origin,
            origin_url,
            user,
            now_ms(),
            message,
            source,
            rollback_of,
            false,
            labels,
            previous,
            None,
        );
        Ok((desired, rollout, hosts))
    }

    /// The hosts that are meant, in the order in which they go.
    fn order(&self, publication: &Publication) -> Result<RolloutOrder, Trouble> {
        let hosts = super::view::hosts_with(&self.seat, &publication.labels);
        let hosts = hosts.map_err(Trouble::Store)?;
        Ok(RolloutOrder::new(publication.deployment_id, hosts))
    }

    fn signed(&self, project: &Project, mut desired: Desired) -> Result<Vec<u8>, Trouble> {
        let value = written(&desired)?;
        let Some(key) = &self.key else {
            return Ok(value);
        };
        let part = signed_part(project, &value);
        desired.signature = part.map(|(bytes, _)| key.sign(&bytes));
        written(&desired)
    }
}

/// Why a try has not published.
enum Trouble {
    /// No further try changes that.
    Final(Refusal),
    Store(crate::client::kv::KvError),
}

fn written(document: &impl FleetDocument) -> Result<Vec<u8>, Trouble> {
    document.write().map_err(|why| {
        let why = format!("publishing to the fleet: {why}");
        Trouble::Final(Refusal::new(Code::BadRequest, why))
    })
}

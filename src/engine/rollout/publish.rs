//! What is wanted from now on: published as one transaction, so that of two who try one wins.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
use crate::engine::rollout::trust::FleetTrust;
use crate::engine::rollout::view::FleetView;
use crate::formats::signature::SigningKey;
use crate::system::stop::Stop;
use crate::system::time::now_ms;
use crate::system::{log, threads};

/// How long an outcome that is not known is looked at before that is told: etcd takes 7 s to say that it has no leader, and
/// finds another one within two or three of these.
pub const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Between two looks at first; it doubles.
const SETTLE_PAUSE: Duration = Duration::from_millis(250);
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The stack of a thread that goes on with it.
const STACK_BYTES: usize = 256 << 10;

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

/// Gives the highest generation of a component that this host remembers.
pub type GenerationMemory = Arc<dyn Fn(&Project) -> u64 + Send + Sync>;

/// Hears of a payload by its SHA-256 before it is published.
pub type PayloadHint = Arc<dyn Fn(&Project, &str) + Send + Sync>;

/// Publishes what is wanted of components.
#[derive(Clone)]
pub struct FleetPublisher {
    pub(super) seat: FleetSeat,
    key: Option<Arc<SigningKey>>,
    /// How long it is looked whether something was published.
    patience: Duration,
    /// Whose word is taken over into what is signed here.
    trust: Option<FleetTrust>,
    /// The highest generation of a component that this host remembers.
    remembered: GenerationMemory,
    /// Hears of payloads before they are published, so that they are kept.
    keep: PayloadHint,
    stop: Stop,
}

impl fmt::Debug for FleetPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetPublisher({})", self.seat.host)
    }
}

impl FleetPublisher {
    /// Publishes from this seat, with a signature if there is a key, until the stop. What stands in the store is taken over into
    /// what is published only if it is signed by whom `trust` names; if it names nobody, by the key itself.
    pub fn new(
        seat: FleetSeat,
        (key, trust): (Option<SigningKey>, Option<FleetTrust>),
        stop: Stop,
    ) -> FleetPublisher {
        let own = || key.as_ref().map(FleetTrust::of_key);
        FleetPublisher {
            seat,
            trust: trust.or_else(own),
            key: key.map(Arc::new),
            patience: SETTLE_MAX,
            remembered: Arc::new(|_| 0),
            keep: Arc::new(|_, _| {}),
            stop,
        }
    }

    /// The same, but it looks so long whether something was published before it says that nobody knows.
    #[must_use]
    pub fn looking_for(mut self, patience: Duration) -> FleetPublisher {
        self.patience = patience;
        self
    }

    /// Whether what is wanted now may be published again, or gone back to. Whoever can write it could have it signed so
    /// otherwise, and the hosts would take it.
    ///
    /// # Errors
    /// `conflict` with why not.
    pub(super) fn vouch(&self, view: &FleetView, what: &str) -> Result<(), Refusal> {
        let Some(trust) = self.trust.as_ref().filter(|_| view.desired.is_some()) else {
            return Ok(());
        };
        let checked = trust.check(&view.project, &view.desired_value);
        checked.map_err(|why| Refusal::new(Code::Conflict, format!("{what}: {why}")))
    }

    /// The same, but this host remembers generations that etcd may have lost.
    #[must_use]
    pub fn remembering(mut self, remembered: GenerationMemory) -> FleetPublisher {
        self.remembered = remembered;
        self
    }

    /// The same, and this one hears of payloads before they are published.
    #[must_use]
    pub fn keeping(mut self, keep: PayloadHint) -> FleetPublisher {
        self.keep = keep;
        self
    }

    /// The highest generation that any host has heard of.
    fn newest(&self, view: &FleetView) -> u64 {
        let here = (self.remembered)(&view.project);
        view.generation().max(view.newest_reported).max(here)
    }

    /// The fleet that it publishes to.
    pub fn seat(&self) -> &FleetSeat {
        &self.seat
    }

    /// Claims a component, before anything is uploaded.
    ///
    /// # Errors
    /// `busy` if somebody else has it, or its rollout goes on and is not to be replaced; `conflict` if etcd was emptied;
    /// `fleet_unavailable`.
    pub(super) fn claim(
        &self,
        project: &Project,
        deployment: DeploymentId,
        (user, options): (Option<String>, &FleetOptions),
    ) -> Result<HeldClaim, Refusal> {
        self.may_begin(project, options)?;
        let claim = HeldClaim::take(&self.seat, project, deployment, user)?;
        // Whoever had the claim until then has published meanwhile.
        self.may_begin(project, options)?;
        Ok(claim)
    }

    fn may_begin(&self, project: &Project, options: &FleetOptions) -> Result<(), Refusal> {
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
        let newest = self.newest(&view);
        let is_gone = |view: &FleetView| view.desired.is_none() && newest > 0;
        // It is read before the statuses are, and may have been published in between: the second look tells.
        if !options.adopt && is_gone(&view) && is_gone(&FleetView::read(&self.seat, project)?) {
            let why = format!(
                "deploying {project} to the fleet: etcd has nothing of it, and hosts have been at generation {newest} \
                 (emptied etcd?); --adopt publishes it above that"
            );
            return Err(Refusal::new(Code::Conflict, why));
        }
        Ok(())
    }

    /// Publishes. What a store says that may have been done or not is looked at until that is known; if it takes too long, it
    /// is gone on with after this has returned, as long as the server runs.
    ///
    /// # Errors
    /// `conflict` if somebody else was quicker, `fleet_unavailable` if it is certain that nothing was published, and
    /// `outcome_unknown` if it is not.
    pub(super) fn publish(
        &self,
        project: &Project,
        claim: &HeldClaim,
        how: (&Publication, Option<&FleetOptions>),
    ) -> Result<Published, Refusal> {
        let mut tried = None;
        (self.keep)(project, &how.0.sha256);
        let until = Instant::now() + self.patience;
        let trouble = match self.settle(project, claim, how, (&mut tried, Some(until))) {
            Ok(published) => return Ok(published),
            Err(Unsettled::Refused(refusal)) => return Err(refusal),
            Err(Unsettled::Unknown(trouble)) => trouble,
        };
        self.settle_later(project, claim, how, tried);
        let why = format!(
            "{trouble}; whether it was published is not known: `gangplank fleet {project}` shows it once etcd is back"
        );
        Err(Refusal::new(Code::OutcomeUnknown, why))
    }

    /// Tries until it is known whether it is published, at most until then.
    fn settle(
        &self,
        project: &Project,
        claim: &HeldClaim,
        how: (&Publication, Option<&FleetOptions>),
        (tried, until): (&mut Option<u64>, Option<Instant>),
    ) -> Result<Published, Unsettled> {
        let what = format!("publishing {project} to the fleet");
        let mut pause = SETTLE_PAUSE;
        loop {
            let trouble = match self.attempt(project, claim, how, tried) {
                Ok(published) => return Ok(published),
                Err(Trouble::Final(refusal)) => return Err(Unsettled::Refused(refusal)),
                Err(Trouble::Store(error)) => unavailable(&what, &error),
            };
            if tried.is_none() {
                return Err(Unsettled::Refused(trouble));
            }
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Err(Unsettled::Unknown(trouble.message));
            }
            let pause_now = until.map_or(pause, |until| pause.min(until - now));
            select_biased! {
                recv(self.stop.channel()) -> _ => return Err(Unsettled::Unknown(trouble.message)),
                recv(after(pause_now)) -> _ => {}
            }
            pause = (pause * 2).min(SETTLE_PAUSE_MAX);
        }
    }

    /// Goes on with it on a thread of its own, with the claim, until it is known or the server ends.
    fn settle_later(
        &self,
        project: &Project,
        claim: &HeldClaim,
        (publication, options): (&Publication, Option<&FleetOptions>),
        mut tried: Option<u64>,
    ) {
        let (publisher, project, claim) = (self.clone(), project.clone(), claim.clone());
        let (publication, options) = (publication.clone(), options.cloned());
        let name = format!("settle-{project}");
        let settle = move || {
            let how = (&publication, options.as_ref());
            match publisher.settle(&project, &claim, how, (&mut tried, None)) {
                Ok(published) => log::info(&format!(
                    "{project} is published to the fleet after all: generation {}",
                    published.generation
                )),
                Err(Unsettled::Refused(refusal)) => {
                    log::error(&format!(
                        "{project} is not published to the fleet: {refusal}"
                    ));
                }
                // The next start finds what is wanted, as every host does.
                Err(Unsettled::Unknown(_)) => {}
            }
        };
        if let Err(error) = threads::spawn(name, STACK_BYTES, settle) {
            log::error(&format!(
                "making a thread that settles what was published: {error}"
            ));
        }
    }

    /// One look and one transaction. `tried` is the first generation that an earlier try may have published.
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
                && tried.is_some_and(|first| desired.generation >= first);
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
        match self.seat.store.cas(&transaction) {
            Ok(CasOutcome::Won(_)) => Ok(Published {
                generation,
                hosts,
                deployment_id: publication.deployment_id,
            }),
            Ok(CasOutcome::Lost(_)) => Err(conflict("somebody else published it meanwhile".into())),
            Err(error) => {
                if error.trouble == KvTrouble::Unknown {
                    tried.get_or_insert(generation);
                }
                Err(Trouble::Store(error))
            }
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
        let newest = self.newest(view);
        let Some(generation) = newest.checked_add(1) else {
            let why =
                format!("publishing {project}: {newest} is the last generation that there can be");
            return Err(Trouble::Final(Refusal::new(Code::Conflict, why)));
        };
        let rollout = match options {
            Some(options) => plan::begin(options, generation, &order),
            None => plan::everywhere(generation, &order),
        };
        // A rollback must not lead to what somebody else wrote there.
        let is_vouched = self.vouch(view, "").is_ok();
        let current = view.desired.as_ref().filter(|_| is_vouched);
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

/// Why it is not known to be published.
enum Unsettled {
    /// It is not published.
    Refused(Refusal),
    /// It may be; this was in the way of finding out.
    Unknown(String),
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

//! A deployment that is to be published: it claims its component when it begins, and publishes when it is built.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::error::{Code, Doing, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{FleetOptions, Restart};
use crate::api::record::Record;
use crate::engine::rollout::FleetSeat;
use crate::engine::rollout::claim::HeldClaim;
use crate::engine::rollout::publish::{BeforeThat, FleetPublisher, Publication, Published};
use crate::engine::rollout::view::FleetView;

/// What a deployment needs to be published. The claim goes with the last copy of it.
#[derive(Clone)]
pub struct FleetTicket(Arc<TicketState>);

struct TicketState {
    publisher: Arc<FleetPublisher>,
    options: FleetOptions,
    /// Whether the hosts restart the processes; here nothing is live yet.
    restart: Restart,
    claim: Mutex<Option<HeldClaim>>,
}

impl fmt::Debug for FleetTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetTicket({:?})", self.0.options)
    }
}

impl FleetTicket {
    /// A ticket for one deployment.
    pub fn new(
        publisher: &Arc<FleetPublisher>,
        options: FleetOptions,
        restart: Restart,
    ) -> FleetTicket {
        FleetTicket(Arc::new(TicketState {
            publisher: Arc::clone(publisher),
            options,
            restart,
            claim: Mutex::default(),
        }))
    }

    /// Claims the component for a deployment that begins.
    ///
    /// # Errors
    /// `busy`, or `fleet_unavailable`: nothing has begun then.
    pub fn claim(
        &self,
        project: &Project,
        deployment: DeploymentId,
        user: Option<String>,
    ) -> Result<(), Refusal> {
        let by = (user, &self.0.options);
        let claim = self.0.publisher.claim(project, deployment, by)?;
        *self.held() = Some(claim);
        Ok(())
    }

    /// Publishes a deployment whose release is built, and whose payload is stored here.
    ///
    /// # Errors
    /// Why it is not published.
    pub fn publish(&self, record: &Record, payload: &Path) -> Result<Published, Refusal> {
        let project = &record.project;
        let what = format!("publishing {project} to the fleet");
        let held = self.held();
        let Some(claim) = &*held else {
            let why = format!("{what}: it was never claimed");
            return Err(Refusal::new(Code::Internal, why));
        };
        if record.payload_kind.as_deref() == Some("delta") {
            let why = format!("{what}: it is a delta, and hosts may lack what it begins from");
            return Err(Refusal::new(Code::StaleBase, why));
        }
        let size = payload.metadata().doing(|| what.clone())?.len();
        let seat = self.0.publisher.seat();
        let sha256 = record.payload_hash.clone();
        let publication = Publication {
            deployment_id: record.deployment_id,
            sha256: sha256.ok_or_else(|| Refusal::new(Code::Internal, what))?,
            size,
            options: record.options.clone(),
            restart: self.0.restart,
            origin: (seat.host.clone(), Some(seat.url.clone())),
            user: record.user.clone(),
            message: record.message.clone(),
            source: record.source.clone(),
            rollback_of: None,
            labels: self.0.options.labels.clone(),
            before: BeforeThat::Current,
        };
        let how = (&publication, Some(&self.0.options));
        self.0.publisher.publish(project, claim, how)
    }

    fn held(&self) -> MutexGuard<'_, Option<HeldClaim>> {
        self.0.claim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is live on this host, and can be given to others.
#[derive(Debug, Clone)]
pub struct LiveHere {
    /// The record of its release.
    pub record: Record,
    /// The SHA-256 of its payload, in hex.
    pub sha256: String,
    /// Its payload's size in bytes.
    pub size: u64,
}

impl LiveHere {
    /// What is wanted if it is. Where the fleet knew it before, it is the same deployment, so that no host builds it again.
    fn publication(&self, seat: &FleetSeat, user: Option<String>) -> Publication {
        let record = &self.record;
        let known = record.fleet.map(|fleet| fleet.deployment_id);
        Publication {
            deployment_id: known.unwrap_or(record.deployment_id),
            sha256: self.sha256.clone(),
            size: self.size,
            options: record.options.clone(),
            restart: Restart::Auto,
            origin: (seat.host.clone(), Some(seat.url.clone())),
            user,
            message: record.message.clone(),
            source: record.source.clone(),
            rollback_of: None,
            labels: BTreeMap::new(),
            before: BeforeThat::Given(None),
        }
    }
}

impl FleetPublisher {
    /// Makes what was wanted before wanted again, on all hosts at once.
    ///
    /// # Errors
    /// `not_found` if nothing was, `busy`, `conflict`, or `fleet_unavailable`.
    pub fn roll_back(
        &self,
        project: &Project,
        message: Option<String>,
        user: Option<String>,
    ) -> Result<Published, Refusal> {
        let what = format!("rolling back {project} in the fleet");
        let view = FleetView::read(&self.seat, project)?;
        self.vouch(&view, &what)?;
        let Some((desired, _)) = view.desired else {
            let why = format!("{what}: nothing is wanted of it");
            return Err(Refusal::new(Code::NotFound, why));
        };
        let undone = desired.deployment_id;
        let Some(before) = desired.previous else {
            let why = format!("{what}: nothing was wanted of it before");
            return Err(Refusal::new(Code::NotFound, why));
        };
        let origin = before.origin.unwrap_or(desired.origin);
        let publication = Publication {
            deployment_id: before.deployment_id,
            sha256: before.sha256,
            size: before.size,
            options: before.options,
            restart: desired.restart,
            origin: (origin, before.origin_url),
            user: user.clone(),
            message,
            source: None,
            rollback_of: Some(undone),
            labels: desired.labels,
            before: BeforeThat::Given(None),
        };
        self.publish_at_once(project, &publication, user)
    }

    /// Publishes what is wanted anew, with a generation above all that any host has heard of: what ends `held` after etcd was
    /// put back to an older backup. Where nothing is wanted, what is live here is, if that is given.
    ///
    /// # Errors
    /// `not_found` if nothing is wanted, `busy`, `conflict`, or `fleet_unavailable`.
    pub fn publish_current(
        &self,
        project: &Project,
        live: Option<&LiveHere>,
        user: Option<String>,
    ) -> Result<Published, Refusal> {
        let what = format!("publishing {project} anew");
        let view = FleetView::read(&self.seat, project)?;
        self.vouch(&view, &what)?;
        let Some((desired, _)) = view.desired else {
            let Some(live) = live else {
                let why = format!(
                    "{what}: nothing is wanted of it; where etcd was emptied, --adopt publishes what is \
                     live on this host"
                );
                return Err(Refusal::new(Code::NotFound, why));
            };
            let publication = live.publication(&self.seat, user.clone());
            return self.publish_at_once(project, &publication, user);
        };
        let publication = Publication {
            deployment_id: desired.deployment_id,
            sha256: desired.sha256,
            size: desired.size,
            options: desired.options,
            restart: desired.restart,
            origin: (desired.origin, desired.origin_url),
            user: user.clone(),
            message: desired.message,
            source: desired.source,
            rollback_of: desired.rollback_of,
            labels: desired.labels,
            before: BeforeThat::Given(desired.previous),
        };
        self.publish_at_once(project, &publication, user)
    }

    fn publish_at_once(
        &self,
        project: &Project,
        publication: &Publication,
        user: Option<String>,
    ) -> Result<Published, Refusal> {
        let claim = HeldClaim::take(&self.seat, project, publication.deployment_id, user)?;
        self.publish(project, &claim, (publication, None))
    }
}

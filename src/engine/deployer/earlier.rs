//! A release of an earlier deployment becomes live again.

use std::fs::File;
use std::sync::Arc;

use crate::api::error::{Code, Refusal};
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Restart;
use crate::api::record::{DeploymentKind, Record};
use crate::api::source::Provenance;
use crate::engine::deployer::joining::Started;
use crate::engine::deployer::keyed::KeyedRequest;
use crate::engine::deployer::{Deployer, not_found};
use crate::engine::outcome::Failed;
use crate::engine::spec::{DeployCaller, DeploySpec, Earlier, Plan, Replication};
use crate::engine::stages::{Ready, Work};
use crate::store::journal::Follower;

/// What is to become live again.
struct MakeLive {
    /// The deployment that built it.
    of: Record,
    /// The deployment that a rollback undoes.
    rollback_of: Option<DeploymentId>,
    /// The server whose deployment this is a part of.
    origin: Option<String>,
    provenance: Provenance,
    restart: Restart,
    /// Whether it is to be live on the peers, too, and how.
    replicate: Option<Replication>,
}

impl Deployer {
    /// Makes the release of an earlier deployment live, a staged one or one that was live before.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `busy`, or why no deployment has begun.
    pub fn activate(
        self: &Arc<Self>,
        project: &Project,
        id: DeploymentId,
        (restart, origin, provenance): (Restart, Option<String>, Provenance),
        caller: DeployCaller,
    ) -> Result<Follower, Refusal> {
        let by = caller.clone();
        let request = KeyedRequest {
            of: Some(id),
            ..KeyedRequest::new(project, &by, DeploymentKind::Activate, restart)
        };
        if let Some(earlier) = self.earlier(&request)? {
            return Ok(earlier);
        }
        let what = format!("activating deployment {id} of {project}");
        let built = self.built_by(project, id, &what)?;
        let goal = MakeLive {
            of: built,
            rollback_of: None,
            origin,
            provenance,
            restart,
            replicate: None,
        };
        self.make_live(goal, caller, &request, &what)
    }

    /// Runs what the release of an earlier deployment wants to be run before it goes live, and leaves it as it is.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `busy`, or why no deployment has begun.
    pub fn release(
        self: &Arc<Self>,
        project: &Project,
        id: DeploymentId,
        (origin, provenance): (String, Provenance),
        caller: DeployCaller,
    ) -> Result<Follower, Refusal> {
        let by = caller.clone();
        let request = KeyedRequest {
            of: Some(id),
            ..KeyedRequest::new(project, &by, DeploymentKind::Activate, Restart::No)
        };
        if let Some(earlier) = self.earlier(&request)? {
            return Ok(earlier);
        }
        let what = format!("releasing deployment {id} of {project}");
        let built = self.built_by(project, id, &what)?;
        let release = built.deployment_id;
        self.is_not_live(project, release, &what)?;
        let spec = DeploySpec {
            fleet: None,
            project: project.clone(),
            plan: Plan::Release(release),
            package: None,
            restart: Restart::No,
            options: built.options,
            provenance: provenance.or_source(built.source),
            origin: Some(origin),
            caller,
        };
        let attempt = match self.begin_once(&spec, &request)? {
            Started::New(attempt) => *attempt,
            Started::Earlier(follower) => return Ok(follower),
        };
        let work = self.built(&spec.project, release, &what);
        self.carry_on(spec, attempt, work)
    }

    fn is_not_live(
        &self,
        project: &Project,
        release: DeploymentId,
        what: &str,
    ) -> Result<(), Refusal> {
        if self.known.store.read_live(project)? != Some(release) {
            return Ok(());
        }
        let why = format!("{what}: release {release} is live already");
        Err(Refusal::new(Code::Conflict, why).about(release))
    }

    /// From the beginning of a deployment on nobody removes the release that it needs, but somebody may have before.
    fn built(
        &self,
        project: &Project,
        release: DeploymentId,
        what: &str,
    ) -> Result<Work, Box<Failed>> {
        let store = &self.known.store;
        if store.release(project, release).exists() {
            return Ok(Work::Built(Ready::built(store, project, release)));
        }
        let why = format!("{what}: release {release} was removed just now; try again");
        Err(Refusal::new(Code::NotFound, why).into())
    }

    /// Makes an earlier release live again: the one that is named, or the one before the live one.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `busy`, or why no deployment has begun.
    pub fn rollback(
        self: &Arc<Self>,
        project: &Project,
        to: Option<DeploymentId>,
        (restart, message, replicate): (Restart, Option<String>, Option<Replication>),
        caller: DeployCaller,
    ) -> Result<Follower, Refusal> {
        let by = caller.clone();
        let request = KeyedRequest {
            of: to,
            replicates: Some(replicate.is_some()),
            ..KeyedRequest::new(project, &by, DeploymentKind::Rollback, restart)
        };
        if let Some(earlier) = self.earlier(&request)? {
            return Ok(earlier);
        }
        let what = format!("rolling back {project}");
        let Some(live) = self.known.store.read_live(project)? else {
            let why = format!("{what}: nothing of it is live");
            return Err(Refusal::new(Code::NotFound, why));
        };
        let built = match to {
            Some(id) => self.built_by(project, id, &what)?,
            None => self.before(project, live, &what)?,
        };
        let goal = MakeLive {
            of: built,
            rollback_of: Some(live),
            origin: None,
            provenance: Provenance {
                message,
                source: None,
            },
            restart,
            replicate,
        };
        self.make_live(goal, caller, &request, &what)
    }

    /// The record of the deployment that built a release: of that deployment itself, or of the one whose release it made
    /// live.
    pub(super) fn built_by(
        &self,
        project: &Project,
        id: DeploymentId,
        what: &str,
    ) -> Result<Record, Refusal> {
        let store = &self.known.store;
        let found = store.read_record(id)?.ok_or_else(|| not_found(id))?;
        if found.project != *project {
            let why = format!("{what}: that is a deployment of {}", found.project);
            return Err(Refusal::new(Code::Conflict, why));
        }
        let record = match found.release_id {
            release if release == id => found,
            release => store
                .read_record(release)?
                .ok_or_else(|| not_found(release))?,
        };
        match record.status {
            Status::Success | Status::Staged | Status::RolledBack => Ok(record),
            status if status.ended() => {
                let why = format!("{what}: it has no release, since it did not end well");
                Err(Refusal::new(Code::Conflict, why))
            }
            _ => {
                let why = format!("{what}: it is still running");
                Err(Refusal::new(Code::Conflict, why))
            }
        }
    }

    /// The newest release before the live one that was live, and is still there or can be built again.
    fn before(&self, project: &Project, live: DeploymentId, what: &str) -> Result<Record, Refusal> {
        let store = &self.known.store;
        let mut releases: Vec<DeploymentId> = self.known.index.look(|all| {
            let of = all.values().filter(|one| {
                one.project == *project && one.status == Status::Success && one.release_id < live
            });
            of.map(|one| one.release_id).collect()
        });
        releases.sort_unstable();
        releases.dedup();
        let none = releases.is_empty();
        for id in releases.into_iter().rev() {
            if store.release(project, id).exists() || store.payload(id).exists() {
                return self.built_by(project, id, what);
            }
        }
        let why = if none {
            "no earlier release was ever live"
        } else {
            "of the earlier releases neither a tree nor a payload is left"
        };
        Err(Refusal::new(Code::NotFound, format!("{what}: {why}")))
    }

    /// Makes a release live that an earlier deployment built, or builds it again first if only its payload is left.
    fn make_live(
        self: &Arc<Self>,
        goal: MakeLive,
        caller: DeployCaller,
        request: &KeyedRequest<'_>,
        what: &str,
    ) -> Result<Follower, Refusal> {
        let MakeLive {
            of,
            rollback_of,
            origin,
            provenance,
            restart,
            replicate,
        } = goal;
        let store = &self.known.store;
        let (project, release) = (of.project.clone(), of.deployment_id);
        if rollback_of.is_some() {
            self.is_not_live(&project, release, what)?;
        }
        if replicate.is_some() {
            // What the peers get is the payload.
            self.payload(release).map_err(|refusal| {
                Refusal::new(refusal.code, format!("{what}: {}", refusal.message))
            })?;
        }
        let earlier = Earlier {
            release,
            rollback_of,
            replicate,
        };
        let (plan, payload) = self.plan(&project, earlier, what)?;
        let spec = DeploySpec {
            fleet: None,
            project,
            plan,
            package: None,
            restart,
            options: of.options,
            origin,
            provenance: provenance.or_source(of.source),
            caller,
        };
        self.has_peers(&spec)?;
        let mut attempt = match self.begin_once(&spec, request)? {
            Started::New(attempt) => *attempt,
            Started::Earlier(follower) => return Ok(follower),
        };
        let work = match payload {
            Some(mut payload) => {
                let came_as_delta = of.payload_kind.as_deref() == Some("delta");
                let expected = (of.payload_hash.as_deref(), came_as_delta);
                let rebuilt = self.intake().rebuild(&mut attempt, &mut payload, expected);
                rebuilt.map(Work::Unpacked)
            }
            // Only from the beginning of a deployment on nobody else changes what is live.
            None if store.live(&spec.project) == Some(release) => Ok(Work::Live),
            None => self.built(&spec.project, release, what),
        };
        self.carry_on(spec, attempt, work)
    }

    /// How a release becomes live that was built before: as it is, or built again from its payload.
    fn plan(
        &self,
        project: &Project,
        earlier: Earlier,
        what: &str,
    ) -> Result<(Plan, Option<File>), Refusal> {
        let release = earlier.release;
        if self.known.store.release(project, release).exists() {
            return Ok((Plan::Activate(earlier), None));
        }
        let gone = |refusal: Refusal| {
            let why = refusal.message;
            let why = format!("{what}: release {release} was removed, and {why}");
            Refusal::new(Code::NotFound, why)
        };
        let (payload, _) = self.payload(release).map_err(gone)?;
        Ok((Plan::Rebuild(earlier), Some(payload)))
    }

    /// A stored payload and its length.
    ///
    /// # Errors
    /// `not_found` if it is no longer stored.
    pub fn payload(&self, id: DeploymentId) -> Result<(File, u64), Refusal> {
        let found = self.known.store.open_payload(id)?;
        found.ok_or_else(|| {
            let why = format!("the payload of deployment {id} is no longer stored");
            Refusal::new(Code::NotFound, why)
        })
    }
}

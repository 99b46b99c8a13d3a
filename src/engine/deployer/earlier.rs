//! A release of an earlier deployment becomes live again.

use std::fs::File;
use std::sync::Arc;

use crate::api::error::{Code, Refusal};
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Restart;
use crate::api::record::{DeploymentKind, Record};
use crate::engine::deployer::joining::Started;
use crate::engine::deployer::keyed::KeyedRequest;
use crate::engine::deployer::{Deployer, not_found};
use crate::engine::outcome::Failed;
use crate::engine::spec::{DeployCaller, DeploySpec, Earlier, Plan};
use crate::engine::stages::{Ready, Work};
use crate::store::journal::Follower;

impl Deployer {
    /// Makes the release of an earlier deployment live, a staged one or one that was live before.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `busy`, or why no deployment has begun.
    pub fn activate(
        self: &Arc<Self>,
        project: &Project,
        id: DeploymentId,
        restart: Restart,
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
        self.make_live(built, None, (restart, caller), &request, &what)
    }

    /// Makes an earlier release live again: the one that is named, or the one before the live one.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `busy`, or why no deployment has begun.
    pub fn rollback(
        self: &Arc<Self>,
        project: &Project,
        to: Option<DeploymentId>,
        restart: Restart,
        caller: DeployCaller,
    ) -> Result<Follower, Refusal> {
        let by = caller.clone();
        let request = KeyedRequest {
            of: to,
            ..KeyedRequest::new(project, &by, DeploymentKind::Rollback, restart)
        };
        if let Some(earlier) = self.earlier(&request)? {
            return Ok(earlier);
        }
        let what = format!("rolling back {project}");
        let Some(live) = self.known.store.live(project) else {
            let why = format!("{what}: nothing of it is live");
            return Err(Refusal::new(Code::NotFound, why));
        };
        let built = match to {
            Some(id) => self.built_by(project, id, &what)?,
            None => self.before(project, live, &what)?,
        };
        self.make_live(built, Some(live), (restart, caller), &request, &what)
    }

    /// The record of the deployment that built a release: of that deployment itself, or of the one whose release it made
    /// live.
    fn built_by(&self, project: &Project, id: DeploymentId, what: &str) -> Result<Record, Refusal> {
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
        of: Record,
        rollback_of: Option<DeploymentId>,
        (restart, caller): (Restart, DeployCaller),
        request: &KeyedRequest<'_>,
        what: &str,
    ) -> Result<Follower, Refusal> {
        let store = &self.known.store;
        let (project, release) = (of.project.clone(), of.deployment_id);
        if store.live(&project) == Some(release) {
            let why = format!("{what}: release {release} is live already");
            return Err(Refusal::new(Code::Conflict, why).about(release));
        }
        let is_there = || store.release(&project, release).exists();
        let earlier = Earlier {
            release,
            rollback_of,
        };
        let (plan, payload) = if is_there() {
            (Plan::Activate(earlier), None)
        } else {
            let gone = |refusal: Refusal| {
                let why = format!(
                    "{what}: release {release} was removed, and {}",
                    refusal.message
                );
                Refusal::new(Code::NotFound, why)
            };
            let (payload, _) = self.payload(release).map_err(gone)?;
            (Plan::Rebuild(earlier), Some(payload))
        };
        let spec = DeploySpec {
            project,
            plan,
            restart,
            options: of.options,
            caller,
        };
        let mut attempt = match self.begin_once(&spec, request)? {
            Started::New(attempt) => *attempt,
            Started::Earlier(follower) => return Ok(follower),
        };
        let work = match payload {
            Some(mut payload) => self
                .intake()
                .rebuild(&mut attempt, &mut payload, of.payload_hash.as_deref())
                .map(Work::Unpacked),
            // From the beginning on nobody removes it, but somebody may have before.
            None if store.release(&spec.project, release).exists() => {
                Ok(Work::Built(Ready::built(store, &spec.project, release)))
            }
            None => {
                let why = format!("{what}: release {release} was removed just now; try again");
                Err(Box::<Failed>::from(Refusal::new(Code::NotFound, why)))
            }
        };
        self.carry_on(spec, attempt, work)
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

//! Restarting what is live: a deployment with the phase `restart` alone.

use std::sync::Arc;

use crate::api::error::{Code, Refusal};
use crate::api::name::Project;
use crate::api::operation::{Options, Restart};
use crate::api::record::DeploymentKind;
use crate::api::source::Provenance;
use crate::engine::deployer::Deployer;
use crate::engine::deployer::joining::Started;
use crate::engine::deployer::keyed::KeyedRequest;
use crate::engine::spec::{DeployCaller, DeploySpec, Plan, Replication};
use crate::engine::stages::Work;
use crate::store::journal::Follower;

impl Deployer {
    /// Restarts what is live, and what is live at every peer if that is wanted.
    ///
    /// # Errors
    /// `not_found` if nothing is live, `busy`, or why no deployment has begun.
    pub fn restart(
        self: &Arc<Self>,
        project: &Project,
        (restart, message, replicate): (Restart, Option<String>, Option<Replication>),
        caller: DeployCaller,
    ) -> Result<Follower, Refusal> {
        let by = caller.clone();
        let request = KeyedRequest {
            replicates: Some(replicate.is_some()),
            ..KeyedRequest::new(project, &by, DeploymentKind::Restart, restart)
        };
        if let Some(earlier) = self.earlier(&request)? {
            return Ok(earlier);
        }
        let Some(live) = self.known.store.live(project) else {
            let why = format!("restarting {project}: nothing of it is live");
            return Err(Refusal::new(Code::NotFound, why));
        };
        let built = self.known.store.read_record(live)?;
        let source = built.and_then(|record| record.source);
        let spec = DeploySpec {
            fleet: None,
            project: project.clone(),
            plan: Plan::Restart(live, replicate),
            package: None,
            restart,
            options: Options::default(),
            origin: None,
            provenance: Provenance { message, source },
            caller,
        };
        self.has_peers(&spec)?;
        match self.begin_once(&spec, &request)? {
            Started::New(attempt) => self.carry_on(spec, *attempt, Ok(Work::Live)),
            Started::Earlier(follower) => Ok(follower),
        }
    }
}

//! A payload that arrives is built.

use std::io::Read;
use std::sync::Arc;

use crate::api::error::{Code, Refusal};
use crate::api::name::Project;
use crate::engine::deployer::Deployer;
use crate::engine::deployer::joining::Started;
use crate::engine::deployer::keyed::KeyedRequest;
use crate::engine::spec::{DeploySpec, Plan};
use crate::engine::stages::{Intake, Work};
use crate::store::journal::Follower;
use crate::system::stop::Stop;

/// Begins to read a payload. The stop ends the reading early.
type OpenPayload<'a> = Box<dyn FnOnce(Stop) -> Result<Box<dyn Read + 'a>, Refusal> + 'a>;

/// A payload on its way.
pub struct Incoming<'a> {
    /// Begins to read it.
    pub open: OpenPayload<'a>,
    /// The SHA-256 that it must have, in hex.
    pub sha256: Option<&'a str>,
    /// How many bytes it has at least.
    pub least: u64,
}

impl Deployer {
    /// Receives a payload and deploys it as the spec says. The follower shows the deployment from its beginning; it is that of
    /// an earlier request if this one has the same key.
    ///
    /// # Errors
    /// Why no deployment has begun.
    pub fn build(
        self: &Arc<Self>,
        spec: DeploySpec,
        incoming: Incoming<'_>,
    ) -> Result<Follower, Refusal> {
        let request = KeyedRequest::build(&spec, incoming.sha256);
        if let Some(earlier) = self.earlier(&request)? {
            return Ok(earlier);
        }
        self.has_peers(&spec)?;
        self.make_room(&spec.project, incoming.least)?;
        self.has_room(spec.project.as_str(), incoming.least)?;
        let mut attempt = match self.begin_once(&spec, &request)? {
            Started::New(attempt) => *attempt,
            Started::Earlier(follower) => return Ok(follower),
        };
        let arrived = |id| self.arrived(id);
        let staged = (incoming.open)(attempt.stop().clone())
            .map_err(Into::into)
            .and_then(|mut source| {
                let sha256 = incoming.sha256;
                let intake = Intake {
                    total: (incoming.least > 0).then_some(incoming.least),
                    ..self.intake()
                };
                intake.receive(&mut attempt, &mut source, sha256, &arrived)
            });
        self.carry_on(spec, attempt, staged.map(Work::Unpacked))
    }

    /// Refuses to replicate to nobody.
    pub(super) fn has_peers(&self, spec: &DeploySpec) -> Result<(), Refusal> {
        let replicates = spec.plan.replication().is_some();
        if !replicates || !self.builder.peers.is_empty() {
            return Ok(());
        }
        let what = match (spec.plan, spec.plan.rollback_of()) {
            (Plan::Restart(..), _) => "restarting",
            (_, Some(_)) => "rolling back",
            (_, None) => "deploying",
        };
        let project = &spec.project;
        let why = format!("{what} {project}: this server has no peers to replicate to");
        Err(Refusal::new(Code::ReplicateFailed, why))
    }

    /// Removes the copies that are kept of a component if there is no room for a payload otherwise.
    pub(super) fn make_room(&self, project: &Project, least: u64) -> Result<(), Refusal> {
        match self.has_room(project.as_str(), least) {
            Err(_) if self.is_idle(project) => {
                self.known.store.drop_spare(project)?;
                self.known.store.drop_modules(project)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses a payload for which there is no room, by what is known of its size.
    pub(in crate::engine) fn has_room(&self, project: &str, least: u64) -> Result<(), Refusal> {
        let (free, kept) = (self.known.store.disk_free()?, self.limits.min_free_disk);
        if least <= free.saturating_sub(kept) {
            return Ok(());
        }
        let why = format!(
            "receiving the payload of {project}: it has {least} bytes or more, and of the disk {free} are free, of which \
             {kept} stay so"
        );
        Err(Refusal::new(Code::NoSpace, why))
    }

    pub(super) fn intake(&self) -> Intake<'_> {
        Intake {
            known: &self.known,
            limits: &self.limits,
            owner: self.builder.account.as_deref(),
            total: None,
        }
    }
}

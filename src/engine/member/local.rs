//! A host's own side with a real root: what is wanted is deployed as anything else is, and remembered in the root.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{after, select_biased};

use crate::api::error::{Code, Error, Refusal};
use crate::api::event::{Event, PhaseStatus, Status};
use crate::api::fleet::{Desired, FleetGeneration, HostName, HostState};
use crate::api::name::{DeploymentId, Project};
use crate::api::record::{hash_key, key_of};
use crate::api::source::Provenance;
use crate::engine::deployer::{Deployer, Incoming};
use crate::engine::holders::{PayloadFetcher, ReceivedPayload, WantedPayload};
use crate::engine::member::memory::FleetMemory;
use crate::engine::member::{FleetFailure, FleetOrder, LocalHost};
use crate::engine::spec::{DeployCaller, DeploySpec, Plan, Then};
use crate::store::journal::{Follower, Step};
use crate::system::log;
use crate::system::stop::Stop;

/// How often it is looked whether something newer is wanted while a deployment says nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether another deployment of the component has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A server's own side.
pub struct FleetLocal {
    deployer: Arc<Deployer>,
    fetcher: PayloadFetcher,
    host: HostName,
    file: PathBuf,
}

/// A payload that is here, or was fetched for this.
enum PayloadHere {
    Stored(File),
    Fetched(ReceivedPayload),
}

impl FleetLocal {
    /// The side of this deployer's root.
    pub fn new(deployer: Arc<Deployer>, fetcher: PayloadFetcher, host: HostName) -> FleetLocal {
        let file = FleetMemory::file(deployer.registry().store.root());
        FleetLocal {
            deployer,
            fetcher,
            host,
            file,
        }
    }

    /// The deployment of this host whose release is what is wanted, if it is kept: what this host has built for the fleet, or
    /// what a rollback goes back to.
    fn built(&self, project: &Project, desired: &Desired) -> Result<Option<DeploymentId>, Refusal> {
        let known = self.deployer.registry();
        let payload = key_of(&desired.sha256);
        let found: Vec<DeploymentId> = known.index.look(|all| {
            let all = all.iter().rev().filter(|(id, one)| {
                let is_meant = **id == desired.deployment_id || desired.rollback_of.is_some();
                let is_built = matches!(one.status, Status::Success | Status::Staged);
                is_meant && is_built && one.project == *project && one.payload == payload
            });
            all.map(|(_, one)| one.release_id).collect()
        });
        for id in found {
            let record = known.store.read_record(id)?;
            let is_it = record.is_some_and(|one| {
                one.payload_hash.as_deref() == Some(&desired.sha256)
                    && one.options == desired.options
            });
            if is_it && known.store.release(project, id).exists() {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn payload(
        &self,
        order: &FleetOrder,
        tell: &mut dyn FnMut(HostState),
        stop: &Stop,
    ) -> Result<PayloadHere, Refusal> {
        let desired = &order.desired;
        if let Some((file, _)) = self.deployer.payload_by_hash(&desired.sha256, &|_| true)? {
            return Ok(PayloadHere::Stored(file));
        }
        tell(HostState::Fetching);
        let wanted = WantedPayload {
            project: order.project.as_str(),
            sha256: &desired.sha256,
            size: desired.size,
        };
        let mut bad = |said: &str| log::warn(&format!("fleet: {said}"));
        let holders = &mut || (order.holders)();
        let fetched = self
            .fetcher
            .fetch(&self.deployer, &wanted, holders, stop, &mut bad)?;
        Ok(PayloadHere::Fetched(fetched))
    }

    /// Deploys once nobody else deploys the component here: the host that publishes has just built it, and its turn may come
    /// before that deployment is over.
    fn deploy_when_free(
        &self,
        order: &FleetOrder,
        tell: &mut dyn FnMut(HostState),
        stop: &Stop,
    ) -> Result<Follower, Refusal> {
        loop {
            let refusal = match self.deploy(order, tell, stop) {
                Err(refusal) if refusal.code == Code::Busy => refusal,
                result => return result,
            };
            let Some(other) = refusal.deployment_id else {
                return Err(refusal);
            };
            while self.deployer.is_running(other) {
                select_biased! {
                    recv(stop.channel()) -> _ => return Err(refusal),
                    recv(after(LOOK_AGAIN)) -> _ => {}
                }
            }
        }
    }

    fn deploy(
        &self,
        order: &FleetOrder,
        tell: &mut dyn FnMut(HostState),
        stop: &Stop,
    ) -> Result<Follower, Refusal> {
        let (project, desired) = (&order.project, &order.desired);
        let key = format!(
            "fleet {project} {} {} {}",
            desired.generation, desired.deployment_id, order.attempt
        );
        let caller = DeployCaller {
            user: desired.user.clone(),
            // After an end in the middle the same one is found again.
            key: Some(hash_key(&key)),
            connection: None,
            fleet: Some(FleetGeneration::from(desired)),
        };
        let provenance = Provenance {
            message: desired.message.clone(),
            source: desired.source.clone(),
        };
        // What this host built itself is released as its own; the others are told who did.
        let is_own = desired.origin == self.host && desired.rollback_of.is_none();
        let origin = (!is_own).then(|| desired.origin.to_string());
        if let Some(release) = self.built(project, desired)? {
            tell(HostState::Activating);
            let how = (desired.restart, origin, provenance);
            return self.deployer.activate(project, release, how, caller);
        }
        let payload = self.payload(order, tell, stop)?;
        (order.has_payload)();
        tell(HostState::Building);
        let spec = DeploySpec {
            project: project.clone(),
            plan: Plan::Build(Then::Activate),
            package: None,
            restart: desired.restart,
            options: desired.options.clone(),
            origin,
            provenance,
            caller,
            fleet: None,
        };
        let incoming = Incoming {
            open: Box::new(move |_| match payload {
                PayloadHere::Stored(file) => Ok(Box::new(file)),
                PayloadHere::Fetched(fetched) => Ok(Box::new(FetchedReader(fetched))),
            }),
            sha256: Some(&desired.sha256),
            least: desired.size,
        };
        self.deployer.build(spec, incoming)
    }

    /// Follows a deployment to its end, and cancels it when something newer is wanted.
    fn follow(
        &self,
        mut follower: Follower,
        tell: &mut dyn FnMut(HostState),
        stop: &Stop,
    ) -> Result<(), FleetFailure> {
        let (mut id, mut is_cancelled) = (None, false);
        let mut last = None;
        loop {
            if let (Some(id), true, false) = (id, stop.stopped(), is_cancelled) {
                is_cancelled = true;
                // What is past `activate` goes to its end.
                let _ = self.deployer.cancel(id);
            }
            match follower.next(LOOK_EVERY).map_err(Refusal::from)? {
                Step::Upload(_) | Step::Idle => {}
                Step::End => break,
                Step::Entry(entry) => match entry.meaning() {
                    Event::Deployment(opening) => id = Some(opening.deployment_id),
                    Event::Phase(one)
                        if one.phase == "activate" && one.status == PhaseStatus::Start =>
                    {
                        tell(HostState::Activating);
                    }
                    end @ (Event::Done(_) | Event::Error(_)) => last = Some(end),
                    _ => {}
                },
            }
        }
        let Some(Event::Error(failure)) = last else {
            return Ok(());
        };
        let store = &self.deployer.registry().store;
        let summary = id.map(|id| store.read_summary(id));
        let rolled_back =
            matches!(summary, Some(Ok(Some(one))) if one.status == Status::RolledBack);
        Err(FleetFailure {
            refusal_code: failure.code,
            message: failure.message,
            phase: failure.phase,
            rolled_back,
        })
    }
}

/// The file of a payload, which goes when it has been read.
struct FetchedReader(ReceivedPayload);

impl std::io::Read for FetchedReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.file.read(buffer)
    }
}

impl LocalHost for FleetLocal {
    fn load(&self) -> Result<FleetMemory, Error> {
        FleetMemory::load(&self.file)
    }

    fn save(&self, memory: &FleetMemory) -> Result<(), Error> {
        memory.save(&self.file)
    }

    fn live(&self, project: &Project) -> Option<DeploymentId> {
        self.deployer.registry().store.live(project)
    }

    fn has_payload(&self, sha256: &str) -> bool {
        let found = self.deployer.payload_by_hash(sha256, &|_| true);
        found.is_ok_and(|found| found.is_some())
    }

    fn make(
        &self,
        order: &FleetOrder,
        tell: &mut dyn FnMut(HostState),
        stop: &Stop,
    ) -> Result<(), FleetFailure> {
        let project = &order.project;
        if order.desired.drop {
            return match self.deployer.drop_component(project, false) {
                Err(refusal) if refusal.code != Code::NotFound => Err(refusal.into()),
                _ => Ok(()),
            };
        }
        if order.is_here {
            return Ok(());
        }
        let follower = self.deploy_when_free(order, tell, stop)?;
        self.follow(follower, tell, stop)
    }
}

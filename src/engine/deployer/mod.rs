//! The deployments that run: one a component, so many at once, each on its own thread.
//!
//! A component is busy from [`Deployer::begin`] until the deployment's terminal event is in its journal and its record; both
//! ends are the life of an [`Attempt`]. Past `extract`, a deployment that builds holds one of the `--max-deploys` places or
//! waits for one in phase `queue`.
//!
//! | file | what for |
//! | --- | --- |
//! | `running` | what runs, and what is busy with it |
//! | `ending` | stopping deployments, one or all |
//! | `joining` | a request that comes twice |

mod ending;
mod joining;
mod running;

use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select_biased};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::event::{Opening, Phase};
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{Options, Restart};
use crate::engine::attempt::{Attempt, Facts, Registry};
use crate::engine::deployer::ending::stopped_as;
pub use crate::engine::deployer::joining::Started;
use crate::engine::deployer::running::{
    Busy, DeploymentsState, RunningDeployment, RunningDeployments,
};
pub use crate::engine::deployer::running::{CutUpload, Hold};
use crate::engine::peers::Peer;
use crate::engine::retain::{RetentionLimits, retain};
use crate::engine::stages::{Builder, Then, Work};
use crate::store::journal::Follower;
use crate::system::host;
use crate::system::log;
use crate::system::stop::{self, SharedStopper};
use crate::system::threads;
use crate::system::time::now_ms;

/// The stack of a thread that deploys. Nothing there recurses deeply but the removal of a tree, of at most 64 levels.
const STACK_BYTES: usize = 512 << 10;

/// All running deployments, and the way to start one.
pub struct Deployer {
    known: Registry,
    running: Arc<RunningDeployments>,
    places: (Sender<()>, Receiver<()>),
    builder: Builder,
    keep: RetentionLimits,
    node: String,
}

/// One of the `--max-deploys` places; dropping it gives it back.
struct DeployPermit(Sender<()>);

impl Drop for DeployPermit {
    fn drop(&mut self) {
        // The channel has room for every place there is.
        let _ = self.0.try_send(());
    }
}

/// What a deployment is to be.
#[derive(Debug, Clone)]
pub struct DeploySpec {
    /// The component.
    pub project: Project,
    /// An existing release that becomes live; none to build one.
    pub release: Option<DeploymentId>,
    /// Whether an existing release is built again from its payload.
    pub rebuilds: bool,
    /// What becomes of the release; a restart alone has none.
    pub then: Option<Then>,
    /// The deployment that it undoes.
    pub rollback_of: Option<DeploymentId>,
    /// How it is built.
    pub options: Options,
    /// Whether its processes are restarted.
    pub restart: Restart,
    /// The name of the token that asks.
    pub user: Option<String>,
    /// The SHA-256 of the idempotency key, in hex.
    pub key: Option<String>,
    /// The number of the connection that uploads.
    pub connection: Option<u64>,
}

impl DeploySpec {
    /// A release that is built from a payload and becomes live, and nothing else.
    pub fn live(project: Project, user: Option<String>) -> DeploySpec {
        DeploySpec {
            project,
            release: None,
            rebuilds: false,
            then: Some(Then::Activate),
            rollback_of: None,
            options: Options::default(),
            restart: Restart::No,
            user,
            key: None,
            connection: None,
        }
    }

    fn phases(&self) -> Vec<Phase> {
        let mut phases = Vec::new();
        if self.release.is_none() || self.rebuilds {
            phases.extend([Phase::Extract, Phase::Install, Phase::Load]);
        }
        if let Some(Then::Replicate { .. }) = self.then {
            phases.push(Phase::Replicate);
        }
        if let Some(Then::Activate | Then::Replicate { .. }) = self.then {
            phases.push(Phase::Activate);
        }
        if self.restart != Restart::No {
            phases.push(Phase::Restart);
        }
        phases
    }
}

impl Deployer {
    /// Deployments of the components in the builder's root, `places` of them at once past `extract`.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn new(
        places: usize,
        builder: Builder,
        keep: RetentionLimits,
        known: Registry,
    ) -> Result<Deployer, Error> {
        // As many tokens as places: taking one is the right to go on.
        let channel = bounded(places);
        for _ in 0..places {
            channel
                .0
                .send(())
                .doing(|| "making the places of --max-deploys".into())?;
        }
        let newest = known.store.deployments()?.last().copied();
        let running = RunningDeployments {
            state: Mutex::new(DeploymentsState {
                newest,
                ..DeploymentsState::default()
            }),
            ..RunningDeployments::default()
        };
        let node = host::name();
        Ok(Deployer {
            known,
            running: Arc::new(running),
            places: channel,
            builder,
            keep,
            node,
        })
    }

    /// Whether there are any peers.
    pub fn has_peers(&self) -> bool {
        !self.builder.peers.is_empty()
    }

    /// A peer, by its name here.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        let mut peers = self.builder.peers.iter();
        peers.find(|peer| peer.name() == name)
    }

    /// How to end an upload that nobody waits for any more.
    pub fn cut_by(&self, cut: CutUpload) {
        // There is one gate.
        let _ = self.running.cut.set(cut);
    }

    /// Keeps a component from being deployed.
    ///
    /// # Errors
    /// `busy` with the id of the running deployment, or `stopping`.
    pub fn hold(&self, project: &Project) -> Result<Hold, Refusal> {
        let busy = Busy {
            deployment: None,
            release: None,
            key: None,
        };
        running::claim(&self.running, &mut self.running.lock(), project, busy)
    }

    /// Begins a deployment: from here on it has an id and a journal, and its component is busy.
    ///
    /// # Errors
    /// `busy` with the id of the running one, `stopping`, or the disk's refusal.
    pub fn begin(&self, spec: DeploySpec) -> Result<Attempt, Refusal> {
        let claimed = self.claim(&mut self.running.lock(), &spec)?;
        self.open(spec, claimed)
    }

    /// Makes a component busy with a deployment that is to be, and gives that its id.
    fn claim(
        &self,
        state: &mut DeploymentsState,
        spec: &DeploySpec,
    ) -> Result<(DeploymentId, Hold), Refusal> {
        let mut random = [0; 10];
        getrandom::fill(&mut random).doing(|| "making an id".into())?;
        let id = DeploymentId::after(state.newest, now_ms(), random);
        let busy = Busy {
            deployment: Some(id),
            release: spec.release,
            key: spec.key.clone(),
        };
        let hold = running::claim(&self.running, state, &spec.project, busy)?;
        state.newest = Some(id);
        Ok((id, hold))
    }

    fn open(&self, spec: DeploySpec, (id, hold): (DeploymentId, Hold)) -> Result<Attempt, Refusal> {
        let (stopper, stop) = stop::pair()?;
        let stopper = SharedStopper::new(stopper);
        let opening = Opening {
            deployment_id: id,
            phases: spec.phases(),
            previous: self.known.store.live(&spec.project),
            at: now_ms(),
            release_id: spec.release.unwrap_or(id),
            rollback_of: spec.rollback_of,
            origin_node: self.node.clone(),
            restart_mode: spec.restart.mode().map(str::to_owned),
            user: spec.user,
            options: spec.options,
            idempotency_key: spec.key,
            project: spec.project,
        };
        let stops = (stopper.clone(), stop);
        let attempt = Attempt::open(self.known.clone(), opening, stops, Box::new(hold))?;
        let one = RunningDeployment {
            live: Arc::downgrade(attempt.live()),
            stopper,
            why: Arc::default(),
            connection: spec.connection,
            uploads: spec.release.is_none(),
        };
        let mut state = self.running.lock();
        if state.stopping {
            one.stop(Code::Interrupted);
        }
        state.running.insert(id, one);
        drop(state);
        self.running.changed.notify_all();
        Ok(attempt)
    }

    /// Carries a deployment on to its work, or ends it with why there is none; whoever asked follows it from its beginning.
    ///
    /// # Errors
    /// When its events cannot be followed.
    pub fn carry_on(
        self: &Arc<Self>,
        attempt: Attempt,
        work: Result<Work, Refusal>,
    ) -> Result<Follower, Refusal> {
        let follower = self.follow(attempt.record().deployment_id, 0)?;
        match work {
            Ok(work) => self.submit(work, attempt),
            Err(refusal) => self.end(attempt, Err(refusal)),
        }
        Ok(follower)
    }

    /// Does the work of a deployment, on a thread of its own. If there is no thread, the deployment ends.
    fn submit(self: &Arc<Self>, work: Work, attempt: Attempt) {
        let workers = Arc::clone(self);
        let id = attempt.record().deployment_id;
        let run = move |(work, attempt)| workers.run(work, attempt);
        let input = (work, attempt);
        let spawned = threads::hand_over(format!("deploy-{id}"), STACK_BYTES, input, run);
        if let Err((error, (work, attempt))) = spawned {
            drop(work);
            let why = format!("deploying: no thread could be made for it: {error}");
            self.end(attempt, Err(Refusal::new(Code::Internal, why)));
        }
    }

    fn run(&self, work: Work, mut attempt: Attempt) {
        let outcome = self.deploy(work, &mut attempt);
        self.end(attempt, outcome);
    }

    /// Ends a deployment, and then removes what is too much of the past. Nobody waits for that: the end is told by then.
    fn end(&self, attempt: Attempt, outcome: Result<(), Refusal>) {
        let (project, id) = (
            attempt.record().project.clone(),
            attempt.record().deployment_id,
        );
        let why = self.why_stopped(id);
        attempt.end(outcome.map_err(|refusal| stopped_as(refusal, why)));
        let set_aside = |release| {
            // Under the lock, so that nobody begins to need it in between.
            let state = self.running.lock();
            let mut busy = state.busy.values();
            let runs = self.builder.processes.use_release(&project, release);
            if runs || busy.any(|busy| busy.release == Some(release)) {
                return Ok(None);
            }
            let store = &self.known.store;
            store.set_release_aside(&project, release).map(Some)
        };
        if let Err(error) = retain(&self.known, &project, self.keep, &set_aside) {
            log::warn(&format!("tidying up after deployment {id}: {error}"));
        }
    }

    fn deploy(&self, work: Work, attempt: &mut Attempt) -> Result<(), Refusal> {
        let place = match work {
            Work::Build(..) => Some(self.place(attempt)?),
            // What only switches holds nobody up.
            Work::Activate(_) | Work::Restart => None,
        };
        self.builder.run(work, attempt, place)
    }

    /// Takes a place, at once or after phase `queue`.
    fn place(&self, attempt: &mut Attempt) -> Result<DeployPermit, Refusal> {
        let (give, take) = &self.places;
        match take.try_recv() {
            Ok(()) => return Ok(DeployPermit(give.clone())),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        attempt.phase(Phase::Queue, |attempt| {
            select_biased! {
                recv(attempt.stop().channel()) -> _ => {
                    Err(Refusal::new(Code::Cancelled, "waiting for a place: stopped"))
                }
                recv(take) -> _ => Ok((DeployPermit(give.clone()), Facts::new())),
            }
        })
    }

    /// Whether a deployment is running.
    pub fn is_running(&self, id: DeploymentId) -> bool {
        let state = self.running.lock();
        state.busy.values().any(|busy| busy.deployment == Some(id))
    }

    /// Follows a deployment's events after entry `after`.
    ///
    /// # Errors
    /// `not_found`.
    pub fn follow(&self, id: DeploymentId, after: u64) -> Result<Follower, Refusal> {
        let dir = self.known.store.deployment(id);
        // Looking before the files: a deployment that ends in between has its end in the files.
        let live = {
            let state = self.running.lock();
            let one = state.running.get(&id);
            one.and_then(|one| one.live.upgrade())
        };
        if live.is_none() && !dir.exists() {
            return Err(not_found(id));
        }
        Ok(Follower::new(&dir, after, live.as_ref()))
    }

    /// Whether the server is ending.
    pub fn is_stopping(&self) -> bool {
        self.running.lock().stopping
    }

    /// How many deployments run.
    pub fn running(&self) -> usize {
        self.running.lock().busy.len()
    }
}

/// The refusal of a server that is ending.
pub fn stopping() -> Refusal {
    Refusal::new(
        Code::Stopping,
        "the server is stopping; try again once it is back",
    )
}

/// The refusal of an id that nobody knows.
pub fn not_found(id: DeploymentId) -> Refusal {
    Refusal::new(
        Code::NotFound,
        format!("No deployment found with id '{id}'"),
    )
}

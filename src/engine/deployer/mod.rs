//! Deploying, for whoever asks: the router, a host that catches up, and later a fleet call the same [`Deployer`].
//!
//! One deployment a component, several at once, each on its own thread. A component is busy from the beginning of a
//! deployment until its terminal event is in its journal and its record; both ends are the life of an [`Attempt`]. Past
//! `extract`, a deployment that builds holds one of the `--max-deploys` permits or waits for one in phase `queue`.
//!
//! | file | what for |
//! | --- | --- |
//! | `archive` | the archive of a payload that came as a delta |
//! | `build` | a payload that arrives is built |
//! | `package` | a package is fetched and built |
//! | `earlier` | a release of an earlier deployment becomes live again |
//! | `prepare` | what of a tree is missing |
//! | `restart`, `start`, `drop`, `run` | the operations of those names, and `stop` |
//! | `resume` | what the end of an earlier server cut off |
//! | `retaining` | what is too much of the past |
//! | `told` | what is left to be written of an end that was told |
//! | `stopping` | stopping deployments, one or all |
//! | `keep` | a payload that comes before the name of its component |
//! | `next` | waiting for the next one of a component |
//! | `joining` | a request that comes twice |
//! | `spare`, `modules` | what nobody waits for: copies of the newest tree and of what was installed |
//! | `tree` | which tree a payload holds |
//! | `running` | what runs, and what is busy with it |

mod archive;
mod build;
mod drop;
mod earlier;
mod joining;
mod keep;
mod keyed;
mod modules;
mod next;
mod package;
mod prepare;
mod restart;
mod resume;
mod retaining;
mod run;
mod running;
mod spare;
mod start;
mod stopping;
mod told;
mod tree;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select_biased};

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::event::{Event, Opening, Phase};
use crate::api::name::{DeploymentId, Project};
use crate::engine::attempt::{Attempt, Facts};
pub use crate::engine::deployer::archive::PayloadKeeper;
pub use crate::engine::deployer::build::Incoming;
pub use crate::engine::deployer::resume::TakenOver;
pub use crate::engine::deployer::running::CutUpload;
use crate::engine::deployer::running::{
    Busy, DeploymentsState, Hold, RunningDeployment, RunningDeployments,
};
use crate::engine::deployer::stopping::stopped_as;
use crate::engine::outcome::{Failed, Outcome};
use crate::engine::peers::Peer;
use crate::engine::registry::Registry;
use crate::engine::retain::RetentionLimits;
use crate::engine::spec::DeploySpec;
use crate::engine::stages::{Builder, Work};
use crate::formats::archive::Limits;
use crate::store::journal::{Follower, Step};
use crate::system::host;
use crate::system::log;
use crate::system::stop::{self, SharedStopper, Stop};
use crate::system::threads;
use crate::system::time::now_ms;

/// The stack of a thread that deploys. Nothing there recurses deeply but the removal of a tree, of at most 64 levels. It is as
/// large as that of a request, so that one can have the other's.
const STACK_BYTES: usize = 1 << 20;
/// The longest single wait for the next event of a deployment whose end is waited for.
const WAIT_STEP: Duration = Duration::from_secs(15);

/// All running deployments, and the way to start one.
pub struct Deployer {
    known: Registry,
    running: Arc<RunningDeployments>,
    permits: (Sender<()>, Receiver<()>),
    builder: Builder,
    limits: Limits,
    keep: RetentionLimits,
    /// How many deployments are being prepared.
    preparing: AtomicU64,
    /// One removes what is too much of the past at a time: what stays counts on what another one might remove. The other
    /// locks may be taken under it.
    retaining: Mutex<()>,
    /// Hears of payloads before they are removed, if somebody wants to.
    payload_keeper: OnceLock<Box<dyn PayloadKeeper>>,
    /// One archive of a delta is made at a time.
    packing: Mutex<()>,
    /// One spare is made at a time.
    sparing: Mutex<()>,
    node: String,
    stopper: SharedStopper,
    stop: Stop,
}

/// One of the `--max-deploys` permits; dropping it gives it back.
struct DeployPermit(Sender<()>);

impl Drop for DeployPermit {
    fn drop(&mut self) {
        // The channel has room for every permit there is.
        let _ = self.0.try_send(());
    }
}

impl Deployer {
    /// Deployments of the components in the builder's root, `permits` of them at once past `extract`.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn new(
        permits: usize,
        builder: Builder,
        (limits, keep): (Limits, RetentionLimits),
        known: Registry,
    ) -> Result<Deployer, Error> {
        // As many tokens as permits: taking one is the right to go on.
        let channel = bounded(permits);
        for _ in 0..permits {
            let sent = channel.0.send(());
            sent.doing(|| "making the permits of --max-deploys".into())?;
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
        let (stopper, stop) = stop::pair()?;
        Ok(Deployer {
            stopper: SharedStopper::new(stopper),
            stop,
            known,
            running: Arc::new(running),
            permits: channel,
            builder,
            limits,
            keep,
            preparing: AtomicU64::new(0),
            retaining: Mutex::new(()),
            payload_keeper: OnceLock::new(),
            packing: Mutex::new(()),
            sparing: Mutex::new(()),
            node,
        })
    }

    /// The servers that it deploys to.
    pub fn peers(&self) -> &[Peer] {
        &self.builder.peers
    }

    /// What this host is called in its records.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// A peer, by its name here.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        let mut peers = self.builder.peers.iter();
        peers.find(|peer| peer.name() == name)
    }

    /// Where deployments are kept and known.
    pub(super) fn registry(&self) -> &Registry {
        &self.known
    }

    /// Ready when the server is to end.
    pub fn stop_signal(&self) -> &Stop {
        &self.stop
    }

    /// How to end an upload that nobody waits for any longer.
    pub fn cut_by(&self, cut: CutUpload) {
        // There is one gate.
        let _ = self.running.cut.set(cut);
    }

    /// Begins a deployment: from here on it has an id and a journal, and its component is busy.
    ///
    /// # Errors
    /// `busy` with the id of the running one, `stopping`, or the disk's refusal.
    fn begin(&self, spec: &DeploySpec) -> Result<Attempt, Refusal> {
        let claimed = self.claim(&mut self.running.lock_settled(&spec.project), spec)?;
        self.open_claimed(spec, claimed)
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
            release: spec.plan.release(),
            key: spec.caller.key.clone(),
            drops: false,
            ending: false,
        };
        let hold = running::claim(&self.running, state, &spec.project, busy)?;
        state.newest = Some(id);
        Ok((id, hold))
    }

    /// Opens a deployment; one that is for the fleet claims its component there before.
    fn open_claimed(
        &self,
        spec: &DeploySpec,
        claimed: (DeploymentId, Hold),
    ) -> Result<Attempt, Refusal> {
        if let Some(ticket) = &spec.fleet {
            ticket.claim(&spec.project, claimed.0, spec.caller.user.clone())?;
        }
        self.open(spec, claimed)
    }

    fn open(
        &self,
        spec: &DeploySpec,
        (id, hold): (DeploymentId, Hold),
    ) -> Result<Attempt, Refusal> {
        self.known.store.check_component(&spec.project)?;
        let (stopper, stop) = stop::pair()?;
        let stopper = SharedStopper::new(stopper);
        let opening = Opening {
            deployment_id: id,
            phases: spec.phases(),
            previous: self.known.store.read_live(&spec.project)?,
            at: now_ms(),
            release_id: spec.plan.release().unwrap_or(id),
            rollback_of: spec.plan.rollback_of(),
            origin_node: self.node.clone(),
            restart_mode: spec.restart.mode().map(str::to_owned),
            user: spec.caller.user.clone(),
            options: spec.options.clone(),
            package_identifier: spec
                .package
                .as_ref()
                .map(|package| package.identifier().to_owned()),
            idempotency_key: spec.caller.key.clone(),
            message: spec.provenance.message.clone(),
            source: spec.provenance.source.clone(),
            fleet: spec.caller.fleet,
            project: spec.project.clone(),
        };
        let stops = (stopper.clone(), stop);
        let attempt = Attempt::open(self.known.clone(), opening, stops, Box::new(hold))?;
        let one = RunningDeployment {
            live: Arc::downgrade(attempt.live()),
            stopper,
            why: Arc::default(),
            connection: spec.caller.connection,
            uploads: spec.plan.release().is_none() && spec.package.is_none(),
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

    /// Runs a deployment on a thread of its own, or ends it with why there is no work; whoever asked follows it from its
    /// beginning.
    fn carry_on(
        self: &Arc<Self>,
        spec: DeploySpec,
        attempt: Attempt,
        work: Result<Work, Box<Failed>>,
    ) -> Result<Follower, Refusal> {
        let follower = self.follow(attempt.record().deployment_id, 0)?;
        let work = match work {
            Ok(work) => work,
            Err(failed) => {
                self.end(attempt, Err(failed));
                return Ok(follower);
            }
        };
        self.start(spec, work, attempt);
        Ok(follower)
    }

    /// Runs a deployment on a thread of its own. False if no thread could be made: the deployment has ended then.
    fn start(self: &Arc<Self>, spec: DeploySpec, work: Work, attempt: Attempt) -> bool {
        self.hand_over((spec, work, attempt), |deployer, spec, work, attempt| {
            deployer.run(&spec, work, attempt);
        })
    }

    /// Hands a deployment and what is to be done to a thread of its own, as [`Deployer::start`].
    fn hand_over<W: Send + 'static>(
        self: &Arc<Self>,
        input: (DeploySpec, W, Attempt),
        go_on: fn(&Arc<Deployer>, DeploySpec, W, Attempt),
    ) -> bool {
        let deployer = Arc::clone(self);
        let name = format!("deploy-{}", input.2.record().deployment_id);
        let spawned = threads::hand_over(name, STACK_BYTES, input, move |(spec, work, attempt)| {
            go_on(&deployer, spec, work, attempt);
        });
        let Err((error, (_, work, attempt))) = spawned else {
            return true;
        };
        drop(work);
        let why = format!("deploying: no thread could be made for it: {error}");
        self.end(attempt, Err(Refusal::new(Code::Internal, why).into()));
        false
    }

    fn run(self: &Arc<Self>, spec: &DeploySpec, work: Work, mut attempt: Attempt) {
        let permit = match work {
            Work::Unpacked(_) => self.permit(&mut attempt).map(Some),
            // What only switches holds nobody up.
            Work::Built(_) | Work::Live | Work::CutOff(_) => Ok(None),
        };
        let whole = |project: &Project, id| self.whole(project, id);
        let outcome =
            permit.and_then(|permit| self.builder.run(spec, work, &mut attempt, (permit, &whole)));
        self.end(attempt, outcome);
    }

    /// Ends a deployment, and then removes what is too much of the past. Nobody waits for that: the end is told by then.
    fn end(self: &Arc<Self>, attempt: Attempt, outcome: Outcome<'_>) {
        let record = attempt.record();
        let (project, id) = (record.project.clone(), record.deployment_id);
        let why = self.why_stopped(id);
        let outcome = outcome.map_err(|mut failed| {
            failed.refusal = stopped_as(failed.refusal, why);
            failed
        });
        if let Some(ending) = attempt.end(outcome) {
            self.write_rest(id, ending);
        }
        let retaining = self.retaining.lock();
        if let Err(error) = self.retain(&project) {
            log::warn(&format!("tidying up after deployment {id}: {error}"));
        }
        self.limit_chain(&project, id);
        drop(retaining);
        self.prepare_next(id);
    }

    /// Takes a permit, at once or after phase `queue`.
    fn permit(&self, attempt: &mut Attempt) -> Result<DeployPermit, Box<Failed>> {
        let (give, take) = &self.permits;
        match take.try_recv() {
            Ok(()) => return Ok(DeployPermit(give.clone())),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        let _queued = self.known.metrics.wait();
        attempt.phase(Phase::Queue, |attempt| {
            select_biased! {
                recv(attempt.stop().channel()) -> _ => {
                    Err(Refusal::new(Code::Cancelled, "waiting for a place: stopped").into())
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

    /// Waits until a deployment has its journal, if it is just beginning.
    ///
    /// # Errors
    /// When the disk takes too long for that.
    pub fn await_opening(&self, id: DeploymentId) -> Result<(), Refusal> {
        self.running.await_opening(id)
    }

    /// Follows a deployment's events after entry `after`.
    ///
    /// # Errors
    /// `not_found`.
    pub fn follow(&self, id: DeploymentId, after: u64) -> Result<Follower, Refusal> {
        // Without its feed, what is in the files would count as all of it.
        self.await_opening(id)?;
        let dir = self.known.store.deployment(id);
        // Looking before the files: a deployment that ends in between has its end in the files.
        let live = {
            let state = self.running.lock();
            let one = state.running.get(&id);
            one.and_then(|one| one.live.upgrade())
        };
        let live = live.or_else(|| self.known.unwritten_end(id));
        if live.is_none() && !dir.exists() {
            return Err(not_found(id));
        }
        Ok(Follower::new(&dir, after, live.as_ref()))
    }

    /// The terminal event of a deployment, once it has ended.
    ///
    /// # Errors
    /// When its journal cannot be read, or has no end.
    pub fn wait(&self, mut follower: Follower) -> Result<Event, Refusal> {
        let mut last = None;
        loop {
            match follower.next(WAIT_STEP)? {
                Step::Entry(entry) => last = Some(entry),
                Step::Upload(_) | Step::Idle => {}
                Step::End => break,
            }
        }
        match last.map(|entry| entry.meaning()) {
            Some(event @ (Event::Done(_) | Event::Error(_))) => Ok(event),
            _ => {
                let why = "reading the end of a deployment: its journal has none";
                Err(Refusal::new(Code::Internal, why))
            }
        }
    }

    /// Whether the server is ending.
    pub fn is_stopping(&self) -> bool {
        self.running.lock().stopping
    }

    /// How many deployments run.
    pub fn running(&self) -> usize {
        let state = self.running.lock();
        let busy = state.busy.values();
        busy.filter(|busy| busy.deployment.is_some()).count()
    }
}

/// The refusal of a server that is ending.
pub fn stopping_refusal() -> Refusal {
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

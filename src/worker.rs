//! The deployments that run: one a component, so many at once, each on its own thread.
//!
//! A component is busy from [`Workers::begin`] until the deployment's terminal event is in its journal and its record; both
//! ends are the life of an [`Attempt`]. Past `extract`, a deployment holds one of the `--max-deploys` places or waits for one
//! in phase `queue`.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select_biased};

use crate::attempt::{Attempt, Facts};
use crate::deploy::{Builder, Staged};
use crate::error::{Code, Doing, Error, Refusal};
use crate::event::{Opening, Phase, now_ms};
use crate::journal::{Follower, Live};
use crate::log;
use crate::name::{DeploymentId, Project};
use crate::operation::Deploy;
use crate::recover::History;
use crate::retain::{Keep, retain};
use crate::stop::{self, SharedStopper};
use crate::store::Store;

/// The stack of a thread that deploys. Nothing there recurses deeply but the removal of a tree, of at most 64 levels.
const STACK_BYTES: usize = 512 << 10;

/// All running deployments, and the way to start one.
pub struct Workers {
    store: Arc<Store>,
    registry: Arc<Registry>,
    places: (Sender<()>, Receiver<()>),
    builder: Builder,
    keep: Keep,
    node: String,
}

#[derive(Default)]
struct Registry {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    busy: HashMap<Project, DeploymentId>,
    running: HashMap<DeploymentId, Running>,
    newest: Option<DeploymentId>,
    /// The ended deployments of each component, in ascending order.
    history: History,
    stopping: bool,
}

struct Running {
    live: Weak<Live>,
    stopper: SharedStopper,
    why: Arc<OnceLock<Code>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single insertion or removal, so it is whole even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a component busy; dropping it frees the component.
struct Hold {
    registry: Arc<Registry>,
    project: Project,
    id: DeploymentId,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.busy.remove(&self.project);
        state.running.remove(&self.id);
        self.registry.idle.notify_all();
    }
}

/// One of the `--max-deploys` places; dropping it gives it back.
struct Place(Sender<()>);

impl Drop for Place {
    fn drop(&mut self) {
        // The channel has room for every place there is.
        let _ = self.0.try_send(());
    }
}

impl Workers {
    /// Deployments of the components in the builder's root, `places` of them at once past `extract`.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn new(
        places: usize,
        builder: Builder,
        keep: Keep,
        history: History,
    ) -> Result<Workers, Error> {
        let store = Arc::clone(&builder.store);
        // As many tokens as places: taking one is the right to go on.
        let channel = bounded(places);
        for _ in 0..places {
            channel
                .0
                .send(())
                .doing(|| "making the places of --max-deploys".into())?;
        }
        let newest = store.deployments()?.last().copied();
        let registry = Registry {
            state: Mutex::new(State {
                newest,
                history,
                ..State::default()
            }),
            idle: Condvar::new(),
        };
        let node = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Ok(Workers {
            store,
            registry: Arc::new(registry),
            places: channel,
            builder,
            keep,
            node,
        })
    }

    /// Begins a deployment: from here on it has an id and a journal, and its component is busy.
    ///
    /// # Errors
    /// `busy` with the id of the running one, `stopping`, or the disk's refusal.
    pub fn begin(&self, deploy: &Deploy, user: Option<String>) -> Result<Attempt, Refusal> {
        let project = &deploy.project;
        let (stopper, stop) = stop::pair()?;
        let stopper = SharedStopper::new(stopper);
        let mut random = [0; 10];
        getrandom::fill(&mut random).doing(|| "making an id".into())?;

        let mut state = self.registry.lock();
        if state.stopping {
            return Err(stopping());
        }
        if let Some(id) = state.busy.get(project) {
            let why = format!("deploying {project}: deployment {id} of it is running");
            return Err(Refusal::new(Code::Busy, why).about(*id));
        }
        let id = DeploymentId::after(state.newest, now_ms(), random);
        state.newest = Some(id);
        state.busy.insert(project.clone(), id);
        drop(state);
        let hold = Hold {
            registry: Arc::clone(&self.registry),
            project: project.clone(),
            id,
        };

        let opening = Opening {
            deployment_id: id,
            project: project.clone(),
            phases: vec![Phase::Extract, Phase::Install, Phase::Load, Phase::Activate],
            previous: self.store.live(project),
            at: now_ms(),
            release_id: id,
            rollback_of: None,
            origin_node: self.node.clone(),
            restart_mode: deploy.restart.mode().map(str::to_owned),
            user,
            options: deploy.options.clone(),
        };
        let attempt = Attempt::open(Arc::clone(&self.store), opening, stop, Box::new(hold))?;
        let why = Arc::default();
        let running = Running {
            live: Arc::downgrade(attempt.live()),
            stopper,
            why,
        };
        let mut state = self.registry.lock();
        if state.stopping {
            running.stop(Code::Interrupted);
        }
        state.running.insert(id, running);
        drop(state);
        Ok(attempt)
    }

    /// Deploys what was unpacked, on a thread of its own. If there is no thread, the deployment ends.
    pub fn submit(self: &Arc<Self>, staged: Staged, attempt: Attempt) {
        let workers = Arc::clone(self);
        let id = attempt.record().deployment_id;
        // Handed over by a channel, so that a thread that cannot be made leaves us the deployment to end.
        let (sender, receiver) = bounded(1);
        let spawned = thread::Builder::new()
            .name(format!("deploy-{id}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                if let Ok((staged, attempt)) = receiver.recv() {
                    workers.run(staged, attempt);
                }
            });
        match spawned {
            Ok(_detached) => {
                // The thread waits for exactly this; the capacity is one, so this never blocks.
                let _ = sender.send((staged, attempt));
            }
            Err(error) => {
                drop(staged);
                let why = format!("deploying: no thread could be made for it: {error}");
                self.end(attempt, Err(Refusal::new(Code::Internal, why)));
            }
        }
    }

    fn run(&self, staged: Staged, mut attempt: Attempt) {
        let outcome = self.deploy(staged, &mut attempt);
        let why = self.why_stopped(attempt.record().deployment_id);
        self.end(attempt, outcome.map_err(|refusal| stopped_as(refusal, why)));
    }

    /// Ends a deployment, and then removes what is too much of the past. Nobody waits for that: the end is told by then.
    pub fn end(&self, attempt: Attempt, outcome: Result<(), Refusal>) {
        let (project, id) = (
            attempt.record().project.clone(),
            attempt.record().deployment_id,
        );
        attempt.end(outcome);
        let mut state = self.registry.lock();
        let ended = state.history.entry(project.clone()).or_default();
        ended.push(id);
        let ended = ended.clone();
        drop(state);
        match retain(&self.store, &project, &ended, self.keep) {
            Ok(gone) => {
                let mut state = self.registry.lock();
                if let Some(ended) = state.history.get_mut(&project) {
                    ended.retain(|id| !gone.contains(id));
                }
            }
            Err(error) => log::warn(&format!("tidying up after deployment {id}: {error}")),
        }
    }

    fn deploy(&self, staged: Staged, attempt: &mut Attempt) -> Result<(), Refusal> {
        let _place = self.place(attempt)?;
        self.builder.run(staged, attempt)
    }

    /// Takes a place, at once or after phase `queue`.
    fn place(&self, attempt: &mut Attempt) -> Result<Place, Refusal> {
        let (give, take) = &self.places;
        match take.try_recv() {
            Ok(()) => return Ok(Place(give.clone())),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        attempt.phase(Phase::Queue, |attempt| {
            select_biased! {
                recv(attempt.stop().channel()) -> _ => {
                    Err(Refusal::new(Code::Cancelled, "waiting for a place: stopped"))
                }
                recv(take) -> _ => Ok((Place(give.clone()), Facts::new())),
            }
        })
    }

    /// Why a deployment was told to stop, if it was.
    pub fn why_stopped(&self, id: DeploymentId) -> Option<Code> {
        self.registry
            .lock()
            .running
            .get(&id)
            .and_then(|running| running.why.get().copied())
    }

    /// Follows a deployment's events after entry `after`.
    ///
    /// # Errors
    /// `not_found`.
    pub fn follow(&self, id: DeploymentId, after: u64) -> Result<Follower, Refusal> {
        let dir = self.store.deployment(id);
        // Looking before the files: a deployment that ends in between has its end in the files.
        let live = self
            .registry
            .lock()
            .running
            .get(&id)
            .and_then(|running| running.live.upgrade());
        if live.is_none() && !dir.exists() {
            return Err(not_found(id));
        }
        Ok(Follower::new(&dir, after, live.as_ref()))
    }

    /// Whether the server is ending.
    pub fn is_stopping(&self) -> bool {
        self.registry.lock().stopping
    }

    /// How many deployments run.
    pub fn running(&self) -> usize {
        self.registry.lock().busy.len()
    }

    /// Begins no further deployment and stops those that run; one that is live already goes on to its end.
    pub fn stop(&self) {
        let mut state = self.registry.lock();
        state.stopping = true;
        for running in state.running.values() {
            running.stop(Code::Interrupted);
        }
    }

    /// Waits until no deployment runs, at most until `deadline`, and says whether that is so.
    pub fn wait_idle(&self, deadline: Instant) -> bool {
        let mut state = self.registry.lock();
        while !state.busy.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .registry
                .idle
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        true
    }
}

impl Running {
    fn stop(&self, why: Code) {
        // The first reason is the one that counts.
        let _ = self.why.set(why);
        self.stopper.stop();
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

/// A deployment that was told to stop ends with the reason for that, whatever its step made of it.
pub fn stopped_as(refusal: Refusal, why: Option<Code>) -> Refusal {
    match why {
        Some(Code::Interrupted) => Refusal::new(
            Code::Interrupted,
            format!("interrupted by the end of the server ({})", refusal.message),
        ),
        Some(code) => Refusal::new(code, refusal.message),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_deployment_says_why() {
        let refusal = || Refusal::new(Code::InstallFailed, "m");
        let table = [
            (None, Code::InstallFailed),
            (Some(Code::Cancelled), Code::Cancelled),
            (Some(Code::Interrupted), Code::Interrupted),
        ];
        for (why, code) in table {
            assert_eq!(stopped_as(refusal(), why).code, code);
        }
    }
}

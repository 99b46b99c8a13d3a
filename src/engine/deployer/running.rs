//! What runs and what is busy, under one lock that is a leaf.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::api::error::{Code, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::engine::attempt::ComponentHold;
use crate::engine::deployer::stopping_refusal;
use crate::store::journal::LiveFeed;
use crate::system::stop::SharedStopper;

/// How long the end of a deployment is waited for: it is the writing of two files.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// How long the beginning of a deployment is waited for: it is the making of three files.
const OPENING_MAX: Duration = Duration::from_secs(10);

/// What runs.
#[derive(Default)]
pub(super) struct RunningDeployments {
    pub(super) state: Mutex<DeploymentsState>,
    /// Something of it has changed that somebody may wait for.
    pub(super) changed: Condvar,
    /// Ends the upload of a connection of the gate.
    pub(super) cut: OnceLock<CutUpload>,
}

/// Ends the upload of a connection, by the gate's number of it.
pub type CutUpload = Box<dyn Fn(u64) + Send + Sync>;

#[derive(Default)]
pub(super) struct DeploymentsState {
    pub(super) busy: HashMap<Project, Busy>,
    pub(super) running: HashMap<DeploymentId, RunningDeployment>,
    /// The commands that run in releases, by a number that is never given twice.
    pub(super) commands: HashMap<u64, ActiveCommand>,
    pub(super) commands_begun: u64,
    pub(super) newest: Option<DeploymentId>,
    pub(super) stopping: bool,
}

impl DeploymentsState {
    /// Whether no deployment of a component goes on, and others may begin.
    pub(super) fn is_idle(&self, project: &Project) -> bool {
        !self.stopping && !self.busy.contains_key(project)
    }
}

/// Why a component is busy.
pub(super) struct Busy {
    /// The deployment that runs; none while it is stopped, started or dropped.
    pub(super) deployment: Option<DeploymentId>,
    /// The release that is not to be removed meanwhile.
    pub(super) release: Option<DeploymentId>,
    /// The SHA-256 of its idempotency key, in hex.
    pub(super) key: Option<String>,
    /// Its releases are to go.
    pub(super) drops: bool,
    /// The end of its deployment is on its way to the disk.
    pub(super) ending: bool,
}

/// A command that runs in a release.
pub(super) struct ActiveCommand {
    pub(super) project: Project,
    pub(super) release: DeploymentId,
    pub(super) stopper: SharedStopper,
    pub(super) why: Arc<OnceLock<Code>>,
}

impl ActiveCommand {
    /// Tells it to end.
    pub(super) fn stop(&self, why: Code) {
        // The first reason is the one that counts.
        self.stopper.stop_after(|| {
            let _ = self.why.set(why);
        });
    }
}

impl DeploymentsState {
    /// Whether a command runs in a release.
    pub(super) fn runs_command(&self, project: &Project, release: DeploymentId) -> bool {
        let mut commands = self.commands.values();
        commands.any(|one| one.project == *project && one.release == release)
    }

    /// The deployment of a component that is busy with this idempotency key.
    pub(super) fn of_key(&self, project: &Project, key: &str) -> Option<DeploymentId> {
        let busy = self.busy.get(project)?;
        busy.deployment.filter(|_| busy.key.as_deref() == Some(key))
    }
}

/// One deployment that runs.
pub(super) struct RunningDeployment {
    pub(super) live: Weak<LiveFeed>,
    pub(super) stopper: SharedStopper,
    pub(super) why: Arc<OnceLock<Code>>,
    pub(super) connection: Option<u64>,
    /// Whether its payload is still arriving.
    pub(super) uploads: bool,
}

impl RunningDeployments {
    pub(super) fn lock(&self) -> MutexGuard<'_, DeploymentsState> {
        // Every change under the lock is a single insertion or removal, so it is whole even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`RunningDeployments::lock`], for whoever is about to claim a component: its deployment whose end may be seen
    /// already is waited for until the component is free.
    pub(super) fn lock_settled(&self, project: &Project) -> MutexGuard<'_, DeploymentsState> {
        let ends = |state: &mut DeploymentsState| {
            let busy = state.busy.get(project);
            busy.is_some_and(|busy| busy.ending)
        };
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), ENDING_MAX, ends);
        waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
    }

    /// Waits until a deployment has its journal and can be stopped, if it is to begin. Its id is told from the claim on, to
    /// whoever finds its component busy.
    ///
    /// # Errors
    /// When the disk takes too long for that.
    pub(super) fn await_opening(&self, id: DeploymentId) -> Result<(), Refusal> {
        let opened = |state: &DeploymentsState| {
            let mut busy = state.busy.values();
            state.running.contains_key(&id) || !busy.any(|busy| busy.deployment == Some(id))
        };
        if self.wait(Instant::now() + OPENING_MAX, opened) {
            return Ok(());
        }
        let why = format!("looking for deployment {id}: its journal is not made yet");
        Err(Refusal::new(Code::Internal, why).about(id))
    }

    /// Waits until something is so, at most until `deadline`, and says whether it is.
    pub(super) fn wait(
        &self,
        deadline: Instant,
        is_so: impl Fn(&DeploymentsState) -> bool,
    ) -> bool {
        let mut state = self.lock();
        while !is_so(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        true
    }
}

/// Keeps a component busy; dropping it frees the component.
pub(super) struct Hold {
    running: Arc<RunningDeployments>,
    project: Project,
    id: Option<DeploymentId>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.running.lock();
        state.busy.remove(&self.project);
        if let Some(id) = self.id {
            state.running.remove(&id);
        }
        self.running.changed.notify_all();
    }
}

impl ComponentHold for Hold {
    fn is_ending(&self) {
        if let Some(busy) = self.running.lock().busy.get_mut(&self.project) {
            busy.ending = true;
        }
    }
}

impl RunningDeployment {
    /// False if it is too late.
    pub(super) fn stop(&self, why: Code) -> bool {
        // The first reason is the one that counts.
        self.stopper.stop_after(|| {
            let _ = self.why.set(why);
        })
    }
}

/// Keeps a component busy for a deployment, or for its removal.
pub(super) fn claim(
    running: &Arc<RunningDeployments>,
    state: &mut DeploymentsState,
    project: &Project,
    busy: Busy,
) -> Result<Hold, Refusal> {
    if state.stopping {
        return Err(stopping_refusal());
    }
    match state
        .busy
        .get(project)
        .map(|busy| (busy.deployment, busy.drops))
    {
        Some((Some(id), _)) => {
            let why = format!("deploying {project}: deployment {id} of it is running");
            return Err(Refusal::new(Code::Busy, why).about(id));
        }
        Some((None, drops)) => {
            let what = if drops {
                "dropped"
            } else {
                "stopped or started"
            };
            let why = format!("deploying {project}: it is being {what}");
            return Err(Refusal::new(Code::Busy, why));
        }
        None => {}
    }
    let id = busy.deployment;
    state.busy.insert(project.clone(), busy);
    Ok(Hold {
        running: Arc::clone(running),
        project: project.clone(),
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_waited_for_until_it_is_open_or_gone() {
        let running = Arc::new(RunningDeployments::default());
        let id = |n| DeploymentId::after(None, n, [0; 10]);
        let claim = |name: &str, id| {
            let busy = Busy {
                deployment: Some(id),
                release: None,
                key: None,
                drops: false,
                ending: false,
            };
            let project = name.parse().unwrap();
            let mut state = running.lock_settled(&project);
            claim(&running, &mut state, &project, busy).unwrap()
        };
        // Nobody has claimed it.
        running.await_opening(id(1)).unwrap();
        let (opened, gone) = (claim("opened", id(1)), claim("gone", id(2)));
        std::thread::scope(|scope| {
            let waits = [1, 2].map(|n| {
                let waiting = scope.spawn({
                    let running = Arc::clone(&running);
                    move || running.await_opening(id(n))
                });
                assert!(!waiting.is_finished());
                waiting
            });
            let one = RunningDeployment {
                live: Weak::new(),
                stopper: SharedStopper::new(crate::system::stop::pair().unwrap().0),
                why: Arc::default(),
                connection: None,
                uploads: true,
            };
            running.lock().running.insert(id(1), one);
            running.changed.notify_all();
            drop(gone);
            for wait in waits {
                wait.join().unwrap().unwrap();
            }
        });
        // An end that may be seen is waited for by whoever claims the same component, and by nobody else.
        opened.is_ending();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| claim("opened", id(3)));
            drop(claim("another", id(4)));
            drop(opened);
            assert_eq!(next.join().unwrap().id, Some(id(3)));
        });
    }
}

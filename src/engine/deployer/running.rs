//! What runs and what is busy, under one lock that is a leaf.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use crate::api::error::{Code, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::engine::deployer::stopping_refusal;
use crate::store::journal::LiveFeed;
use crate::system::stop::SharedStopper;

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
    pub(super) newest: Option<DeploymentId>,
    pub(super) stopping: bool,
}

/// Why a component is busy.
pub(super) struct Busy {
    /// The deployment that runs; none while it is dropped.
    pub(super) deployment: Option<DeploymentId>,
    /// The release that is not to be removed meanwhile.
    pub(super) release: Option<DeploymentId>,
    /// The SHA-256 of its idempotency key, in hex.
    pub(super) key: Option<String>,
}

impl DeploymentsState {
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
    match state.busy.get(project).map(|busy| busy.deployment) {
        Some(Some(id)) => {
            let why = format!("deploying {project}: deployment {id} of it is running");
            return Err(Refusal::new(Code::Busy, why).about(id));
        }
        Some(None) => {
            let why = format!("deploying {project}: it is being dropped");
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

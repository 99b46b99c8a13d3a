//! Waiting for the next deployment of a component.

use std::time::{Duration, Instant};

use crate::api::error::Refusal;
use crate::api::name::{DeploymentId, Project};
use crate::engine::deployer::running::DeploymentsState;
use crate::engine::deployer::{Deployer, stopping_refusal};
use crate::store::journal::Follower;

impl Deployer {
    /// The newest deployment of a component.
    pub fn newest(&self, project: &Project) -> Option<DeploymentId> {
        self.known.index.look(|all| {
            let mut newest_first = all.iter().rev();
            let found = newest_first.find(|(_, one)| one.project == *project);
            found.map(|(id, _)| *id)
        })
    }

    /// The first deployment of a component after another one, if there is one or one begins within the time.
    ///
    /// # Errors
    /// `stopping`, or when its journal is not made in time.
    pub fn next(
        &self,
        project: &Project,
        after: Option<DeploymentId>,
        wait: Duration,
    ) -> Result<Option<Follower>, Refusal> {
        let is_next = |id: &DeploymentId| after.is_none_or(|after| *id > after);
        let found = || {
            self.known.index.look(|all| {
                let mut oldest_first = all.iter();
                let found = oldest_first.find(|(id, one)| is_next(id) && one.project == *project);
                found.map(|(id, _)| *id)
            })
        };
        let mut first = found();
        if first.is_none() {
            let changed = |state: &DeploymentsState| {
                let busy = state.busy.get(project).and_then(|busy| busy.deployment);
                state.stopping || busy.is_some_and(|id| is_next(&id))
            };
            self.running.wait(Instant::now() + wait, changed);
            if self.is_stopping() {
                return Err(stopping_refusal());
            }
            // One that has ended by now is no longer busy, and in the index.
            let busy = self.running.lock();
            let busy = busy.busy.get(project).and_then(|busy| busy.deployment);
            first = busy.filter(is_next);
        }
        let first = first.or_else(found);
        first.map(|id| self.follow(id, 0)).transpose()
    }
}

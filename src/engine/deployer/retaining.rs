//! Removing what is too much of a component's past.

use std::collections::BTreeSet;

use crate::api::error::Error;
use crate::api::name::{DeploymentId, Project};
use crate::engine::deployer::Deployer;
use crate::engine::deployer::running::DeploymentsState;
use crate::engine::retain::retain;

impl Deployer {
    /// Removes what is too much of a component's past.
    pub(super) fn retain(&self, project: &Project) -> Result<(), Error> {
        let store = &self.known.store;
        // It was found to be too much some time ago: a rollback may have made it live since.
        let is_needed = |state: &DeploymentsState, release| {
            let mut busy = state.busy.values();
            // What cannot be read may say that it is.
            let is_other = |live| live != Some(release);
            busy.any(|busy| busy.release == Some(release))
                || !store.read_live(project).is_ok_and(is_other)
        };
        let set_aside = |release| {
            // Under the lock, so that nobody begins to need it in between.
            let state = self.running.lock();
            let runs = self.builder.processes.use_release(project, release)
                || state.runs_command(project, release);
            if runs || is_needed(&state, release) {
                return Ok(None);
            }
            store.set_release_aside(project, release).map(Some)
        };
        let let_go = |going: &BTreeSet<DeploymentId>| {
            let kept = self.kept_for_others(going);
            let going = going.difference(&kept).copied().collect();
            let mut needed = self.let_go(project, &going);
            self.tell_going(&going.difference(&needed).copied().collect());
            needed.extend(kept);
            needed
        };
        let is_needed = |release| is_needed(&self.running.lock(), release);
        retain(
            &self.known,
            project,
            self.keep,
            (&set_aside, &let_go, &is_needed),
        )
    }
}

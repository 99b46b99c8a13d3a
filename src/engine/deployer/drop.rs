//! Removing a component.

use std::path::PathBuf;
use std::sync::PoisonError;

use crate::api::error::{Code, Doing, Error, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::engine::child_env;
use crate::engine::deployer::running::{self, Busy, Hold};
use crate::engine::deployer::{Deployer, not_found};
use crate::engine::registry::Registry;
use crate::system::{log, trees};

impl Deployer {
    /// Stops a component and removes it with its releases. What was put there for it by others than a deployment stays, and
    /// is returned; `purge` removes that, too, and all that is known of its deployments.
    ///
    /// # Errors
    /// `not_found`, `busy`, or why it is still there: what was live is live then. Or what of a purge stayed.
    pub fn drop_component(&self, project: &Project, purge: bool) -> Result<Vec<PathBuf>, Refusal> {
        let store = &self.known.store;
        let _hold = self.hold_to_drop(project)?;
        // What is made of it in the background ends first, and begins no more.
        let _turn = self.sparing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.kept(project);
        let is_there = store.read_live(project)?.is_some() || !store.releases(project)?.is_empty();
        if !is_there && (!purge || kept.is_empty()) {
            let why = format!("dropping {project}: there is no such component");
            return Err(Refusal::new(Code::NotFound, why));
        }
        self.end_commands(project);
        self.take_down(project)?;
        for release in store.releases(project)? {
            self.remove(project, release);
        }
        if let Err(error) = child_env::remove_cache(store, project) {
            log::warn(&error.to_string());
        }
        let kept_beside = store.component_store_path(project);
        // What an upload or a removal that ends just now has still put there goes with a second try.
        if let Err(error) = trees::remove(&kept_beside).or_else(|_| trees::remove(&kept_beside)) {
            log::warn(&format!("removing {}: {error}", kept_beside.display()));
        }
        log::info(&format!("{project} is dropped"));
        if !purge {
            return Ok(kept);
        }
        self.purge(project, kept)?;
        log::info(&format!("all that was kept of {project} is removed"));
        Ok(Vec::new())
    }

    /// What a component has that no deployment brought, as far as it is there.
    fn kept(&self, project: &Project) -> Vec<PathBuf> {
        let root = self.known.store.root();
        let all = ["shared", "env", "hooks"].map(|dir| root.join(dir).join(project.as_str()));
        all.into_iter().filter(|path| path.exists()).collect()
    }

    fn purge(&self, project: &Project, kept: Vec<PathBuf>) -> Result<(), Error> {
        let Registry { store, index, .. } = &self.known;
        let logs = store.root().join("logs").join(project.as_str());
        for path in kept.into_iter().chain([logs]) {
            trees::remove(&path).doing(|| format!("removing {}", path.display()))?;
        }
        for id in index.ended(project) {
            store.remove_deployment(id)?;
            index.forget(&[id]);
        }
        Ok(())
    }

    /// Makes nothing of a component live if this deployment made its own release live, and removes that release alone: how
    /// a first deployment is taken back.
    ///
    /// # Errors
    /// `not_found`, `busy`, `conflict` if something else is live, or why it still is.
    pub fn undo_first(&self, project: &Project, id: DeploymentId) -> Result<(), Refusal> {
        let store = &self.known.store;
        let _hold = self.hold_to_drop(project)?;
        let record = store.read_summary(id)?.ok_or_else(|| not_found(id))?;
        if record.project != *project {
            return Err(not_found(id));
        }
        match store.read_live(project)? {
            Some(live) if live == record.release_id => {
                self.end_commands(project);
                self.take_down(project)?;
            }
            Some(live) => {
                let why = format!("taking back {id} of {project}: release {live} is live");
                return Err(Refusal::new(Code::Conflict, why).about(live));
            }
            None => {}
        }
        self.remove(project, record.release_id);
        log::info(&format!("deployment {id} of {project} is taken back"));
        Ok(())
    }

    /// Makes nothing live, and stops what runs. If the first cannot be done, what was live is live, and runs.
    fn take_down(&self, project: &Project) -> Result<(), Error> {
        let switch = self.known.store.switch(project, None)?;
        switch.sync()?;
        // They are stopped, whatever it says. What is still written of them names a release that is not live.
        if let Err(error) = self.builder.processes.drop_component(project) {
            log::warn(&error.to_string());
        }
        switch.settle();
        Ok(())
    }

    /// Removes a release that is not live. What stays of it, retention or the next start removes.
    fn remove(&self, project: &Project, release: DeploymentId) {
        if let Err(error) = self.known.store.remove_release(project, release) {
            log::warn(&error.to_string());
        }
    }

    /// Keeps a component from being deployed.
    ///
    /// # Errors
    /// `busy` with the id of the running deployment, or `stopping`.
    pub(super) fn hold(&self, project: &Project) -> Result<Hold, Refusal> {
        self.hold_for(project, false)
    }

    /// As [`Deployer::hold`]; nothing begins to run in its releases any longer, either.
    fn hold_to_drop(&self, project: &Project) -> Result<Hold, Refusal> {
        self.hold_for(project, true)
    }

    fn hold_for(&self, project: &Project, drops: bool) -> Result<Hold, Refusal> {
        let busy = Busy {
            deployment: None,
            release: None,
            key: None,
            drops,
            ending: false,
        };
        let mut state = self.running.lock_settled(project);
        running::claim(&self.running, &mut state, project, busy)
    }
}

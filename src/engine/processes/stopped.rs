//! Components that somebody has stopped: they stay so, across restarts of the server, until they are started, or deployed or
//! restarted.

use std::sync::Arc;
use std::time::Instant;

use crate::api::error::{Code, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::engine::processes::process::{Process, stop_all};
use crate::engine::processes::state::Types;
use crate::engine::processes::status::{ProcessStatus, START_MAX};
use crate::engine::processes::{ComponentProcesses, Processes, state};
use crate::system::log;

impl Processes {
    /// Whether somebody has stopped a component.
    pub fn is_stopped(&self, project: &Project) -> bool {
        state::is_stopped(self.setting.store.root(), project)
    }

    /// Stops what runs of a component, and says what that was. `live` is the release that is live.
    ///
    /// # Errors
    /// `conflict` if there is nothing that could be stopped, or why it cannot be written down: then all runs on.
    pub fn stop_component(
        &self,
        project: &Project,
        live: DeploymentId,
    ) -> Result<Vec<String>, Refusal> {
        self.resumed.wait();
        let what = format!("stopping {project}");
        self.refuse_hook(project, &what)?;
        let running = self.component(project).all();
        if running.is_empty() && self.plan(project, live)?.types.is_empty() {
            return Err(no_processes(&what, live));
        }
        let root = self.setting.store.root();
        // From here on the next start does not run it, whatever else is written.
        state::write_stopped(root, project, true)?;
        if let Err(error) = state::write(root, project, &Types::new()) {
            log::warn(&error.to_string());
        }
        self.end_processes(project);
        let types = running.iter().map(|one| one.launch.kind.clone());
        Ok(types.collect())
    }

    /// Starts what the live release has and does not run, and says what runs then. It is not waited for until it is healthy.
    ///
    /// # Errors
    /// `conflict` if there is nothing that could be started, or why one of them was not: then it is as it was before.
    pub fn start_component(
        &self,
        project: &Project,
        live: DeploymentId,
    ) -> Result<Vec<ProcessStatus>, Refusal> {
        self.resumed.wait();
        let what = format!("starting {project}");
        self.refuse_hook(project, &what)?;
        let plan = self.plan(project, live)?;
        if plan.types.is_empty() {
            return Err(no_processes(&what, live));
        }
        let (root, component) = (self.setting.store.root(), self.component(project));
        let running = component.all();
        let running = running.iter();
        let before: Types = running
            .map(|one| (one.launch.kind.clone(), one.launch.release))
            .collect();
        let mut types = before.clone();
        for one in &plan.types {
            types.entry(one.name.clone()).or_insert(live);
        }
        let was_stopped = self.is_stopped(project);
        state::write(root, project, &types)?;
        state::write_stopped(root, project, false)?;
        for kind in types.keys().filter(|kind| !before.contains_key(*kind)) {
            if let Err(error) = self.resume_one(project, kind, live) {
                keep_only(&component, &before);
                let written = state::write(root, project, &before)
                    .and_then(|()| state::write_stopped(root, project, was_stopped));
                if let Err(error) = written {
                    log::error(&error.to_string());
                }
                let refusal = Refusal::from(error);
                let why = format!("{what}: {kind}: {}", refusal.message);
                return Err(Refusal::new(refusal.code, why));
            }
        }
        self.keep_sockets();
        let until = Instant::now() + START_MAX;
        component.all().iter().for_each(|one| one.started(until));
        Ok(self.snapshot().status(project))
    }

    /// What a hook restarts is started and stopped where it runs.
    fn refuse_hook(&self, project: &Project, what: &str) -> Result<(), Refusal> {
        let Some(hook) = self.hook(project) else {
            return Ok(());
        };
        let why = format!("{what}: {} decides what runs", hook.display());
        Err(Refusal::new(Code::Conflict, why))
    }
}

/// Ends the processes of all other types.
fn keep_only(component: &ComponentProcesses, types: &Types) {
    let is_kept = |one: &Arc<Process>| types.contains_key(&one.launch.kind);
    let mut gone = component.all();
    gone.retain(|one| !is_kept(one));
    stop_all(&gone);
    component.processes().retain(|_, one| is_kept(one));
    component
        .sockets()
        .retain(|kind, _| types.contains_key(kind));
}

fn no_processes(what: &str, live: DeploymentId) -> Refusal {
    let why = format!("{what}: the live release {live} has no processes");
    Refusal::new(Code::Conflict, why)
}

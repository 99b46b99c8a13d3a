//! Stopping and starting the processes of a component, without a deployment.

use crate::api::error::{Code, Refusal};
use crate::api::name::{DeploymentId, Project};
use crate::engine::deployer::Deployer;
use crate::engine::processes::ProcessStatus;
use crate::system::log;

impl Deployer {
    /// Stops what runs of a component until it is started, and says what that was.
    ///
    /// # Errors
    /// `not_found`, `busy`, `conflict` if it has no processes, or why they run on.
    pub fn stop_component(&self, project: &Project) -> Result<Vec<String>, Refusal> {
        let _hold = self.hold(project)?;
        let live = self.live(project, "stopping")?;
        let stopped = self.builder.processes.stop_component(project, live)?;
        log::info(&format!("{project} is stopped"));
        Ok(stopped)
    }

    /// Starts what the live release of a component has and does not run, and says what runs then.
    ///
    /// # Errors
    /// `not_found`, `busy`, `conflict` if it has no processes, or why they do not run.
    pub fn start_component(&self, project: &Project) -> Result<Vec<ProcessStatus>, Refusal> {
        let _hold = self.hold(project)?;
        let live = self.live(project, "starting")?;
        let started = self.builder.processes.start_component(project, live)?;
        log::info(&format!("{project} is started"));
        Ok(started)
    }

    fn live(&self, project: &Project, doing: &str) -> Result<DeploymentId, Refusal> {
        self.known.store.live(project).ok_or_else(|| {
            let why = format!("{doing} {project}: nothing of it is live");
            Refusal::new(Code::NotFound, why)
        })
    }
}

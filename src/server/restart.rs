//! `restart_component`: a deployment with the phase `restart` alone.

use crate::api::error::{Code, Refusal};
use crate::api::name::Project;
use crate::api::operation::Restart;
use crate::engine::deployer::{DeploySpec, Started};
use crate::engine::stages::Work;
use crate::server::answers::Outcome;
use crate::server::deploy::spec;
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;
use crate::server::watch;

/// Performs `restart_component`: a deployment with the phase `restart` alone.
pub(super) fn restart(
    state: &ServerState,
    project: &Project,
    restart: Restart,
    options: &RequestOptions,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    if let Some(earlier) = state.workers.earlier(project, options.key.as_deref())? {
        return watch::outcome(earlier, options);
    }
    let Some(live) = state.known.store.live(project) else {
        let why = format!("restarting {project}: nothing of it is live");
        return Err(Refusal::new(Code::NotFound, why));
    };
    let spec = DeploySpec {
        release: Some(live),
        then: None,
        restart,
        ..spec(project, options, user)
    };
    let attempt = match state.workers.begin_once(spec)? {
        Started::New(attempt) => *attempt,
        Started::Earlier(follower) => return watch::outcome(follower, options),
    };
    watch::outcome(state.workers.carry_on(attempt, Ok(Work::Restart))?, options)
}

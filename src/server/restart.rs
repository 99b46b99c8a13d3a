//! `restart_component`: a deployment with the phase `restart` alone.

use crate::api::error::Refusal;
use crate::api::name::Project;
use crate::api::operation::Restart;
use crate::server::answers::Outcome;
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;
use crate::server::watch;

/// Performs `restart_component`.
pub(super) fn restart(
    state: &ServerState,
    project: &Project,
    (restart, message): (Restart, Option<String>),
    options: &RequestOptions,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    let caller = options.caller(user);
    let follower = state.deployer.restart(project, restart, message, caller)?;
    watch::outcome(state, follower, options)
}

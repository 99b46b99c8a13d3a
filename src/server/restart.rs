//! `restart_component`: a deployment with the phase `restart` alone.

use crate::api::error::Refusal;
use crate::api::name::Project;
use crate::api::operation::{ForPeers, Restart};
use crate::engine::spec::Replication;
use crate::server::answers::Outcome;
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;
use crate::server::watch;

/// Performs `restart_component`.
pub(super) fn restart(
    state: &ServerState,
    project: &Project,
    (restart, message, peers): (Restart, Option<String>, ForPeers),
    options: &RequestOptions,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    let caller = options.caller(user);
    let replicate = peers.replicated.then_some(Replication {
        ignores: peers.ignores,
    });
    let how = (restart, message, replicate);
    let follower = state.deployer.restart(project, how, caller)?;
    watch::outcome(state, follower, options)
}

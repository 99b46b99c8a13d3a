//! `rollback_component`: an earlier release is made live again.

use crate::api::error::Refusal;
use crate::api::operation::Rollback;
use crate::server::answers::Outcome;
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;
use crate::server::watch;

/// Performs `rollback_component`.
pub(super) fn rollback(
    state: &ServerState,
    rollback: &Rollback,
    options: &RequestOptions,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    let Rollback {
        project,
        to,
        restart,
    } = rollback;
    let caller = options.caller(user);
    let follower = state.deployer.rollback(project, *to, *restart, caller)?;
    watch::outcome(state, follower, options)
}

//! `rollback_component`: an earlier release is made live again.

use crate::api::error::Refusal;
use crate::api::operation::Rollback;
use crate::engine::spec::Replication;
use crate::server::answers::Outcome;
use crate::server::auth::Caller;
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;
use crate::server::watch;

/// Performs `rollback_component`.
pub(super) fn rollback(
    state: &ServerState,
    rollback: &Rollback,
    options: &RequestOptions,
    caller: &Caller,
) -> Result<Outcome, Refusal> {
    let Rollback {
        project,
        to,
        restart,
        message,
        replicated,
        ignore_replication_errors,
    } = rollback;
    if let Some(id) = to {
        caller.may_see(&state.known.store, *id)?;
    }
    let by = options.caller(caller.name());
    let replicate = replicated.then_some(Replication {
        ignores: *ignore_replication_errors,
    });
    let how = (*restart, message.clone(), replicate);
    let follower = state.deployer.rollback(project, *to, how, by)?;
    watch::outcome(state, follower, options)
}

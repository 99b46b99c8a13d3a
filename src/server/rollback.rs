//! `rollback_component`: an earlier release is made live again.

use crate::api::error::{Code, Refusal};
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::Rollback;
use crate::api::record::Record;
use crate::engine::deployer::DeploySpec;
use crate::server::answers::Outcome;
use crate::server::deploy::{activate, release_of, spec};
use crate::server::options::RequestOptions;
use crate::server::state::ServerState;
use crate::server::watch;

/// Performs `rollback_component`.
pub(super) fn rollback(
    state: &ServerState,
    rollback: &Rollback,
    options: RequestOptions,
    user: Option<String>,
) -> Result<Outcome, Refusal> {
    let project = &rollback.project;
    let what = format!("rolling back {project}");
    if let Some(earlier) = state.workers.earlier(project, options.key.as_deref())? {
        return watch::outcome(earlier, &options);
    }
    let Some(live) = state.known.store.live(project) else {
        return Err(Refusal::new(
            Code::NotFound,
            format!("{what}: nothing of it is live"),
        ));
    };
    let release = match rollback.to {
        Some(id) => release_of(state, project, id, &what)?,
        None => before(state, project, live, &what)?,
    };
    let spec = DeploySpec {
        rollback_of: Some(live),
        restart: rollback.restart,
        ..spec(project, &options, user)
    };
    activate(state, release, spec, &options, &what)
}

/// The newest release before the live one that was live, and is still there or can be built again.
fn before(
    state: &ServerState,
    project: &Project,
    live: DeploymentId,
    what: &str,
) -> Result<Record, Refusal> {
    let store = &state.known.store;
    let mut releases: Vec<DeploymentId> = state.known.index.look(|all| {
        let of = all.values().filter(|one| {
            one.project == *project && one.status == Status::Success && one.release_id < live
        });
        of.map(|one| one.release_id).collect()
    });
    releases.sort_unstable();
    releases.dedup();
    let none = releases.is_empty();
    for id in releases.into_iter().rev() {
        if store.release(project, id).exists() || store.payload(id).exists() {
            return release_of(state, project, id, what);
        }
    }
    let why = if none {
        "no earlier release was ever live"
    } else {
        "of the earlier releases neither a tree nor a payload is left"
    };
    Err(Refusal::new(Code::NotFound, format!("{what}: {why}")))
}

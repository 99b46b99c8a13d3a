//! `get_components`: what is live, and which processes run.

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::api::event::Status;
use crate::api::name::{DeploymentId, Project};
use crate::api::record::Summary;
use crate::server::auth::Caller;
use crate::server::state::ServerState;

pub(super) fn get_components(state: &ServerState, caller: &Caller) -> Result<Value, Refusal> {
    let mut components = state.known.store.components()?;
    components.retain(|component| !caller.is_barred_from(&component.project));
    let running = state.processes.snapshot();
    let components = components.into_iter().map(|component| {
        let mut processes = running.status(&component.project);
        processes.extend(state.processes.missing(&component.project));
        json!({
            "project": component.project,
            "deployment_id": made_live(state, &component.project, component.release_id),
            "release_id": component.release_id,
            "tree": tree(state, component.release_id),
            "since": component.since,
            "processes": processes,
            "stopped": state.processes.is_stopped(&component.project),
            "releases": component.releases,
        })
    });
    Ok(json!({ "components": components.collect::<Vec<_>>() }))
}

/// The tree that a release was built from, as far as it is known.
fn tree(state: &ServerState, release: DeploymentId) -> Option<Box<str>> {
    let tree = |one: &Summary| one.tree.clone();
    state
        .known
        .index
        .look(|all| all.get(&release).and_then(tree))
}

/// The deployment that made a release the live one; the one that built it if that is not known any longer.
fn made_live(state: &ServerState, project: &Project, release: DeploymentId) -> DeploymentId {
    let is_it = |(_, one): &(&DeploymentId, &Summary)| {
        one.project == *project && one.release_id == release && one.status == Status::Success
    };
    let found = state.known.index.look(|all| {
        let newest = all.iter().rev().find(is_it);
        newest.map(|(id, _)| *id)
    });
    found.unwrap_or(release)
}

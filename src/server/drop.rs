//! `drop_component`: a component stops, and is removed with its releases; or a first deployment
//! is taken back.

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::api::name::{DeploymentId, Project};
use crate::server::state::ServerState;

/// Performs `drop_component`.
pub(super) fn drop_component(
    state: &ServerState,
    project: &Project,
    first: Option<DeploymentId>,
) -> Result<Value, Refusal> {
    match first {
        None => state.deployer.drop_component(project)?,
        Some(id) => state.deployer.undo_first(project, id)?,
    }
    Ok(json!({ "message": format!("Successfully dropped: {project}"), "project": project }))
}

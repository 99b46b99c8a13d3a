//! `stop_component`: what runs of a component ends, and stays so until it is started, or deployed with a restart.

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::api::name::Project;
use crate::server::state::ServerState;

/// Performs `stop_component`.
pub(super) fn stop_component(state: &ServerState, project: &Project) -> Result<Value, Refusal> {
    let types = state.deployer.stop_component(project)?;
    Ok(json!({
        "message": format!("Successfully stopped: {project}"),
        "project": project,
        "processes": types,
    }))
}

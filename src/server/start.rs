//! `start_component`: what the live release has and does not run is started.

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::api::name::Project;
use crate::server::state::ServerState;

/// Performs `start_component`.
pub(super) fn start_component(state: &ServerState, project: &Project) -> Result<Value, Refusal> {
    let running = state.deployer.start_component(project)?;
    Ok(json!({
        "message": format!("Successfully started: {project}"),
        "project": project,
        "processes": running,
    }))
}

//! `cancel_deployment`: the answer comes when it has ended and its component is free.

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::api::name::DeploymentId;
use crate::server::state::ServerState;

/// Performs `cancel_deployment`.
pub(super) fn cancel(state: &ServerState, id: DeploymentId) -> Result<Value, Refusal> {
    state.deployer.cancel(id)?;
    Ok(json!({
        "message": format!("Successfully cancelled: deployment {id}"),
        "deployment_id": id,
        "status": "cancelled",
    }))
}

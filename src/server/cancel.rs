//! `cancel_deployment`: the answer comes when it has ended and its component is free.

use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::event::Status;
use crate::api::name::DeploymentId;
use crate::server::state::ServerState;

/// Performs `cancel_deployment`: the answer comes when it has ended and its component is free.
pub(super) fn cancel(state: &ServerState, id: DeploymentId) -> Result<Value, Refusal> {
    state.workers.stop_one(id, Code::Cancelled)?;
    let record = state.known.store.read_record(id)?;
    if record.is_none_or(|record| record.status != Status::Cancelled) {
        let why = format!("cancelling deployment {id}: it ended by itself at the same time");
        return Err(Refusal::new(Code::Conflict, why).about(id));
    }
    Ok(json!({
        "message": format!("Successfully cancelled: deployment {id}"),
        "deployment_id": id,
        "status": "cancelled",
    }))
}

//! `get_deployment_payload` and `delete_deployment_payload`.

use serde_json::{Value, json};

use crate::api::error::{Code, Refusal};
use crate::api::name::DeploymentId;
use crate::server::answers::Outcome;
use crate::server::http::FileAnswer;
use crate::server::state::ServerState;

pub(super) fn get(state: &ServerState, id: DeploymentId) -> Result<Outcome, Refusal> {
    if state.deployer.is_running(id) {
        let why = format!("reading the payload of deployment {id}: it is still running");
        return Err(Refusal::new(Code::Conflict, why));
    }
    let (file, length, extension) = state.deployer.archive(id)?;
    let name = format!("deployment-{id}.{extension}");
    Ok(Outcome::File(Box::new(FileAnswer {
        file,
        length,
        part: None,
        name,
        hold: None,
    })))
}

pub(super) fn delete(state: &ServerState, id: DeploymentId) -> Result<Value, Refusal> {
    if state.deployer.is_running(id) {
        let why = format!("deleting the payload of deployment {id}: it is still running");
        return Err(Refusal::new(Code::Conflict, why).about(id));
    }
    let size = state.deployer.remove_payload(id)?;
    Ok(json!({
        "message": format!("Successfully deleted the payload of deployment {id}"),
        "deployment_id": id,
        "freed_bytes": size,
    }))
}

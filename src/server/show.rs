//! `get_deployment`: one deployment's record.

use serde_json::Value;

use crate::api::error::{Code, Refusal};
use crate::api::name::DeploymentId;
use crate::engine::deployer::not_found;
use crate::server::state::ServerState;

pub(super) fn get_deployment(state: &ServerState, id: DeploymentId) -> Result<Value, Refusal> {
    state.deployer.await_opening(id)?;
    let record = state.known.store.read_record(id)?;
    let record = record.ok_or_else(|| not_found(id))?;
    serde_json::to_value(record)
        .map_err(|error| Refusal::new(Code::Internal, format!("writing down a record: {error}")))
}

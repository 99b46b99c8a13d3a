//! `drop_component`: a component stops, and is removed with its releases; or a first deployment is taken back.

use serde_json::{Value, json};

use crate::api::error::Refusal;
use crate::api::operation::DropComponent;
use crate::server::state::ServerState;

/// Performs `drop_component`.
pub(super) fn drop_component(state: &ServerState, drop: &DropComponent) -> Result<Value, Refusal> {
    let project = &drop.project;
    let message = format!("Successfully dropped: {project}");
    let mut answer = json!({ "message": message, "project": project });
    match drop.first {
        Some(id) => state.deployer.undo_first(project, id)?,
        None => {
            let kept = state.deployer.drop_component(project, drop.purge)?;
            if !kept.is_empty() {
                answer["kept"] = json!(kept);
            }
        }
    }
    Ok(answer)
}
